"""Hosts with unequal memory as one: what an equal split would take at once on the small one, in a LAN in a box.

Two hosts of one core; one may use little memory (its cgroup kills what takes more). Together they train a model whose
step, split in equal parts that are computed at once as the recipe asks, does not fit the small one: a process that
takes such a step there is killed. The run predicts it from two small batches, and takes its steps all the same.
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
import sys
from pathlib import Path
import torch
from jobs.recipe import Recipe
from jobs.steps.gradient import total_of
from vr_core.config import load
from vr_core.audio.sound import Sound
from vr_core.draws import Draws
from vr_core.models.registry import build
from vr_core.objectives.objective import item_losses
from vr_core.objectives.registry import objective_of
from vr_core.specs.stft import StftSpec
recipe, items, bins = load(Recipe, Path(sys.argv[1])), int(sys.argv[2]), 256
torch.set_num_threads(1)
model = build(recipe.model, bins)
mixture, instrumental = torch.rand((2, items, 2, bins, recipe.batch.crop_frames))
draws = Draws.of_items(0, range(items), torch.device("cpu"))
sounds = {"mixture": Sound(StftSpec(), mixture), "instrumental": Sound(StftSpec(), instrumental)}
terms = item_losses(objective_of(recipe.objective), model, sounds, draws, training=True)
total_of(list(terms.values())).sum().backward()
"""
"""A forward and a backward pass alone, which is less than a step."""


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
        said = [line.split(": ", 1)[1] for line in logs.splitlines() if "micro-batch reduced" in line]
        speeds = {
            name: [json.loads(file.read_text())["speed"]["micro_batch"] for file in kept.glob("*.json")]
            for name in machines
            if (kept := lan[name].home / ".local/state/vr/speeds").is_dir()
        }
        head.vr("jobs", "stop", run.name, "--out", f"{SHARED}/runs")
        equal = ITEMS // len(machines)
        tried = small.run([sys.executable, "-c", _TRY, f"{SHARED}/memory.yaml", str(equal)], code=None)
    sizes = {name: sizes[0] for name, sizes in speeds.items()}
    return {
        "ratio": equal / sizes["den"],
        "equal_split_items_at_once": equal,
        "a_process_with_the_equal_split_lives_there": tried.returncode == 0,
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
