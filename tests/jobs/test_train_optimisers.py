"""Runs with another optimiser than AdamW through the loop: killed and resumed, and what a user gets of them."""

from pathlib import Path

import pytest
import torch

from dataprep.shards.dataset import Dataset
from jobs.checkpoints.format import read_newest
from jobs.runs.folder import RunFolder
from tests.jobs.training import distance, here, kill_after_checkpoint, last_weights, new_run, recipe_of
from tests.jobs.training import start as start_ranks
from vr_core.config import to_yaml
from vr_core.errors import ConfigError
from vr_core.models.registry import build
from vr_core.optimisers import MAIN, mean_weights, optimisers_of

OPTIM = {
    "muon": {"optim.name": "muon"},
    "schedule_free": {"optim.name": "schedule_free", "optim.decay": "constant", "optim.ema_decay": 0},
}
LONG = {"precision": "float64", "steps": 20, "workers.shares": "equal"}


@pytest.mark.parametrize(
    ("name", "ranks", "within"),
    [("muon", 1, 1e-12), ("schedule_free", 1, 1e-12), ("schedule_free", 2, 1e-9)],  # Muon rounds to bfloat16
)
def test_killed_and_resumed_by_one_it_ends_where_an_undisturbed_run_ends(
    name: str, ranks: int, within: float, tiny_data: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(tiny_data, **LONG, **OPTIM[name])
    undisturbed = new_run(tmp_path / "undisturbed", recipe)
    here(undisturbed)
    run = new_run(tmp_path / "run", recipe)
    kill_after_checkpoint(run, start_ranks(run, ranks, tmp_path / "meeting"), 3)
    here(run)
    assert distance(last_weights(run), last_weights(undisturbed)) < within


def test_what_one_uses_of_schedule_free_is_its_mean(tiny_data: Path, tmp_path: Path) -> None:
    recipe = recipe_of(tiny_data, **OPTIM["schedule_free"])
    run = new_run(tmp_path / "run", recipe)
    here(run)
    checkpoint, _ = read_newest(run)
    model = build(recipe.model, Dataset.open(tiny_data).manifest.stft.bins)
    model.load_state_dict(checkpoint.training["model"])
    optimiser = optimisers_of(model, recipe.optim)[MAIN]
    optimiser.load_state_dict(checkpoint.training["optimiser"])
    mean = mean_weights(model, optimiser)
    assert mean.keys() == {name for name, _ in model.named_parameters()}
    for name, value in mean.items():
        assert torch.equal(checkpoint.weights[name], value)
    assert distance(checkpoint.weights, checkpoint.training["model"]) > 1e-4


def test_a_run_keeps_its_optimiser(tiny_data: Path, tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", recipe_of(tiny_data, steps=3))
    here(run)
    other = recipe_of(tiny_data, steps=6, **OPTIM["muon"])
    (run.path / "recipe.yaml").write_text(to_yaml(other))
    with pytest.raises(ConfigError, match="optim.name muon: step 3 of this run was trained with adamw"):
        here(RunFolder(run.path))
