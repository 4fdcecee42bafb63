"""A training step under torch.compile against the same step without it, on one thread; compiling told apart.

A step is forward, backward and AdamW of 8 items of 128 frames in float32, with its dropout; the optimiser is never
compiled. Steady steps are in turns, by the CPU time of this process, which keeps freed memory as training does.
Compiling counts with its C++ compiler, into an empty cache; it is what the first step takes over a steady one.

A worker's share of a step changes while a run goes on. So the first step of 7 items, after those of 8, is measured too:
it is compiled again.
"""

import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from jobs.recipes.shipped import read_recipe
from jobs.training.speed.memory import keep_freed_memory
from tests import compilation
from tests.bench.measurement import Benchmark
from tests.bench.models import in_turns, one_thread, training_step
from vr_core.models.registry import build
from vr_core.specs.configurations import CONFIGURATIONS
from vr_core.specs.fronts import STEREO
from vr_core.specs.models import ModelSpec

ITEMS, BINS, FRAMES = 8, 1024, 128
TURNS = 5
RATIO_OF = "dense_frame_transformer"


def specs() -> dict[str, ModelSpec]:
    """Of the size of the songs recipes, by name."""
    recipes = (read_recipe(name).model for name in ("songs-finetune", "songs-unet"))
    found = [*recipes, CONFIGURATIONS["plain_stack/256x3"].model]
    return {spec.name: spec for spec in found}


def spent_s(work: Callable[[], object]) -> float:
    """CPU seconds of one turn, of this process and of those that it starts."""

    def until_now_s() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.process_time() + children.ru_utime + children.ru_stime

    began_s = until_now_s()
    work()
    return until_now_s() - began_s


def measure_one(spec: ModelSpec, *, fewer_items: bool) -> dict[str, float]:
    """CPU seconds of steady steps and of compiling, `fewer_items` for that of another number of items too."""
    torch.manual_seed(0)
    model, heard = build(spec, BINS).train(), torch.rand(ITEMS, STEREO, BINS, FRAMES)
    with tempfile.TemporaryDirectory(prefix="vr-compiled-") as cache, compilation.compiler(Path(cache)):
        net = torch.compile(model)
        steps = {"eager": training_step(model, heard), "compiled": training_step(model, heard, net)}
        first_s = spent_s(steps["compiled"])
        found = in_turns(steps, TURNS)
        found["compiling"] = first_s - found["compiled"]
        if fewer_items:
            again_s = spent_s(training_step(model, heard[:-1], net))
            found["compiling for 7 items"] = again_s - found["compiled"] * (ITEMS - 1) / ITEMS
    return found


def measure(quick: bool) -> dict[str, Any]:
    """CPU seconds, by model."""
    keep_freed_memory(torch.device("cpu"))
    with one_thread():
        found = {
            name: measure_one(spec, fewer_items=not quick)
            for name, spec in specs().items()
            if name == RATIO_OF or not quick
        }
    return {"ratio": found[RATIO_OF]["eager"] / found[RATIO_OF]["compiled"]} | {
        f"{name}, CPU s": {part: float(f"{seconds:.3g}") for part, seconds in row.items()}
        for name, row in found.items()
    }


BENCHMARK = Benchmark("core time of an eager training step over that of a compiled one, songs recipes", measure)
