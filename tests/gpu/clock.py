"""Seconds of a device, not of the host that is ahead of it."""

import statistics
import time
from collections.abc import Callable

import torch


def device_s(work: Callable[[], object], device: torch.device, turns: int = 5) -> float:
    """Seconds of `work`, the median of some turns after two that are not counted."""
    for _ in range(2):
        work()
    found = []
    for _ in range(turns):
        _wait(device)
        began_s = time.perf_counter()
        work()
        _wait(device)
        found.append(time.perf_counter() - began_s)
    return statistics.median(found)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
