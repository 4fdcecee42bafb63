"""How fast this device computes this recipe's items: measured with the real model, up to what fits its memory."""

import contextlib
import functools
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from cluster.node.head import this_member
from dataprep.batches.loader import BUFFERS, CodedBatch, read_batch
from dataprep.batches.order import Order
from dataprep.shards.dataset import Dataset
from jobs.errors import ItemTooLarge
from jobs.recipe import Recipe
from jobs.steps.gradient import ItemLosses
from jobs.steps.shares import Speed
from jobs.steps.world import World
from jobs.training.speed.kept import SpeedRow, keep_or_note, kept_row, note_begin, note_end
from jobs.training.speed.memory import (
    SMALLER,
    Fit,
    budget_bytes,
    fitting,
    fitting_on_gpu,
    forget_peak,
    peak_bytes,
    too_large,
)

ROUNDS, ROUND_S = 3, 0.1
"""Each size is computed in so many turns, for at least so long and at least once; before them once, not counted."""


def measure_speed(
    compute: Callable[[int], None],
    micro_batch: int,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> Speed:
    """Time `compute(items)`, forward and backward, at several sizes up to `micro_batch` and fit a line.

    The sizes take turns, back and forth: a device that gets slower or faster meanwhile does so for all of them, and
    the line through them is its own.

    Returns:
        A speed whose fixed part is not negative and whose items cost something.
    """
    sizes = sorted({1, max(1, micro_batch // 2), micro_batch})
    for size in sizes:
        compute(size)  # fills caches
    took_s: dict[int, list[float]] = {size: [] for size in sizes}
    for turn in range(ROUNDS):
        for size in sizes if turn % 2 == 0 else reversed(sizes):
            took_s[size] += _seconds(functools.partial(compute, size), device, clock)
    fixed_s, item_s = line(sizes, [statistics.median(took_s[size]) for size in sizes])
    return Speed(fixed_s, item_s, micro_batch)


def line(sizes: Sequence[int], times_s: Sequence[float]) -> tuple[float, float]:
    """Fixed part and slope of times over sizes, by least squares of the relative error.

    Noise can make the slope too steep for a fixed part above zero, or flat: the fixed part is 0 then, or the largest
    size says what an item costs.
    """
    if len(sizes) == 1:
        return 0.0, times_s[0] / sizes[0]
    at, took = np.array(sizes, float), np.array(times_s)
    weight = 1 / took
    (fixed_s, item_s), *_ = np.linalg.lstsq(
        np.stack([np.ones_like(at), at], axis=1) * weight[:, None], took * weight, rcond=None
    )
    if item_s <= 0 or fixed_s < 0:
        return 0.0, float(took[-1] / at[-1])
    return float(fixed_s), float(item_s)


def speed_here(
    recipe: Recipe,
    key: dict[str, Any],
    model: nn.Module,
    losses_of: ItemLosses,
    data: Dataset,
    order: Order,
    device: torch.device,
    *,
    more_bytes: int = 0,
) -> Speed:
    """This device's speed at this recipe: as kept on this PC, else measured with the model as it is, which stays so.

    `more_bytes` are what the run will hold on the device besides what is there now.

    Raises:
        ItemTooLarge: it has no memory for one item.
    """
    kept = kept_row(key)
    if kept is not None and not kept.elsewhere:
        return _begun_again(key, kept)
    items = order.items(0, min(recipe.batch.micro_batch, recipe.batch.items))
    read = functools.cache(lambda count: read_batch(data, items[:count]))

    def compute(count: int) -> None:
        losses_of.total(model, read(count), training=True).sum().backward()  # type: ignore[no-untyped-call]

    fit = _fit_here(recipe, model, compute, read(1), device, more_bytes)
    with explained(lambda: recipe, lambda: fit.micro_batch == 1, key["device"]):
        speed = measure_and_keep(key, compute, fit, device)
    model.zero_grad(set_to_none=True)
    return speed


def measure_and_keep(key: dict[str, Any], compute: Callable[[int], None], fit: Fit, device: torch.device) -> Speed:
    """As `measure_speed`, up to what fits; should the worker die of it, the next start takes less."""
    if fit.is_tight:
        small = measure_speed(compute, min(2, fit.micro_batch), device)
        keep_or_note(key, replace(small, micro_batch=fit.micro_batch), tight=True)
    with trying(lambda: key):
        speed = measure_speed(compute, fit.micro_batch, device)
    keep_or_note(key, speed, tight=fit.is_tight)
    return speed


@contextlib.contextmanager
def trying(key: Callable[[], dict[str, Any]]) -> Iterator[None]:
    """The kept size is tried in the block: the next start takes less where this one is killed in it, or has no memory.

    However else it ends, the size is not the reason. `key` gives the measurement's, which may change meanwhile.
    """
    note_begin(key())
    out_of_memory = False
    try:
        yield
    except RuntimeError as error:
        out_of_memory = is_out_of_memory(error)
        raise
    finally:
        note_end(key(), too_much=out_of_memory)


@contextlib.contextmanager
def explained(recipe: Callable[[], Recipe], never_fitted: Callable[[], bool], device: str) -> Iterator[None]:
    """Where the block finds no memory for items one by one, say what would need less: no start could take fewer.

    Args:
        recipe: whose items they are at that moment.
        never_fitted: whether one at once is computed and none has been; later somebody else may have taken the memory.
        device: for the user.

    Raises:
        ItemTooLarge: so it was.
    """
    try:
        yield
    except RuntimeError as error:
        if not never_fitted() or not is_out_of_memory(error):
            raise
        raise ItemTooLarge(too_large(recipe(), device)) from error


def _begun_again(key: dict[str, Any], kept: SpeedRow) -> Speed:
    """The kept speed; of fewer items at once where it was tight and the start before died of it."""
    if not (kept.tight and kept.begun):
        return kept.speed
    size = max(1, int(SMALLER * kept.micro_batch))
    print(f"{platform.node()}: micro-batch reduced from {kept.micro_batch} to {size} from now on", file=sys.stderr)
    keep_or_note(key, replace(kept.speed, micro_batch=size), tight=True)
    return replace(kept.speed, micro_batch=size)


def _fit_here(
    recipe: Recipe,
    model: nn.Module,
    compute: Callable[[int], None],
    one: CodedBatch,
    device: torch.device,
    more_bytes: int,
) -> Fit:
    """How many of the items this worker can compute at once in the memory that it may use; `one` is an item as read."""
    columns = [column for stem in one.slots.values() for column in stem.columns.values()]
    held_bytes = BUFFERS * sum(column.nbytes for column in columns)

    def peaks() -> tuple[int, int]:
        forget_peak()
        found = []
        for count in (1, 2):
            compute(count)
            found.append(peak_bytes())
        # For a checkpoint all is copied: weights, two moments, the average.
        more = more_bytes + 4 * bytes_of(model) + held_bytes
        return found[0] + more, found[1] + more + held_bytes

    most = min(recipe.batch.micro_batch, recipe.batch.items)
    if device.type == "cuda":
        fit = fitting_on_gpu(most, lambda items: fits_here(compute, items, more_bytes, device))
    else:
        member = this_member()
        fit = fitting(most, peaks, budget_bytes(member.node.memory_gib if member else None))
    model.zero_grad(set_to_none=True)
    if fit.reason:
        print(f"{platform.node()}: {fit.reason}", file=sys.stderr, flush=True)
    return fit


def fits_here(compute: Callable[[int], None], items: int, more_bytes: int, device: torch.device) -> bool:
    """Whether the GPU's allocator has memory for `compute(items)` beside `more_bytes`; gives all of it back."""
    more: torch.Tensor | None = None
    try:
        more = torch.empty(more_bytes, dtype=torch.uint8, device=device)
        compute(items)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        del more
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return True


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device had too little memory.

    Near the limit it is cuBLAS or the loading of a kernel that finds none: CUDA gives these no class of their own.
    """
    words = ("out of memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(part in str(error) for part in words)


def bytes_of(model: nn.Module) -> int:
    """Of its parameters, without those that no training changes."""
    fixed: frozenset[str] = getattr(model, "frozen_base", frozenset())
    return sum(p.numel() * p.element_size() for name, p in model.named_parameters() if name not in fixed)


def speeds_of_all(speed: Speed, world: World) -> list[Speed]:
    """The speeds of all ranks, in rank order."""
    mine = [speed.fixed_s, speed.item_s, speed.micro_batch]
    rows = world.gather(torch.tensor(mine, dtype=torch.float64, device=world.device)).tolist()
    return [Speed(fixed_s, item_s, int(most)) for fixed_s, item_s, most in rows]


def _seconds(run: Callable[[], None], device: torch.device, clock: Callable[[], float]) -> list[float]:
    """Of each of some runs."""
    times_s: list[float] = []
    total_s = 0.0
    while total_s < ROUND_S:
        await_device(device)
        began_s = clock()
        run()
        await_device(device)
        times_s.append(clock() - began_s)
        total_s += times_s[-1]
    return times_s


def await_device(device: torch.device) -> None:
    """Until what was asked of a GPU is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
