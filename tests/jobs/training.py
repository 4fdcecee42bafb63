"""Small real training runs: a recipe of a few thousand weights, ranks that are started and killed, what runs leave."""

import json
import math
import os
import time
from pathlib import Path
from typing import Any

import torch

from dataprep.shards.cache import ShardCache
from dataprep.shards.dataset import Dataset
from jobs.checkpoints.format import read_newest
from jobs.recipe import Recipe
from jobs.runs.folder import RunFolder
from jobs.runs.metrics import read_metrics
from jobs.steps.decision import Ended
from jobs.steps.world import World
from jobs.training.loop import train
from tests.jobs import ranks
from vr_core.config import override, plain, validate

TINY: dict[str, Any] = {
    "name": "tiny",
    "steps": 12,
    "model": {
        "name": "dense_frame_transformer", "width": 16, "blocks": 2, "heads": 2, "feedforward": 16, "dropout": 0.1,
    },
    "objective": {"name": "separate"},
    "batch": {"items": 5, "micro_batch": 2, "crop_frames": 16},
    "optim": {"lr": 3e-3, "warmup_steps": 2},
    "validation": {"every_steps": 6, "items": 4},
    "checkpoint": {"every_steps": 3, "every_s": 1e6, "keep": 9},
    "log": {"tensorboard": False},
}  # fmt: skip

ROFORMER = {
    "model": {"name": "bs_roformer", "width": 8, "blocks": 1, "heads": 2, "head_width": 4, "dropout": 0.1,
              "stft": {"n_fft": 64, "hop": 16}},
    "objective": {"name": "separate", "mask": "complex", "loss": "spectrum", "stems": ["vocals", "instrumental"]},
    "precision": "float64", "steps": 20, "workers.shares": "equal", "batch.crop_frames": 16, "optim.lr": 1e-3,
}  # fmt: skip
"""Over `TINY`: a BS-RoFormer in float64, cut alike however many ranks there are."""


def recipe_of(data: Path, **changes: Any) -> Recipe:
    return validate(Recipe, override({**TINY, "data": str(data)}, changes), "test")


def new_run(path: Path, recipe: Recipe) -> RunFolder:
    path.mkdir()
    (path / "recipe.yaml").write_text(json.dumps(plain(recipe)))
    return RunFolder(path)


def staged(data: Path, cache: Path) -> Dataset:
    return Dataset.open(data, ShardCache(cache, 10**9))


def here(run: RunFolder, **options: Any) -> Ended:
    return train(run.recipe(), run.path, World.alone(torch.device("cpu")), **options)


def start(run: RunFolder, world: int, meeting: Path, *, own_disks: bool = False) -> list[ranks.Rank]:
    return ranks.start(run.path, world, meeting, own_disks)


def finish(workers: list[ranks.Rank]) -> None:
    assert [worker.wait() for worker in workers] == [0] * len(workers)


def kill_after_checkpoint(run: RunFolder, workers: list[ranks.Rank], step: int) -> None:
    """SIGKILL once a checkpoint of `step` is there: somewhere within the steps after it."""
    deadline = time.monotonic() + 120
    while not (run.checkpoints / f"step-{step:08d}").exists():
        assert time.monotonic() < deadline
        assert all(worker.poll() is None for worker in workers), "ended before it could be killed"
        os.sched_yield()
    for worker in workers:
        worker.kill()


def last_weights(run: RunFolder) -> dict[str, torch.Tensor]:
    checkpoint, problems = read_newest(run)
    assert problems == []
    assert checkpoint.row.step == run.recipe().steps
    return {**checkpoint.weights, **{f"raw.{k}": v for k, v in checkpoint.training["model"].items()}}


def curve(run: RunFolder) -> list[tuple[str, int, float]]:
    """Every loss that was told, in order."""
    return [(m["kind"], m["step"], m["loss"]) for m in read_metrics(run) if "loss" in m]


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Relative distance of all weights as one vector."""
    difference = math.sqrt(sum(((a[k] - b[k]).double() ** 2).sum().item() for k in a))
    return difference / math.sqrt(sum((b[k].double() ** 2).sum().item() for k in b))
