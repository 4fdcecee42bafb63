"""Hosts with unequal memory as one: what an equal split would take at once on the small one, in a LAN in a box.

Two hosts of one core; one may use little memory (its cgroup kills what takes more). Together they train a model whose
step, split in equal parts that are computed at once as the recipe asks, does not fit the small one: a process that
takes such a step there is killed. The run finds out by a child process, and takes its steps all the same.
"""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from jobs.recipe import NodesSpec, Recipe
from tests.bench.measurement import Benchmark
from tests.box.runs import share_data, start_cluster, submit
from tests.lan import SHARED, Lan
from vr_core.config import plain, validate
from vr_core.specs.stft import StftSpec

ITEMS = 96
STEPS = 12
SMALL_BYTES = 1600 * 2**20
"""Of which Ray's own processes take 260 MiB."""

_TRY = """
import json, sys
from pathlib import Path
from jobs.training.memory import lives
from jobs.recipe import Recipe
from vr_core.config import load, plain
recipe = plain(load(Recipe, Path(sys.argv[1])))
request = {"recipe": recipe, "bins": 256, "device": "cpu", "bf16": False, "threads": 1, "held_bytes": 0}
print(json.dumps({items: lives(request, int(items)) for items in sys.argv[2:]}))
"""


def recipe_of(data: Path) -> Recipe:
    """A model whose items take some 15 MB each until their gradients are there."""
    return validate(
        Recipe,
        {
            "name": "memory", "data": data, "out": f"{SHARED}/runs", "steps": 100_000,
            "model": {"name": "dense_frame_transformer", "width": 64, "blocks": 2, "heads": 2, "feedforward": 128},
            "batch": {"items": ITEMS, "micro_batch": ITEMS, "crop_frames": 256},
            "validation": {"every_steps": 100_000}, "checkpoint": {"every_s": 1e6},
            "workers": {"device": "cpu"}, "nodes": plain(NodesSpec(min=2, exclude=("attic",))),
            "log": {"tensorboard": False},
        },
        "bench",
    )  # fmt: skip


def measure(quick: bool) -> dict[str, Any]:
    """One cluster, one run; `quick` makes no difference."""
    with Lan("attic", "study", "den") as lan:
        head, small = lan["attic"], lan["den"]
        data = share_data(lan, StftSpec(n_fft=512, hop=256))
        start_cluster(head, lan["study"], small)
        small.memory(SMALL_BYTES)
        recipe = recipe_of(data)
        run = submit(lan, head, recipe)
        machines = list(run.await_started("1.1"))
        steps = run.await_steps(STEPS)
        logs = head.vr("jobs", "logs", run.name, "--out", f"{SHARED}/runs")
        said = [line.split(": ", 1)[1] for line in logs.splitlines() if "items at once, not" in line]
        speeds = {
            name: [json.loads(file.read_text())["speed"]["micro_batch"] for file in kept.glob("*.json")]
            for name in machines
            if (kept := lan[name].home / ".local/state/vr/speeds").is_dir()
        }
        head.vr("jobs", "stop", run.name, "--out", f"{SHARED}/runs")
        equal = ITEMS // len(machines)
        tried = small.run([sys.executable, "-c", _TRY, f"{SHARED}/memory.yaml", str(equal)])
        lived = json.loads(tried.stdout)
    sizes = {name: sizes[0] for name, sizes in speeds.items()}
    return {
        "ratio": equal / sizes["den"],
        "equal_split_items_at_once": equal,
        "a_process_with_the_equal_split_lives_there": lived[str(equal)],
        "items_at_once": sizes,
        "shares": steps[-1]["shares"],
        "machines": machines,
        "steps": len(steps),
        "step_s": statistics.median(step["step_s"] for step in steps[2:]),
        "limit_mib": SMALL_BYTES // 2**20,
        "said": said[:1],
    }


BENCHMARK = Benchmark(
    "items that the equal split would compute at once on the small host over what the run computes there", measure
)
