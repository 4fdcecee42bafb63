"""Architectures in their smallest size, on a CPU: they learn, and go through the whole loop."""

from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.planning.arithmetic import arithmetic_of
from jobs.recipe import Recipe
from tests.jobs.training import here, new_run, recipe_of
from vr_core.audio.sound import Sound
from vr_core.draws import Draws
from vr_core.loading import load_model
from vr_core.models.registry import build
from vr_core.objectives.objective import item_losses
from vr_core.objectives.registry import objective_of
from vr_core.optimisers import adamw
from vr_core.specs.stft import StftSpec

STFT = StftSpec(n_fft=64, hop=32)
OWN_STFT = {"n_fft": 64, "hop": 16}
SMALLEST = {
    "unet": {"channels": 4, "levels": 2, "dropout": 0.0},
    "mmdensenet": {},
    "mmdenselstm": {},
    "seed_frame_transformer": {"blocks": 1, "heads": 2, "feedforward": 8, "crop_frames": 16, "dropout": 0.0},
    "mel_roformer": {"width": 8, "blocks": 1, "heads": 2, "head_width": 4, "mel_bands": 4, "stft": OWN_STFT},
    "cascaded_net": {"channels": 4, "lstm": 4, "dropout": 0.0},
    "cascaded_net of a file": {
        "channels": 4, "lstm": 4, "dropout": 0.0, "norm": "frozen_batch", "auxiliary": True, "phase": True,
        "stft": OWN_STFT,
    },
}  # fmt: skip


def recipe_for(model: str, data: Path) -> Recipe:
    spec: dict[str, Any] = {"name": model.partition(" ")[0]} | SMALLEST[model]
    return recipe_of(data, model=spec, steps=3, **{"optim.lr": 1e-2})


@pytest.mark.parametrize("model", ["mel_roformer", "cascaded_net", "unet", "mmdensenet", "mmdenselstm"])
def test_the_smallest_size_learns_that_low_bins_are_the_instrumental(model: str, tiny_data: Path) -> None:
    recipe = recipe_for(model, tiny_data)
    torch.manual_seed(0)
    net, front = build(recipe.model, recipe.model.front.bins_on(recipe.model.front.stft or STFT)), recipe.model.front
    mixture = torch.randn(2, 2, net.bins, 16, dtype=torch.complex64)
    low = mixture * (torch.arange(net.bins) < net.bins // 3)[:, None]
    sounds = {name: Sound(STFT, x.abs(), x) for name, x in (("mixture", mixture), ("instrumental", low))}
    optimiser, losses = adamw(net, recipe.optim), []
    for _ in range(30):
        optimiser.zero_grad()
        found = item_losses(
            objective_of(recipe.objective), net, sounds, Draws.of_items(0, range(2)), training=True, front=front
        )
        found["l1"].sum().backward()
        optimiser.step()
        losses.append(float(found["l1"].detach().sum()))
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("model", SMALLEST)
def test_the_smallest_size_goes_through_the_loop(model: str, tiny_data: Path, tmp_path: Path) -> None:
    recipe = recipe_for(model, tiny_data)
    assert arithmetic_of(recipe).item_flop > 0
    run = new_run(tmp_path / "run", recipe)
    here(run)
    net, meta = load_model(run.pointer("last") / "weights.safetensors")
    assert meta.model == recipe.model
    counts = [name for name in net.state_dict() if name.endswith("num_batches_tracked")]
    assert len(counts) == (107 if model == "cascaded_net of a file" else 0)
