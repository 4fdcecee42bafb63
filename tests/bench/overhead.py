"""What a step costs besides computing: order, shares, what the workers tell each other, metrics.

One process carries out what every rank does in a step, for worlds of 2 to 64 with simulated clocks; the exchange of the
told numbers is a real one between as many processes as this machine has cores. The step that it is held against is
that of 8,192 frames a card on an RTX 3090 Ti, 0.22 s.
"""

import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dataprep.audio.tracks import find_tracks
from dataprep.batches.loader import TAKEN_AHEAD
from dataprep.batches.locality import StepCut, shard_names
from dataprep.batches.order import Order
from dataprep.preparing.prepare import PrepareSettings, prepare
from dataprep.shards.manifest import Manifest
from dataprep.synth.songs import write_songs
from jobs.runs.folder import RunFolder
from jobs.runs.metrics import MetricsLog
from jobs.runs.starts import begin_start
from jobs.steps.shares import Pace, Speed
from tests.bench.measurement import Benchmark
from vr_core.specs.objectives import SeparateSpec
from vr_core.specs.stft import StftSpec

WORLDS = (2, 4, 8, 16, 32, 64)
ITEMS_A_CARD, CROP_FRAMES = 16, 512
STEP_S = 0.223
"""16,384 frames take 0.446 s at 40 % of the card's bfloat16 rate."""
STEPS, STEPS_QUICK = 300, 100
ALLOWED = 0.01

_TELL = """
import sys, time, torch
import torch.distributed as dist
rank, world, told, file = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=world)
took = []
for _ in range(300):
    began = time.perf_counter()
    dist.all_reduce(torch.zeros(told, dtype=torch.float64))
    took.append(time.perf_counter() - began)
if rank == 0:
    print(sorted(took)[len(took) // 2])
dist.destroy_process_group()
"""


def told_s(numbers: int, folder: Path) -> float:
    """Median seconds of the exchange of so many numbers among processes here."""
    world = len(os.sched_getaffinity(0))
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", _TELL, str(rank), str(world), str(numbers), str(folder / f"meet-{numbers}")],
            stdout=subprocess.PIPE, text=True,
        )
        for rank in range(world)
    ]  # fmt: skip
    said = [rank.communicate(timeout=120)[0] for rank in ranks]
    return float(said[0])


def bookkeeping_s(world: int, manifest: Manifest, folder: Path, steps: int, local: bool) -> dict[str, float]:
    """Median seconds a step of each part, of one rank."""
    items = ITEMS_A_CARD * world
    order = Order.of(manifest, SeparateSpec(), seed=0, crop_frames=CROP_FRAMES)
    names = shard_names(manifest)
    on_own_disk = np.array([[not local or i % world == rank for i in range(len(names))] for rank in range(world)])
    cut = StepCut(order, manifest, on_own_disk)
    chance = random.Random(0)
    true_s = [chance.uniform(0.5, 2) for _ in range(world)]
    pace = Pace([Speed(0.1, s, 4) for s in true_s], items, 0, TAKEN_AHEAD + 1)
    run = RunFolder(folder / f"run-{world}-{local}")
    run.path.mkdir()
    parts: dict[str, list[float]] = {"order": [], "shares": [], "metrics": []}

    def timed(part: str, work: Callable[[], Any]) -> Any:
        began_s = time.perf_counter()
        result = work()
        parts[part].append(time.perf_counter() - began_s)
        return result

    with MetricsLog(run, begin_start(run), 0, tensorboard=False) as metrics:
        for step in range(steps):
            shares = pace.shares(step)
            timed("order", lambda s=step, n=shares: cut.items_of(s, 0, n))  # type: ignore[misc]
            busy = [share * s * chance.uniform(0.95, 1.05) for share, s in zip(shares, true_s, strict=True)]
            timed("shares", lambda s=step, b=busy: (pace.pieces(s, 0), pace.observe(s, b)))  # type: ignore[misc]
            values = {"loss": 1.0, "lr": 1e-3, "grad_norm": 1.0, "items_per_s": 1.0, "data_wait": 0.0, "step_s": 1.0}
            timed(
                "metrics",
                lambda s=step, n=shares, b=busy, v=values: metrics.write("step", s, busy_s=b, shares=list(n), **v),  # type: ignore[misc]
            )
    return {part: statistics.fmean(seconds) for part, seconds in parts.items()}


def measure(quick: bool) -> dict[str, Any]:
    """A world of eight; in the full form all, and with shards on the workers' own disks as well."""
    steps = STEPS_QUICK if quick else STEPS
    table: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="vr-bench-", dir="/var/tmp") as scratch:
        folder = Path(scratch)
        list(write_songs(folder / "songs", songs=8, seconds=30.0))
        settings = PrepareSettings(stft=StftSpec(n_fft=256, hop=128), shard_bytes=1)
        manifest = prepare(find_tracks([folder / "songs"]).tracks, folder / "data", settings).manifest
        for world in (8,) if quick else WORLDS:
            for local in (False,) if quick else (False, True):
                parts = bookkeeping_s(world, manifest, folder, steps, local)
                parts["told"] = told_s(4 + world, folder / f"run-{world}-{local}")
                name = f"{world}{' own disks' if local else ''}"
                table[name] = {part: round(1e6 * seconds, 1) for part, seconds in parts.items()}
    eight_s = sum(table["8"].values()) / 1e6
    return {
        "ratio": ALLOWED / (eight_s / STEP_S),
        "of_a_step_at_8": eight_s / STEP_S,
        "step_s": STEP_S,
        "items_a_card": ITEMS_A_CARD,
        "us_a_step_by_world": table,
    }


BENCHMARK = Benchmark("1 % over the part of a step that bookkeeping takes in a world of eight", measure)
