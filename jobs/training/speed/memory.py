"""How many items a worker can compute at once in the memory that it may use: its micro-batch.

A GPU's allocator raises where there is too little, so sizes are tried in the worker itself, from the recipe's
downwards, before the first step. A CPU process that takes too much is killed, by its cgroup or by the kernel, so
nothing is tried there: peaks of one item and of two say what an item takes, and the line through them must keep within
the budget. The budget is the least of what the inventory says, the process's own cgroup (version 1 or 2) and what the
machine has left.

Where a prediction was wrong all the same and the worker dies before its first step, the next start takes less
(`measure.py`).
"""

import contextlib
import ctypes
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from jobs.recipe import Recipe

if TYPE_CHECKING:
    import torch

CERTAIN = 0.5
"""A prediction above this part of the budget may be wrong: the next start takes less where this one dies of it."""
MARGIN = 0.9
"""Of the budget that may be used: allocators round up, and other processes breathe."""
SMALLER = 0.75
"""So much of a size that was too large is tried next."""
_CGROUPS = Path("/sys/fs/cgroup")
_UNLIMITED_BYTES = 1 << 60


def models_kept(recipe: Recipe) -> float:
    """How many times the model's size the recipe's ways of exchanging keep on a worker's device.

    DiLoCo: the agreed weights, their momentum, the worker's own of when its delta was taken, and that delta, which is
    half as large.
    """
    return 3.5 if "diloco" in recipe.sync_choices else 0.0


def largest(first_bytes: int, second_bytes: int, budget_bytes: int, most: int) -> int:
    """Items, at least one and at most `most`, whose predicted peak keeps within the margin of the budget.

    The prediction is a straight line through the peaks at one item and at two: what layers save for the backward pass
    grows with the items, weights and optimiser do not.
    """
    an_item = max(1, second_bytes - first_bytes)
    return max(1, min(most, 1 + int((MARGIN * budget_bytes - first_bytes) // an_item)))


def too_large(recipe: Recipe, device: str) -> str:
    """What to say where `device` has no memory for a single item: what would need less."""
    frames = recipe.batch.crop_frames
    ways = [f"shorter crops (batch.crop_frames={max(1, frames // 2)})"]
    if getattr(recipe.model, "recompute", None) is False:
        ways.append("model.recompute=true")
    if recipe.lora is None and recipe.init is not None and hasattr(recipe.model, "heads"):
        ways.append("'lora={rank: 8}'")
    return f"one item of {frames} frames does not fit the memory of {device}; try {' or '.join(ways)}"


@dataclass(frozen=True)
class Fit:
    """What fits into a worker's memory."""

    micro_batch: int
    is_tight: bool
    """More would not fit, or even this may turn out to be too much."""
    reason: str = ""
    """For the user, where it is not what the recipe wants."""


def fitting_on_gpu(most: int, fits: Callable[[int], bool]) -> Fit:
    """The first micro-batch from `most` downwards that `fits`; 1 is not tried."""
    size = most
    while size > 1 and not fits(size):
        size = max(1, int(size * SMALLER))
    reason = "" if size == most else f"micro-batch reduced from {most} to {size}: the GPU has no memory for more"
    return Fit(size, size < most, reason)


def fitting(most: int, peaks: Callable[[], tuple[int, int]], budget_bytes: int) -> Fit:
    """The largest micro-batch up to `most` that is predicted to fit.

    Args:
        most: what the recipe wants.
        peaks: the process's peaks with one item and with two.
        budget_bytes: what it may take.
    """
    if most == 1:
        return Fit(1, is_tight=False)
    first_bytes, second_bytes = peaks()
    size = largest(first_bytes, second_bytes, budget_bytes, most)
    predicted_bytes = first_bytes + max(0, second_bytes - first_bytes) * (size - 1)
    limit_gib = budget_bytes / 2**30
    reason = "" if size == most else f"micro-batch reduced from {most} to {size}: memory limit {limit_gib:.1f} GiB"
    return Fit(size, size < most or predicted_bytes > CERTAIN * budget_bytes, reason)


def budget_bytes(inventory_gib: float | None = None, root: Path = _CGROUPS, process: str = "self") -> int:
    """What this process may take in all, itself included: the least of inventory, cgroups and what is left here."""
    own_bytes = psutil.Process().memory_info().rss
    limits = [own_bytes + psutil.virtual_memory().available]
    if inventory_gib is not None:
        limits.append(int(inventory_gib * 2**30))
    for limit_bytes, used_bytes in cgroup_limits(root, Path(f"/proc/{process}/cgroup")):
        limits.append(limit_bytes - max(0, used_bytes - own_bytes))
    return max(0, min(limits))


def cgroup_limits(root: Path, reported: Path) -> Iterator[tuple[int, int]]:
    """(limit, used without what the kernel would give back), in bytes, of each limited cgroup that a process is in."""
    try:
        lines = reported.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            place, limit_name, used_name, given_back = root, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            place, limit_name = root / "memory", "memory.limit_in_bytes"
            used_name, given_back = "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        folder = place / path.lstrip("/")
        # A container's process may name a path of the machine outside, which is not there.
        for group in (folder, *folder.parents) if folder.is_dir() else (place,):
            with contextlib.suppress(OSError, ValueError):
                limit_bytes = int((group / limit_name).read_text())
                if limit_bytes < _UNLIMITED_BYTES:
                    used = int((group / used_name).read_text()) - _statistic(group / "memory.stat", given_back)
                    yield limit_bytes, used
            if group == place:
                break


def forget_peak() -> None:
    """Let `peak_bytes` begin anew, where the system has such a thing.

    What was freed goes back to the system first: two peaks below an earlier one would show nothing.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """Largest memory of this process since `forget_peak`; 0 where the system does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return 0


def keep_freed_memory(device: "torch.device") -> None:
    """Keep freed memory in this process, where it computes on the CPU.

    glibc returns blocks over 32 MiB at once, and the page faults of a step then cost as much as its arithmetic
    (measured: 2.0 s against 0.55 s for 16 × 256 frames of the plain stack on 2 cores).
    """
    if device.type == "cpu" and sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
            libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def _statistic(file: Path, name: str) -> int:
    for line in file.read_text().splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0
