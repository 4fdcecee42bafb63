"""A small real training loop with the signature of `jobs.training.loop.train`: descent on a parabola."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import torch

from jobs.recipe import Recipe
from jobs.runs.folder import RunFolder
from jobs.runs.starts import Start
from jobs.steps.decision import Ended
from jobs.steps.world import World
from vr_core.errors import UserError
from vr_core.files import write_json


def line(
    recipe: Recipe, run: Path, world: World, report: Callable[[dict[str, float]], None] | None = None,
    start: Start | None = None,
) -> Ended:  # fmt: skip
    """w ← w - 0.1 · mean over ranks of (w - rank); a checkpoint at every step."""
    folder = RunFolder(run)
    last = folder.pointer("last")
    step, w = 0, torch.tensor(1.0)
    if last is not None:
        saved = json.loads((last / "checkpoint.json").read_text())
        step, w = saved["step"], torch.tensor(saved["w"])
    while step < recipe.steps:
        if folder.stop_file.exists():
            return Ended("stopped")
        w = w - 0.1 * world.sum(w - world.rank) / world.size
        step += 1
        if world.rank == 0:
            _save(folder, step, float(w))
        if report is not None:
            report({"step": step, "w": float(w)})
        _misbehave(folder, recipe, step)
    return Ended("finished", {"w": float(w)})


def _save(run: RunFolder, step: int, w: float) -> None:
    target = run.checkpoints / f"step-{step:08d}"
    target.mkdir(parents=True, exist_ok=True)
    (target / "weights.safetensors").write_bytes(b"")
    write_json(target / "checkpoint.json", {"step": step, "w": w})
    (run.checkpoints / "last").write_text(target.name)
    with run.metrics_file.open("a") as file:
        file.write(json.dumps({"kind": "step", "step": step, "loss": w}) + "\n")


def _misbehave(run: RunFolder, recipe: Recipe, step: int) -> None:
    """What the recipe's seed asks for: 2: a UserError. 4: it waits at step 4 to be stopped."""
    while recipe.seed == 4 and step == 4 and not run.stop_file.exists():
        time.sleep(0.05)
    if recipe.seed == 2:
        raise UserError("data: the shard is cut short; prepare it again")


train = line
