"""One step of a recipe's model in a process of its own, which may die of it: `python -m jobs.training.memory_trial`.

Reads one JSON object from stdin: `recipe`, `bins`, `device`, `bf16`, `threads`, `items`, `held_bytes` (an item).
Exit code 0: there is enough memory.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from jobs.recipe import Recipe
from jobs.steps.gradient import mixed, total_of, weights_dtype
from jobs.training.memory import OUT_OF_MEMORY, keep_freed_memory, models_kept
from vr_core.config import validate
from vr_core.draws import Draws
from vr_core.models.registry import build
from vr_core.objectives.objective import Magnitudes, item_losses
from vr_core.objectives.registry import objective_of
from vr_core.optim import WeightAverage, adamw


def take_step(recipe: Recipe, bins: int, device: torch.device, bf16: bool, items: int) -> None:
    """Forward, backward and optimiser over noise, with everything that a run holds: gradients, moments, average.

    Raises:
        torch.OutOfMemoryError, RuntimeError: the allocator has no more.
    """
    dtype = weights_dtype(recipe)
    model = build(recipe.model, bins).to(device, dtype)
    optimiser = adamw(model, recipe.optim)
    average = WeightAverage(model, recipe.optim.ema_decay) if recipe.optim.ema_decay else None
    mixture, instrumental = torch.rand((2, items, 2, bins, recipe.batch.crop_frames), device=device, dtype=dtype)
    magnitudes = Magnitudes(mixture, instrumental)
    draws = Draws.of_items(0, range(items), device)
    objective = objective_of(recipe.objective)
    bytes_kept = models_kept(recipe) * sum(p.numel() * p.element_size() for p in model.parameters())
    kept = torch.ones(int(bytes_kept), dtype=torch.uint8, device=device)
    for _ in range(2):  # the second one has the first's moments
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed(recipe, bf16)):
            terms = item_losses(objective, model, magnitudes, draws, training=True)
        total_of(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if average is not None:
            average.update(model, 1)
    del kept


def main() -> int:
    """Take the step that stdin asks for."""
    # Of all processes of its cgroup the kernel is to end this one.
    if sys.platform == "linux":
        Path("/proc/self/oom_score_adj").write_text("1000")
    asked: dict[str, Any] = json.load(sys.stdin)
    torch.set_num_threads(int(asked["threads"]))
    recipe, device = validate(Recipe, asked["recipe"], "memory trial"), torch.device(asked["device"])
    keep_freed_memory(device)
    held = torch.ones(asked["held_bytes"] * asked["items"], dtype=torch.uint8)  # what is read ahead
    try:
        take_step(recipe, asked["bins"], device, asked["bf16"], asked["items"])
        del held
    except torch.OutOfMemoryError:
        return OUT_OF_MEMORY
    except RuntimeError as error:
        if "memory" in str(error):  # of the CPU's allocator, which has no class of its own
            return OUT_OF_MEMORY
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
