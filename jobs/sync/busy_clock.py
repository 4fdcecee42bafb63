"""How long a rank's own gradients take: the clock that stops when the last of them is ready to travel."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class BusyClock:
    """Seconds from the end of one exchange until the rank's next gradients are complete.

    That is all that a rank needs for its part: optimiser, reading, forward and backward. On a GPU by events, since the
    host is ahead of it.
    """

    def __init__(self, device: torch.device) -> None:
        self._gpu = device.type == "cuda"
        self._begun: Any = None
        self._complete: Any = None

    def begin(self) -> None:
        """The exchange before is done, or what was no part of a step."""
        self._begun = self._now()
        self._complete = None

    def complete(self) -> None:
        """The rank's own gradients are there."""
        self._complete = self._now()

    def busy_s(self) -> float:
        """Of the step whose gradients are complete; waits for nothing that has not happened by then."""
        if self._gpu:
            self._complete.synchronize()
            return float(self._begun.elapsed_time(self._complete)) / 1000
        return float(self._complete - self._begun)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens in the block is no part of a step."""
        yield
        self.begin()

    def _now(self) -> Any:
        if not self._gpu:
            return time.monotonic()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event
