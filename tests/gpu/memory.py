"""What fits: the largest micro-batch of a RoFormer under the limits of common cards."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from jobs.planning.fits import fit
from tests.bench.models import training_step
from tests.gpu.speed import heard_by, model_of
from vr_core.specs.configurations import CONFIGURATIONS

LIMITS_GIB = (12, 24)
NAME = "bs_roformer/256x12"
MOST = 32


def micro_batches(device: torch.device) -> dict[str, Any]:
    """Largest micro-batch of crops of 8 s, under each limit, with and without recomputing; beside what we count."""
    configuration = CONFIGURATIONS[NAME]
    total_gib = torch.cuda.get_device_properties(device).total_memory / 2**30
    found: dict[str, Any] = {"total_gib": total_gib, "counted": {}}
    for limit_gib in LIMITS_GIB:
        found["counted"][f"{limit_gib} GiB"] = asdict(fit(configuration.figures, limit_gib * 2**30))
        for recompute in (False, True):
            torch.cuda.set_per_process_memory_fraction(min(1.0, limit_gib / total_gib), device)
            key = f"{limit_gib} GiB, {'recomputed' if recompute else 'kept'}"
            found[key] = largest(lambda items, again=recompute: fits(items, device, recompute=again))
    return found


def largest(fits_items: Callable[[int], bool]) -> int:
    """The largest number up to `MOST` that fits, 0 for none; what fits is taken to fit in smaller numbers too."""
    low, high = 0, MOST
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits_items(middle) else (low, middle - 1)
    return low


def fits(items: int, device: torch.device, *, recompute: bool) -> bool:
    """Whether a step of so many items ends within the process's limit."""
    configuration = CONFIGURATIONS[NAME]
    torch.cuda.empty_cache()
    try:
        model = model_of(configuration, device, recompute=recompute).train()
        training_step(model, heard_by(configuration, items, device), bf16=True)()
    except torch.OutOfMemoryError:
        return False
    return True
