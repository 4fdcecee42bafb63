"""Runs of the small loop in `tests.jobs.loops` on a real head."""

import shutil
from pathlib import Path

from cluster.node.head import Head
from jobs.queue.kept import require_kept
from jobs.queue.submit import keep_source, submit_next
from jobs.recipe import Recipe
from jobs.runs.creation import create_run
from jobs.runs.folder import RunFolder
from tests.jobs import loops
from vr_core.config import validate


def start_line(head: Head, out: Path, seed: int, workers: dict) -> RunFolder:
    """Submit a run of the small loop in place of the training loop: a run is the code in its folder.

    A job's name, which comes of recipe and seed, is taken for good: each run needs a seed of its own, or the like.
    """
    (out / "data").mkdir(exist_ok=True)
    recipe = {
        "name": "line",
        "data": out / "data",
        "out": out / "runs",
        "seed": seed,
        "steps": 6,
        "workers": workers,
        "optim": {"warmup_steps": 0},
    }
    run = create_run(validate(Recipe, recipe, "test"))
    keep_source(run, run.recipe())
    shutil.copy(loops.__file__, require_kept(run).source / "jobs" / "training" / "loop.py")
    submit_next(head, run)
    return run
