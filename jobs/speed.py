"""How fast this device computes this recipe's items: measured with the real model, and kept for the next start.

A measurement is kept on the PC, one file for each (device, model, recipe's batch and precision); a run that trained on
it puts back what it found while training.
"""

import functools
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.distributed as dist
from pydantic import Field
from torch import nn

from cluster.head import state_folder
from dataprep.batches import CodedBatch, read_batch
from dataprep.dataset import Dataset
from dataprep.order import Order
from jobs.gradient import Losses
from jobs.recipe import Recipe
from jobs.shares import Speed
from vr_core.config import Spec, digest, plain, validate
from vr_core.errors import ConfigError
from vr_core.files import write_json

LEAST_RUNS, LEAST_S = 2, 0.3
"""Of each size, after one that does not count."""


class SpeedRow(Spec):
    """A kept measurement."""

    fixed_s: Annotated[float, Field(ge=0)]
    item_s: Annotated[float, Field(gt=0)]
    micro_batch: Annotated[int, Field(ge=1)]


def key_of(recipe: Recipe, bins: int, device: torch.device, bf16: bool) -> dict[str, Any]:
    """All that a measurement depends on, JSON-ready."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name(),
        "threads": torch.get_num_threads() if device.type == "cpu" else 0,
        "torch": str(torch.__version__),
        "model": plain(recipe.model),
        "objective": plain(recipe.objective),
        "freeze": list(recipe.optim.freeze),
        "bins": bins,
        "crop_frames": recipe.batch.crop_frames,
        "micro_batch": recipe.batch.micro_batch,
        "precision": [recipe.precision, bf16],
    }


def kept_speed(key: dict[str, Any]) -> Speed | None:
    """The measurement of that key on this PC; None where there is none, or it is damaged."""
    try:
        row = validate(SpeedRow, json.loads(_file(key).read_text(encoding="utf-8"))["speed"], str(_file(key)))
    except (OSError, ValueError, KeyError, TypeError, ConfigError):
        return None
    return Speed(row.fixed_s, row.item_s, row.micro_batch)


def keep_speed(key: dict[str, Any], speed: Speed) -> None:
    """Keep a measurement for the next start.

    Raises:
        OSError: this PC's state folder cannot be written.
    """
    _file(key).parent.mkdir(exist_ok=True)
    row = SpeedRow(fixed_s=speed.fixed_s, item_s=speed.item_s, micro_batch=speed.micro_batch)
    write_json(_file(key), {"key": key, "speed": plain(row)})


def measure_speed(compute: Callable[[int], None], micro_batch: int, device: torch.device) -> Speed:
    """Time `compute(items)`, forward and backward, at several sizes up to `micro_batch` and fit a line.

    Returns:
        A speed whose fixed part is not negative and whose items cost something.
    """
    sizes = sorted({1, max(1, micro_batch // 2), micro_batch})
    times_s = [_seconds(lambda n=size: compute(n), device) for size in sizes]  # type: ignore[misc]
    fixed_s, item_s = line(sizes, times_s)
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
    losses_of: Losses,
    data: Dataset,
    order: Order,
    device: torch.device,
) -> Speed:
    """This device's speed at this recipe: as kept on this PC, else measured with the model as it is, which stays so."""
    kept = kept_speed(key)
    if kept is not None:
        return kept
    first = order.items(0, recipe.batch.micro_batch)

    @functools.cache
    def read(count: int) -> CodedBatch:
        return read_batch(data, first[:count])

    def compute(count: int) -> None:
        losses_of(model, read(count), recipe.seed, training=True).sum().backward()  # type: ignore[no-untyped-call]

    speed = measure_speed(compute, recipe.batch.micro_batch, device)
    model.zero_grad(set_to_none=True)
    keep_or_note(key, speed)
    return speed


def speeds_of_all(speed: Speed, world: int, device: torch.device) -> list[Speed]:
    """The speeds of all ranks, in rank order."""
    told = torch.tensor([[speed.fixed_s, speed.item_s, speed.micro_batch]], dtype=torch.float64, device=device)
    if world > 1:
        rows = [torch.empty_like(told) for _ in range(world)]
        dist.all_gather(rows, told)
        told = torch.cat(rows)
    return [Speed(fixed_s, item_s, int(most)) for fixed_s, item_s, most in told.tolist()]


def keep_or_note(key: dict[str, Any], speed: Speed) -> None:
    """Keep a measurement where that can be; it is made again otherwise."""
    try:
        keep_speed(key, speed)
    except OSError as error:
        print(f"the speed of this device is measured again at the next start: {error}", file=sys.stderr, flush=True)


def _seconds(run: Callable[[], None], device: torch.device) -> float:
    """Median of some runs, after one that fills caches."""
    times_s: list[float] = []
    run()
    while len(times_s) < LEAST_RUNS or sum(times_s) < LEAST_S:
        _finish(device)
        began_s = time.perf_counter()
        run()
        _finish(device)
        times_s.append(time.perf_counter() - began_s)
    return statistics.median(times_s)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _file(key: dict[str, Any]) -> Path:
    return state_folder() / "speeds" / f"{digest(key, 16)}.json"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "cpu"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "cpu")
