"""A small real training loop with the signature of `jobs.train.train`: descent on a parabola, with checkpoints."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from jobs.errors import RunStopped
from jobs.recipe import Recipe
from jobs.runs import RunFolder
from jobs.starts import Start
from vr_core.errors import UserError
from vr_core.files import write_json


def line(
    recipe: Recipe,
    run: Path,
    *,
    rank: int,
    world: int,
    device: torch.device,
    report: Callable[[dict[str, float]], None] | None,
    start: Start | None = None,
) -> dict[str, Any]:
    """w ← w - 0.1 · mean over ranks of (w - rank); a checkpoint at every step."""
    folder = RunFolder(run)
    last = folder.pointer("last")
    step, w = 0, torch.tensor(1.0)
    if last is not None:
        saved = json.loads((last / "checkpoint.json").read_text())
        step, w = saved["step"], torch.tensor(saved["w"])
    while step < recipe.steps:
        if folder.stop_file.exists():
            raise RunStopped(f"run {folder.id} was asked to stop")
        gradient = w - rank
        if world > 1:
            dist.all_reduce(gradient)
        w = w - 0.1 * gradient / world
        step += 1
        if rank == 0:
            _save(folder, step, float(w))
        if report is not None:
            report({"step": step, "w": float(w)})
        _misbehave(folder, recipe, step)
    return {"w": float(w)}


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
