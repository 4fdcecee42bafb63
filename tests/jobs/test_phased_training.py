"""`curriculum:` and `optim.unfreeze:` in the training loop: as a plain loop in one process would have it, and exact."""

from pathlib import Path
from typing import Any

import pytest
import torch

from dataprep.batches.loader import read_batch
from dataprep.batches.order import Order
from dataprep.shards.dataset import Dataset
from jobs.checkpoints.format import read_checkpoint, read_newest
from jobs.recipe import Recipe
from jobs.runs.folder import RunFolder
from jobs.steps.gradient import ItemLosses
from jobs.training.speed.kept import kept_speeds
from tests.jobs.training import (
    curve,
    distance,
    finish,
    here,
    kill_after_checkpoint,
    last_weights,
    new_run,
    recipe_of,
    start,
)
from vr_core.models.registry import build
from vr_core.optim import learning_rate_factor, set_rates
from vr_core.optimisers import adamw

pytestmark = pytest.mark.xdist_group("ranks")

CPU = torch.device("cpu")
CHANGES: dict[str, Any] = {
    "steps": 14, "optim.ema_decay": 0, "checkpoint.every_steps": 1, "checkpoint.keep": 20, "validation.every_steps": 5,
    "curriculum": [{"until_step": 4, "crop_frames": 5}, {"until_step": 9, "crop_frames": 24}],
    "optim.freeze": ["input.*"], "optim.unfreeze": {"blocks.0.*": 9, "blocks.1.*": 6},
}  # fmt: skip


def by_hand(recipe: Recipe) -> dict[str, torch.Tensor]:
    """Every item of a step in one batch, with the crop and the trained parameters that the step has."""
    assert recipe.data is not None
    data, items = Dataset.open(recipe.data), recipe.batch.items
    torch.manual_seed(recipe.seed)
    model = build(recipe.model, data.manifest.stft.bins).double()
    optimiser = adamw(model, recipe.optim)
    losses_of = ItemLosses(recipe, CPU, bf16=False)
    for step in range(recipe.steps):
        crop_frames = 5 if step < 4 else 24 if step < 9 else recipe.batch.crop_frames
        order = Order.of(data.manifest, recipe.objective, recipe.seed, crop_frames)
        for name, parameter in model.named_parameters():
            still = (step < 9 and name.startswith("blocks.0.")) or (step < 6 and name.startswith("blocks.1."))
            parameter.requires_grad_(not still and not name.startswith("input."))
        optimiser.zero_grad()
        batch = read_batch(data, order.items(step * items, items))
        losses_of.total(model, batch, training=True).mean().backward()
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], recipe.optim.clip_norm)
        set_rates(optimiser, recipe.optim.lr, learning_rate_factor(step + 1, recipe.steps, recipe.optim))
        optimiser.step()
    return model.state_dict()


def off(run: RunFolder, wanted: dict[str, torch.Tensor]) -> float:
    model = read_newest(run)[0].training["model"]
    return distance({name: model[name] for name in wanted}, wanted)


@pytest.mark.parametrize("world", [1, 2])
def test_it_is_what_a_plain_loop_does(tiny_data: Path, tmp_path: Path, world: int) -> None:
    recipe = recipe_of(tiny_data, **CHANGES, precision="float64", **{"workers.count": world})
    run = new_run(tmp_path / "run", recipe)
    finish(start(run, world, tmp_path / "meet"))
    assert off(run, by_hand(recipe)) < 1e-12


def test_local_steps_have_phases_as_well(tiny_data: Path, tmp_path: Path) -> None:
    """A worker alone whose outer step takes all of the delta is a plain loop."""
    sync = {
        "sync": "diloco",
        "diloco": {"every_steps": 3, "behind_steps": 0, "start_step": 2, "lr": 1.0, "momentum": 0},
    }
    recipe = recipe_of(tiny_data, **CHANGES, **sync, precision="float64")
    run = new_run(tmp_path / "run", recipe)
    here(run)
    assert off(run, by_hand(recipe)) < 1e-3, "deltas travel in bfloat16"


@pytest.mark.parametrize("sync", ["plain", "diloco"])
def test_killed_within_a_phase_and_resumed_ends_bit_for_bit_where_the_undisturbed_run_ends(
    tiny_data: Path, tmp_path: Path, sync: str
) -> None:
    more = {"workers.count": 2, "workers.shares": "equal", "sync": sync, "steps": 60, "checkpoint.every_steps": 7}
    recipe = recipe_of(
        tiny_data, **{**CHANGES, **more, "diloco": {"every_steps": 4, "behind_steps": 2, "start_step": 2}}
    )
    whole, broken = (new_run(tmp_path / name, recipe) for name in ("whole", "broken"))
    finish(start(whole, 2, tmp_path / "a"))
    kill_after_checkpoint(broken, start(broken, 2, tmp_path / "b"), 7 if sync == "plain" else 8)
    finish(start(broken, 2, tmp_path / "c"))
    expected, found = last_weights(whole), last_weights(broken)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert curve(broken) == curve(whole)


def test_layers_move_from_their_step_on_and_not_before(tiny_data: Path, tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", recipe_of(tiny_data, **CHANGES))
    here(run)
    models = [read_checkpoint(run.checkpoints / f"step-{step:08d}").training["model"] for step in range(1, 15)]
    first_moved = {
        layer: next(
            (
                step
                for step in range(1, 14)
                if any(
                    not torch.equal(models[step][name], models[0][name]) for name in models[0] if name.startswith(layer)
                )
            ),
            None,
        )
        for layer in ("input.", "blocks.0.", "blocks.1.", "output.")
    }
    # models[k] is after k + 1 steps: blocks.1 is trained from the seventh step on, blocks.0 from the tenth.
    assert first_moved == {"input.": None, "blocks.0.": 9, "blocks.1.": 6, "output.": 1}


def test_each_phase_is_measured_by_itself(tiny_data: Path, tmp_path: Path) -> None:
    """So that shares and micro-batches are right from the first step of a phase on."""
    from jobs.steps.phases import phases_of

    recipe = recipe_of(tiny_data, **{**CHANGES, "steps": 10, "optim.lr": 1.1e-3, "model.width": 12})
    here(new_run(tmp_path / "run", recipe))
    bins = Dataset.open(tiny_data).manifest.stft.bins
    assert [len(kept_speeds(phase.recipe, bins)) for phase in phases_of(recipe)] == [1, 1, 1, 1]
    assert kept_speeds(recipe_of(tiny_data, **{"model.width": 12, "batch.crop_frames": 7}), bins) == {}
