"""How long a run stands still when something happens to its PCs, in a LAN in a box: three hosts of one core each.

A cable is pulled: counted from the cut to the next step of the two that are left, in parts: until the supervisor has
noticed, until all workers are there again, and until the first step has been taken, which includes reading the
checkpoint. Beside it, what Ray Train takes to start a group of two that does nothing, and, in the full form, its own
elasticity under the same cut.

The full form also kills a worker, drains a PC, lets one join, and kills the driver.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jobs.recipe import NodesSpec, Recipe
from tests.bench.measurement import Benchmark
from tests.box.runs import PATIENCE_S, Run, join, share_data, start_cluster, submit
from tests.lan import SHARED, Lan, await_true
from vr_core.config import plain, validate
from vr_core.specs import StftSpec

PROMISED_S = 30.0
CHECKPOINT_STEPS = 20
CUTS = 3
"""In the full form."""


def recipe_of(data: Path) -> Recipe:
    """A small model with steps of a tenth of a second or two on these hosts."""
    return validate(
        Recipe,
        {
            "name": "steps", "data": data, "out": f"{SHARED}/runs", "steps": 1_000_000,
            "model": {"name": "dense_frame_transformer", "width": 32, "blocks": 2, "heads": 2, "feedforward": 64},
            "batch": {"items": 24, "micro_batch": 4, "crop_frames": 64},
            "validation": {"every_steps": 1_000_000},
            "checkpoint": {"every_steps": CHECKPOINT_STEPS, "keep": 2},
            "workers": {"device": "cpu"}, "nodes": plain(NodesSpec(min=1)), "log": {"tensorboard": False},
        },
        "bench",
    )  # fmt: skip


class Watched:
    """One run, and what it did around an event."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def around(self, act: Callable[[], None], noticed: str, workers: int) -> dict[str, float]:
        """Seconds from `act` to each thing that follows it, and the steps that were computed again."""
        before = self.run.await_steps(5, time.time())[-1]["step"]
        acted_s = time.time()
        act()
        told = self.run.await_event(noticed, acted_s)
        there = self.run.await_event("all workers are there", acted_s)

        def stepped() -> dict[str, Any] | None:
            steps = (s for s in self.run.lines("step") if s["time_s"] > there["time_s"])
            return next((step for step in steps if len(step["busy_s"]) == workers), None)

        first = await_true(stepped, "the next step", PATIENCE_S)
        print(f"{noticed}: {first['time_s'] - acted_s:.1f} s", file=sys.stderr, flush=True)
        still_s = first["time_s"] - max(s["time_s"] for s in self.run.lines("step") if s["step"] < first["step"])
        return {
            "noticed_s": told["time_s"] - acted_s,
            "group_s": there["time_s"] - told["time_s"],
            "first_step_s": first["time_s"] - there["time_s"],
            "in_all_s": first["time_s"] - acted_s,
            "stood_still_s": still_s,
            "steps_again": max(0, max(before, told["step"]) + 1 - first["step"]),
        }


def floor_s(lan: Lan, workers: int) -> float:
    """What Ray Train alone takes from `fit` to a group whose workers have met."""
    file = lan.shared / "floor.txt"
    lan["attic"].run([sys.executable, "-m", "tests.bench.plain_train", "floor", str(workers), f"{SHARED}/{file.name}"])
    times = {line.split()[1]: float(line.split()[0]) for line in file.read_text().splitlines()}
    return times["started"] - times["fit"]


def plain_elastic_s(lan: Lan) -> float:
    """From the cut to the next step of the rest, with Ray Train's own elasticity."""
    file = lan.shared / "elastic.txt"
    with lan["attic"].popen(
        [sys.executable, "-m", "tests.bench.plain_train", "elastic", "3", f"{SHARED}/{file.name}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as driver:  # fmt: skip

        def steps(words: str, since_s: float = 0.0) -> list[float]:
            lines = [line.split(" ", 1) for line in file.read_text().splitlines()] if file.exists() else []
            return [float(at) for at, what in lines if words in what and float(at) > since_s]

        await_true(lambda: len(steps("of 3")) > 30, "steps of three workers", PATIENCE_S)
        cut_s = time.time()
        lan["den"].cut()
        [first_s, *_] = await_true(lambda: steps("of 2", cut_s), "a step of two workers", 300)
        driver.terminate()
    return float(first_s) - cut_s


def come_back(lan: Lan, name: str) -> None:
    """The cable is in again, and the PC joins: Ray keeps a node dead that it once called dead."""
    lan[name].mend()
    lan[name].vr("cluster", "down", "--yes")
    join(lan["attic"], lan[name])


def kill_driver(run: Run) -> None:
    """SIGKILL for the supervisor of the run's newest attempt."""
    attempt = max(int(folder.name) for folder in (run.folder / "attempts").iterdir())
    inner = json.loads((run.folder / "attempts" / str(attempt) / "driver.json").read_text())["pid"]
    [pid] = [pid for pid in run.lan["attic"].pids() if run.inner_pid(pid) == inner]
    os.kill(pid, signal.SIGKILL)


def measure(quick: bool) -> dict[str, Any]:
    """One cut, or all that may happen; the ratio is of the slowest cut."""
    found: dict[str, Any] = {}
    with Lan("attic", "study", "den") as lan:
        head = lan["attic"]
        data = share_data(lan, StftSpec(n_fft=256, hop=128))
        start_cluster(head, lan["study"], lan["den"])
        floor = floor_s(lan, 2)
        run = submit(lan, head, recipe_of(data))
        run.await_started("1.1")
        watched = Watched(run)
        run.await_steps(2 * CHECKPOINT_STEPS)
        cuts = [watched.around(lan["den"].cut, "answers no more", 2)]
        while not quick and len(cuts) < CUTS:
            joined = watched.around(lambda: come_back(lan, "den"), "den joins", 3)
            found["pc_joins"] = joined
            cuts.append(watched.around(lan["den"].cut, "answers no more", 2))
        if not quick:
            watched.around(lambda: come_back(lan, "den"), "den joins", 3)
            started = next(reversed(json.loads((run.folder / "origin.json").read_text())["machines"]))
            pids = run.worker_pids(started)
            found["worker_killed"] = watched.around(lambda: os.kill(pids["den"], signal.SIGKILL), "died", 3)
            found["pc_drained"] = watched.around(
                lambda: (head.vr("cluster", "drain", "den", "--for", "2h", "--yes"), None)[1], "is drained", 2
            )
            found["driver_killed"] = watched.around(lambda: kill_driver(run), "start 2.1: 2", 2)
        writes = run.lines("checkpoint")
        head.vr("jobs", "stop", run.name, "--out", f"{SHARED}/runs")
        if not quick:
            head.vr("cluster", "undrain", "den")
            lan["den"].vr("cluster", "down", "--yes")
            join(head, lan["den"])
            found["plain_ray_train_elastic_s"] = plain_elastic_s(lan)
    slowest = max(cuts, key=lambda cut: cut["in_all_s"])
    return {
        "ratio": PROMISED_S / slowest["in_all_s"],
        "cable_pulled": slowest,
        "cables_in_all_s": [round(cut["in_all_s"], 1) for cut in cuts],
        "ray_train_group_start_s": floor,
        "checkpoint_stopped_over_wrote": statistics.median(w["stopped_s"] / w["wrote_s"] for w in writes),
        **found,
    }


BENCHMARK = Benchmark("30 s over the seconds from a pulled cable to the next step of the two that are left", measure)
