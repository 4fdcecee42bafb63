"""What a run's workers find out about each other at a start, and what they do with it."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch

from dataprep.shards.dataset import Dataset
from jobs.checkpoints.format import read_newest
from jobs.runs.metrics import read_metrics
from jobs.steps.gradient import has_bf16
from jobs.steps.shares import Speed
from jobs.steps.world import World
from jobs.training.speed.kept import keep_speed, key_of
from tests.jobs import ranks
from tests.jobs.training import (
    finish,
    new_run,
    recipe_of,
    start,
)

pytestmark = pytest.mark.xdist_group("ranks")


def test_auto_chooses_how_gradients_travel_once_and_keeps_to_it(tiny_data: Path, tmp_path: Path) -> None:
    changes = {"steps": 6, "sync": "auto", "nodes.min": 2, "checkpoint.every_steps": 3}
    run = new_run(tmp_path / "run", recipe_of(tiny_data, **changes))
    finish(start(run, 2, tmp_path / "a"))
    [choice] = [m for m in read_metrics(run) if m["kind"] == "sync"]
    assert choice["plain"] > 0 < choice["bf16"]
    checkpoint = read_newest(run)[0]
    assert checkpoint.training["exchange"]["sync"] in ("plain", "bf16")
    again = new_run(tmp_path / "again", recipe_of(tiny_data, **{**changes, "steps": 9}))
    shutil.copytree(run.checkpoints, again.checkpoints)
    finish(start(again, 2, tmp_path / "b"))
    assert [m for m in read_metrics(again) if m["kind"] == "sync"] == [], "nothing is left to choose"
    assert read_newest(again)[0].training["exchange"] == checkpoint.training["exchange"]


NAMES = ("RTX 3080 Ti", "Ä" * 100)


def tell_devices(folder: Path, rank: int, world: int) -> None:
    found = World(rank, world, torch.device("cpu")).texts(NAMES[rank])
    (folder / f"told-{rank}").write_text(json.dumps(found))


def test_every_worker_learns_the_names_of_all_devices(tmp_path: Path) -> None:
    finish(ranks.group(partial(tell_devices, tmp_path), 2, tmp_path / "meet"))
    told = [json.loads((tmp_path / f"told-{rank}").read_text()) for rank in range(2)]
    assert told == [[NAMES[0], NAMES[1][:64]]] * 2, "128 bytes of each"


@pytest.mark.parametrize(("item_s", "idle"), [(1e-9, 1), (10.0, 0)])
def test_a_worker_that_costs_more_than_it_brings_is_told_where_the_run_keeps_it(
    tiny_data: Path, tmp_path: Path, item_s: float, idle: int
) -> None:
    recipe = recipe_of(tiny_data, **{"steps": 2, "workers.count": 2, "batch.micro_batch": 5})
    cpu = torch.device("cpu")
    bins = Dataset.open(tiny_data).manifest.stft.bins
    keep_speed(key_of(recipe, bins, cpu, has_bf16(cpu)) | {"threads": 1}, Speed(0, item_s, 5))
    run = new_run(tmp_path / "run", recipe)
    finish(start(run, 2, tmp_path / "meet"))
    told = [m for m in read_metrics(run) if m["kind"] == "not_worth"]
    assert [len(line["ranks"]) for line in told] == [1] * idle
    assert all(line["without_s"] < 0.9 * line["with_s"] for line in told)
