"""How many items a worker can compute at once in the memory that it may use.

A GPU's driver says when there is too little; a CPU process that takes too much is killed, by its cgroup or by the
kernel. So what is not certain is tried in a child process, which may die (`jobs.training.memory_trial`), and the worker
goes on with less.

On a CPU two small batches in the worker itself say what an item takes; only where the wanted size would come near the
budget is there a child. The budget is the least of what the inventory says, the process's own cgroup (version 1 or 2)
and the machine has left.
"""

import contextlib
import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from jobs.recipe import Recipe

if TYPE_CHECKING:
    import torch

MARGIN = 0.9
"""Of the budget that may be used: allocators round up, and other processes breathe."""
CERTAIN = 0.5
"""A prediction below this part of the budget needs no trial."""
SMALLER = 0.75
"""After a death, so much of the size is tried."""
TRIAL_S = 300.0
_CGROUPS = Path("/sys/fs/cgroup")
_UNLIMITED_BYTES = 1 << 60


def models_kept(recipe: Recipe) -> float:
    """How many times the model's size the recipe's ways of exchanging keep on a worker's device.

    DiLoCo: the agreed weights, their momentum, the worker's own of when its delta was taken, and that delta, which is
    half as large.
    """
    return 3.5 if "diloco" in recipe.sync_choices else 0.0


def predicted_bytes(first_bytes: int, second_bytes: int, items: int) -> int:
    """Peak of a process at `items` at once, from its peaks at one and at two.

    A straight line: what layers save for the backward pass grows with the items, weights and optimiser do not.
    """
    return first_bytes + max(0, second_bytes - first_bytes) * (items - 1)


def largest(first_bytes: int, second_bytes: int, budget_bytes: int, most: int) -> int:
    """Items, at least one and at most `most`, whose predicted peak keeps within the margin of the budget."""
    an_item = max(1, second_bytes - first_bytes)
    return max(1, min(most, 1 + int((MARGIN * budget_bytes - first_bytes) // an_item)))


def fitting_on_gpu(most: int, tried: Callable[[int], bool]) -> tuple[int, str]:
    """As `fitting`, where nothing but a trial says what fits."""
    size = _living(most, tried)
    return size, "" if size == most else f"computes {size} items at once, not {most}: its GPU has no memory for more"


def fitting(
    most: int, peaks: Callable[[], tuple[int, int]], budget_bytes: int, tried: Callable[[int], bool]
) -> tuple[int, str]:
    """The largest micro-batch up to `most` that fits, and a line where it is not `most`.

    Args:
        most: what the recipe wants.
        peaks: the process's peaks with one item and with two.
        budget_bytes: what it may take.
        tried: whether a child process that computes so many at once lives.
    """
    if most == 1:
        return 1, ""
    first_bytes, second_bytes = peaks()
    if predicted_bytes(first_bytes, second_bytes, most) <= CERTAIN * budget_bytes:
        return most, ""
    size = _living(largest(first_bytes, second_bytes, budget_bytes, most), tried)
    if size == most:
        return most, ""
    budget_gib = budget_bytes / 2**30
    return size, f"computes {size} items at once, not {most}: it may take {budget_gib:.1f} GiB of memory"


def budget_bytes(inventory_gib: float | None = None, root: Path = _CGROUPS, process: str = "self") -> int:
    """What this process may take in all, itself included: the least of inventory, cgroups and what is left here."""
    own_bytes = psutil.Process().memory_info().rss
    limits = [own_bytes + psutil.virtual_memory().available]
    if inventory_gib is not None:
        limits.append(int(inventory_gib * 2**30))
    for limit_bytes, used_bytes in cgroup_limits(root, Path(f"/proc/{process}/cgroup")):
        limits.append(limit_bytes - max(0, used_bytes - own_bytes))
    return max(0, min(limits))


def cgroup_limits(root: Path, told: Path) -> Iterator[tuple[int, int]]:
    """(limit, used without what the kernel would give back), in bytes, of each limited cgroup that a process is in."""
    try:
        lines = told.read_text(encoding="utf-8").splitlines()
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
    """Let `peak_bytes` begin anew, where the system has such a thing."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """Largest memory of this process since `forget_peak`; 0 where the system does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return 0


def lives(request: dict[str, Any], items: int) -> bool:
    """Whether a child process that takes one step of `items` items at once comes to its end.

    Args:
        request: of `jobs.training.memory_trial`, without `items`.
        items: at once.
    """
    command = [sys.executable, "-m", "jobs.training.memory_trial"]
    try:
        done = subprocess.run(
            command,
            input=json.dumps({**request, "items": items}),
            text=True,
            capture_output=True,
            timeout=TRIAL_S,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
    except subprocess.TimeoutExpired:
        return False
    if done.returncode not in (0, OUT_OF_MEMORY) and done.returncode >= 0:
        # A mistake of ours, not of the size: the step itself will say it.
        told = done.stderr.strip().rpartition("\n")[2]
        print(f"what fits could not be tried, so the recipe's size is taken: {told}", file=sys.stderr, flush=True)
        return True
    return done.returncode == 0


OUT_OF_MEMORY = 12
"""Exit code of a trial that was told so by the allocator; one that is killed has the signal's."""


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


def _living(size: int, tried: Callable[[int], bool]) -> int:
    """The first size from there downwards that is tried and lives; one item is not tried."""
    while size > 1 and not tried(size):
        size = max(1, int(size * SMALLER))
    return size


def _statistic(file: Path, name: str) -> int:
    for line in file.read_text().splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0
