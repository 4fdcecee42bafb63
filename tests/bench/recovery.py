"""How long a run stands still when something happens to its PCs, in a LAN in a box: three hosts of one core each.

A cable is pulled: counted from the cut to the next step of the two that are left, in parts: until the supervisor has
noticed, until all workers are there again, and until the first step has been taken, which includes reading the
checkpoint. Beside it, what Ray Train takes to start a group of two that does nothing, and, in the full form, its own
elasticity under the same events, those that it has an answer to.

The full form also does what else `tests.box.events` can do to a run.
"""

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
from tests.box.events import EVENTS, Scene, come_back
from tests.box.runs import PATIENCE_S, join, share_data, start_cluster, submit
from tests.box.soak import HUNG_AFTER_S
from tests.lan import SHARED, Host, Lan, await_true
from vr_core.config import plain, validate
from vr_core.specs.stft import StftSpec

PROMISED_S = 30.0
CHECKPOINT_STEPS = 20
CUTS = 3
"""In the full form."""
PLAIN_PATIENCE_S = 180
"""So long for a step of Ray Train's own; its workers' process group would tell of a hung one after 30 minutes."""
OTHERS = (
    "worker killed", "worker hangs", "PC drained", "PC undrained", "driver killed", "head's Ray killed", "storage away",
    "share away on one PC", "checkpoint damaged",
)  # fmt: skip


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
            "workers": {"device": "cpu", "hung_after_s": HUNG_AFTER_S},
            "nodes": plain(NodesSpec(min=1)), "log": {"tensorboard": False},
        },
        "bench",
    )  # fmt: skip


def floor_s(lan: Lan, workers: int) -> float:
    """What Ray Train alone takes from `fit` to a group whose workers have met."""
    file = lan.shared / "floor.txt"
    lan["attic"].run([sys.executable, "-m", "tests.bench.plain_train", "floor", str(workers), f"{SHARED}/{file.name}"])
    times = {line.split()[1]: float(line.split()[0]) for line in file.read_text().splitlines()}
    return times["started"] - times["fit"]


def plain_elastic_s(lan: Lan) -> dict[str, float | None]:
    """Seconds to the next step with Ray Train's own elasticity, under some of the same events.

    Three workers with a step every tenth of a second. None: no step came within `PLAIN_PATIENCE_S`.
    """
    file = lan.shared / "elastic.txt"

    def first_step(since_s: float, workers: int | None = None) -> float | None:
        """When the first step after a time ended, if one has."""
        lines = [line.split() for line in file.read_text().splitlines() if " step " in line] if file.exists() else []
        steps = [(float(line[0]), int(line[-1])) for line in lines]
        return next((at_s for at_s, of in steps if at_s > since_s and of == (workers or of)), None)

    def from_now(act: Callable[[], object], workers: int | None = None) -> float | None:
        began_s = time.time()
        act()
        # A step that was under way may still end; no start takes less than a second.
        try:
            stepped_s = await_true(lambda: first_step(began_s + 1, workers), "a step", PLAIN_PATIENCE_S)
        except AssertionError:
            return None
        return float(stepped_s - began_s)

    found = {}

    def three_at_work() -> None:
        now_s = time.time()
        await_true(lambda: first_step(now_s, 3), "a step of three workers", PATIENCE_S)

    with lan["attic"].popen(
        [sys.executable, "-m", "tests.bench.plain_train", "elastic", "3", f"{SHARED}/{file.name}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ):  # fmt: skip
        three_at_work()
        found["worker killed"] = from_now(lambda: _send(signal.SIGKILL, lan["den"], b"RayTrainWorker"))
        three_at_work()
        found["cable pulled"] = from_now(lan["den"].cut, 2)
        found["PC joins"] = from_now(lambda: come_back(lan, "den"), 3)
        three_at_work()
        found["worker hangs"] = from_now(lambda: _send(signal.SIGSTOP, lan["den"], b"RayTrainWorker"))
        _send(signal.SIGCONT, lan["den"], b"RayTrainWorker")
        three_at_work()
        found["driver killed"] = from_now(lambda: _send(signal.SIGKILL, lan["attic"], b"tests.bench.plain_train"))
    return found


def _send(what: signal.Signals, host: Host, named: bytes) -> None:
    """A signal to the one process on a host with these words in its command line."""
    [pid] = [pid for pid in host.pids() if named in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(pid, what)


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
        scene = Scene(lan, run)
        run.await_steps(2 * CHECKPOINT_STEPS)
        cuts = [EVENTS["cable pulled"](scene)]
        while not quick and len(cuts) < CUTS:
            found["pc_joins"] = EVENTS["PC back"](scene)
            cuts.append(EVENTS["cable pulled"](scene))
        if not quick:
            EVENTS["PC back"](scene)
            for event in OTHERS:
                found[event] = EVENTS[event](scene)
        writes = run.lines("checkpoint")
        head.vr("jobs", "stop", run.name, "--out", f"{SHARED}/runs")
        if not quick:
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
