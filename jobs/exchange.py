"""How the workers' gradients become one: torch's own hooks, and the moment at which a worker's own are complete."""

import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import GradBucket  # type: ignore[attr-defined]  # torch asks for this very annotation
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

from jobs.errors import WorkersLeftOut
from jobs.recipe import AUTO_SYNC, Recipe, SyncName
from jobs.shares import Speed, choose_sync, ring_s, sent_bytes, step_s, worth_keeping

HOOKS: dict[SyncName, Any] = {
    "plain": default_hooks.allreduce_hook,
    # Half the bytes: what is sent is rounded, what is added up is rounded again, the weights stay float32.
    "bf16": default_hooks.bf16_compress_hook,
}


_SAMPLE_BYTES = 8 * 2**20


def links_bytes_per_s(rank: int, world: int, device: torch.device) -> list[float]:
    """What passes between each rank and rank 0 a second, there and back, one after the other; rank 0's is the best.

    8 MiB each way: a tenth of a second at 1 GbE, and enough for a connection to get up to its speed.
    """
    measured = torch.zeros(world, dtype=torch.float64, device=device)
    for other in range(1, world):
        for size in (1, _SAMPLE_BYTES):  # the first one opens the connection
            sample = torch.zeros(size, dtype=torch.uint8, device=device)
            dist.barrier()
            began_s = time.monotonic()
            if rank == other:
                dist.send(sample, 0)
                dist.recv(sample, 0)
            elif rank == 0:
                dist.recv(sample, other)
                dist.send(sample, other)
                sample[:1].cpu()  # until it is there
                measured[other] = 2 * _SAMPLE_BYTES / (time.monotonic() - began_s)
    dist.broadcast(measured, 0)
    measured[0] = measured[1:].max()
    found: list[float] = measured.tolist()
    return found


class Company:
    """A run's workers: what they bring, how their gradients travel, and who is worth having."""

    def __init__(
        self,
        recipe: Recipe,
        trained: Sequence[nn.Parameter],
        speeds: Sequence[Speed],
        rank: int,
        world: int,
        device: torch.device,
        chosen: SyncName | None,
    ) -> None:
        """Measure the links, where an answer depends on them.

        Args:
            recipe: of the run.
            trained: parameters whose gradients travel.
            speeds: of all workers.
            rank: of this process.
            world: workers.
            device: of this process.
            chosen: what an earlier start of the run has chosen.
        """
        self._least = recipe.nodes.min if recipe.nodes is not None else world
        measured = world > 1 and recipe.workers.shares == "measured"
        self._may_leave_out = measured and recipe.nodes is not None and recipe.nodes.leave_out
        may_choose = world > 1 and recipe.sync == "auto" and chosen is None
        self._links = links_bytes_per_s(rank, world, device) if self._may_leave_out or may_choose else []
        self._items = recipe.batch.items
        parameters = sum(p.numel() for p in trained)
        self._bytes = {way: sent_bytes(way, parameters, trained[0].element_size()) for way in HOOKS}
        self.predicted_s: dict[SyncName, float] = {}
        """Way → seconds of a step, where there was something to choose."""
        if may_choose:
            self.predicted_s = {
                way: step_s(speeds, self._items, ring_s(self._bytes[way], self._links)) for way in AUTO_SYNC
            }
            chosen = choose_sync(self.predicted_s)
        self.chosen = chosen
        """By measurement, now or at an earlier start; a worker alone has nothing to choose."""
        self.sync: SyncName = chosen or ("plain" if recipe.sync == "auto" else recipe.sync)

    @property
    def choice(self) -> str:
        """What was chosen and why, in a line; empty where there was nothing to choose."""
        told = ", ".join(f"{way} {seconds:.3f} s" for way, seconds in self.predicted_s.items())
        return f"sync: {self.sync} (predicted for a step: {told})" if told else ""

    def slower_with(self, speeds: Sequence[Speed]) -> WorkersLeftOut | None:
        """Which workers, at these speeds, make a step longer than it would be without them; the same on every rank."""
        if not self._may_leave_out:
            return None
        kept = worth_keeping(speeds, self._items, self._bytes[self.sync], self._links, self._least)
        ranks = [rank for rank in range(len(speeds)) if rank not in kept.workers]
        return WorkersLeftOut(ranks, kept.all_s, kept.step_s) if ranks else None

    def require_worth(self, speeds: Sequence[Speed]) -> None:
        """Raise where some workers are not worth having.

        Raises:
            WorkersLeftOut: these.
        """
        left_out = self.slower_with(speeds)
        if left_out is not None:
            raise left_out


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
