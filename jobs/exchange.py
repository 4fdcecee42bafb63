"""How the workers' gradients become one: torch's own hooks, and the moment at which a worker's own are complete."""

import time
from typing import Any

import torch
from torch import nn
from torch.distributed import GradBucket  # type: ignore[attr-defined]  # torch asks for this very annotation
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

from jobs.recipe import SyncName

HOOKS: dict[SyncName, Any] = {
    "plain": default_hooks.allreduce_hook,
    # Half the bytes: what is sent is rounded, what is added up is rounded again, the weights stay float32.
    "bf16": default_hooks.bf16_compress_hook,
}


class BusyClock:
    """Seconds from the end of one exchange until the worker's next gradients are complete.

    That is all that a worker needs for its part: optimiser, reading, forward and backward. On a GPU by events, since
    the host is ahead of it.
    """

    def __init__(self, device: torch.device) -> None:
        self._gpu = device.type == "cuda"
        self._begun: Any = None
        self._complete: Any = None

    def begin(self) -> None:
        """The exchange before is done."""
        self._begun = self._now()
        self._complete = None

    def complete(self) -> None:
        """The worker's own gradients are there."""
        self._complete = self._now()

    def busy_s(self) -> float:
        """Of the step whose exchange has just ended; waits for nothing that has not happened by then."""
        if self._gpu:
            self._complete.synchronize()
            return float(self._begun.elapsed_time(self._complete)) / 1000
        return float(self._complete - self._begun)

    def _now(self) -> Any:
        if not self._gpu:
            return time.monotonic()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


def exchanging(model: nn.Module, sync: SyncName, clock: BusyClock) -> nn.Module:
    """`model` such that the backward pass of a step's last micro-batch also adds gradients up over the workers.

    Buckets travel while the backward pass goes on; `clock` is told when the last of a step's is ready to travel.
    """
    parallel = nn.parallel.DistributedDataParallel(model)
    send = HOOKS[sync]

    def hook(_: None, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
        if bucket.is_last():
            clock.complete()
        sent: torch.futures.Future[torch.Tensor] = send(None, bucket)
        return sent

    parallel.register_comm_hook(None, hook)
    return parallel
