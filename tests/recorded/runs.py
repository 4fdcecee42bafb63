"""Six short runs in float64: their losses and weights stay what they are while the code under them is changed.

    python -m tests.recorded.runs FOLDER [DATA]     trains them with the code of this tree; half a minute on two cores
    python -m tests.recorded.compare                the code that `before/` was recorded with and this one, bit for bit

Nothing in them is measured: the speeds of the workers, and with them shares and micro-batches, are given. So two trees
that compute the same give the same bits on one machine, and on two machines the same but for rounding in float64.
"""

import json
import math
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from dataprep.audio.tracks import find_tracks
from dataprep.preparing.prepare import PrepareSettings, prepare
from dataprep.shards.manifest import FILE
from dataprep.shards.splits import parse_split
from jobs.recipe import Recipe
from jobs.runs.folder import RunFolder
from jobs.runs.metrics import read_metrics
from jobs.steps.shares import Speed
from tests.jobs import ranks
from tests.jobs.training import kill_after_checkpoint, last_weights, new_run
from vr_core.config import load, override, validate
from vr_core.specs.stft import StftSpec

RATE_HZ = 44_100
STFT = StftSpec(n_fft=64, hop=32)
SMALL: dict[str, Any] = {
    "name": "recorded",
    "steps": 7,
    "precision": "float64",
    "model": {
        "name": "dense_frame_transformer", "width": 4, "blocks": 1, "heads": 2, "feedforward": 4, "dropout": 0.1,
    },
    "objective": {"name": "separate"},
    "batch": {"items": 6, "micro_batch": 2, "crop_frames": 16},
    "optim": {"lr": 3e-3, "warmup_steps": 2},
    "validation": {"every_steps": 3, "items": 4},
    "checkpoint": {"every_steps": 3, "every_s": 1e6, "keep": 9},
    "log": {"tensorboard": False},
}  # fmt: skip
SPEEDS = (Speed(fixed_s=0.0, item_s=0.01, micro_batch=2), Speed(fixed_s=0.0, item_s=0.02, micro_batch=1))
"""Of rank 0 and rank 1: four and two of six items, in micro-batches of two and of one."""
SAME_EVERYWHERE = {"ATEN_CPU_CAPABILITY": "default"}
"""Spectrograms are widened in float32, and kernels for AVX2 and AVX-512 round that otherwise. These are for any CPU."""
TOLD = ("kind", "step", "loss", "grad_norm", "lr", "shares")
"""Of a line of metrics: what does not depend on the time."""


@dataclass(frozen=True)
class Recorded:
    """One run: what its recipe changes, by how many workers, and after which checkpoint it is killed once."""

    world: int = 1
    killed_after: int | None = None
    changes: dict[str, Any] = field(default_factory=dict)


_TWO: dict[str, Any] = {"workers.count": 2}
RUNS = {
    "one": Recorded(),
    "uneven": Recorded(world=2, changes=_TWO),
    "diloco": Recorded(
        world=2,
        changes={
            **_TWO,
            "steps": 14,
            "workers.shares": "equal",
            "sync": "diloco",
            "diloco": {"every_steps": 4, "behind_steps": 2, "start_step": 4},
        },
    ),  # fmt: skip
    "bf16": Recorded(world=2, changes={**_TWO, "sync": "bf16"}),
    "resumed": Recorded(world=2, killed_after=3, changes={**_TWO, "steps": 12, "workers.shares": "equal"}),
    "masked": Recorded(changes={"objective.name": "masked_frames"}),
}


def make_data(folder: Path) -> Path:
    """Four songs of half a second, a tone under a noise, as a data set of 32 bins that names no place of this PC."""
    rng = np.random.default_rng(0)
    time_s = np.arange(RATE_HZ // 2) / RATE_HZ
    for number in range(1, 5):
        song = folder / "songs" / f"song{number}"
        song.mkdir(parents=True)
        tone = np.sin(2 * np.pi * 110 * number * time_s)[:, None] * [0.3, 0.2]
        soundfile.write(song / "instrumental.wav", tone, RATE_HZ)
        soundfile.write(song / "vocals.wav", 0.1 * rng.standard_normal((len(time_s), 2)), RATE_HZ)
    tracks, settings = find_tracks([folder / "songs"]).tracks, PrepareSettings(stft=STFT, workers=1)
    prepare(tracks, folder / "data", settings, split=parse_split("valid=0.25,test=0.25"))
    manifest = folder / "data" / FILE
    manifest.write_text(manifest.read_text().replace(str(folder), "/music"))
    return folder / "data"


def recipe_of(data: Path, what: Recorded) -> Recipe:
    """The recipe of a recorded run over the data set in `data`."""
    return validate(Recipe, override({**SMALL, "data": str(data)}, what.changes), "recorded")


def train_all(data: Path, folder: Path) -> dict[str, RunFolder]:
    """Train all of `RUNS`, each in a folder of its name."""
    trained = {}
    for name, what in RUNS.items():
        run = trained[name] = new_run(folder / name, recipe_of(data, what))
        if what.killed_after is not None:
            kill_after_checkpoint(run, _start(run, what, folder / f"{name}-meeting-1"), what.killed_after)
        ended = [rank.wait() for rank in _start(run, what, folder / f"{name}-meeting-2")]
        assert ended == [0] * what.world, f"{name}: {ended}"
    return trained


def curve(run: RunFolder) -> list[dict[str, Any]]:
    """Steps and validations of a run, as far as they do not depend on the time."""
    lines = [line for line in read_metrics(run) if line["kind"] in ("step", "validation")]
    return [{name: line[name] for name in TOLD if name in line} for line in lines]


def write(trained: dict[str, RunFolder], folder: Path) -> None:
    """Losses as JSON and weights (the average's, and the model's own as `raw.`) as safetensors, a file each per run."""
    from safetensors.torch import save_file

    for name, run in trained.items():
        (folder / f"{name}.json").write_text(json.dumps(curve(run), indent=0) + "\n")
        save_file({key: value.contiguous() for key, value in last_weights(run).items()}, folder / f"{name}.safetensors")


def _start(run: RunFolder, what: Recorded, meeting: Path) -> list[ranks.Rank]:
    return ranks.group(partial(train_rank, run.path), what.world, meeting)


def train_rank(run: Path, rank: int, world: int) -> None:
    """Train as one rank, on a PC of its own that has measured its speed already."""
    os.environ |= SAME_EVERYWHERE
    import torch

    assert torch.backends.cpu.get_cpu_capability() == "DEFAULT", "torch has chosen its kernels already"

    from dataprep.shards.manifest import read_manifest
    from jobs.steps.world import World
    from jobs.training.loop import train
    from jobs.training.speed.kept import keep_speed, key_of

    os.environ["XDG_STATE_HOME"] = str(run.parent / f"state-{rank}")
    recipe, cpu = load(Recipe, run / "recipe.yaml"), torch.device("cpu")
    assert recipe.data is not None
    keep_speed(key_of(recipe, read_manifest(recipe.data).stft.bins, cpu, False), SPEEDS[rank])
    train(recipe, run, World(rank, world, cpu))


def relative_difference(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> float:
    """The largest of two curves' numbers; infinity where they are not of the same lines."""
    if [[*line] for line in a] != [[*line] for line in b]:
        return math.inf
    largest = 0.0
    for one, other in zip(a, b, strict=True):
        for name in one:
            if isinstance(one[name], float):
                largest = max(largest, abs(one[name] - other[name]) / max(abs(one[name]), 1e-300))
            elif one[name] != other[name]:
                return math.inf
    return largest


def main(folder: Path, data: Path | None = None) -> None:
    """Write losses and weights of each run into `folder`; the data set first, where none is given."""
    folder.mkdir(parents=True)
    try:
        with tempfile.TemporaryDirectory() as work:
            data = data or shutil.copytree(make_data(Path(work)), folder / "data")
            write(train_all(data.absolute(), Path(work)), folder)
    finally:
        ranks.end_fork_server()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
