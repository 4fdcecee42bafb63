"""How the workers' gradients become one: torch's own hooks, and the moment at which a worker's own are complete.

`diloco` sends no gradients: `jobs.local_steps`.
"""

import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import GradBucket  # type: ignore[attr-defined]  # torch asks for this very annotation
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

from jobs.errors import WorkersLeftOut
from jobs.recipe import POWERSGD_IS_GONE, Recipe, SyncName
from jobs.shares import (
    Exchange,
    Speed,
    behind_steps,
    choice_said,
    choose_sync,
    cut_shares,
    exchange_of,
    longest_s,
    ring_s,
    step_s,
    worth_keeping,
)
from vr_core.errors import ConfigError

_FIRST_BYTES, _SAMPLE_BYTES = 2**17, 8 * 2**20
_SAMPLE_S = 0.5
"""A sample takes no longer each way, where the first one says so."""


def links_bytes_per_s(rank: int, world: int, device: torch.device) -> list[float]:
    """What passes between each rank and rank 0 a second, there and back, one after the other; rank 0's is the best.

    8 MiB each way: a tenth of a second at 1 GbE, and enough for a connection to get up to its speed. Over a slow link
    less, by what a first small sample says.
    """
    measured = torch.zeros(world, dtype=torch.float64, device=device)
    for other in range(1, world):
        _there_and_back_s(1, rank, other, device)  # opens the connection
        first_s = _there_and_back_s(_FIRST_BYTES, rank, other, device)
        enough = 2 * _FIRST_BYTES * _SAMPLE_S / first_s if rank == 0 else 0
        size = torch.tensor(min(_SAMPLE_BYTES, max(_FIRST_BYTES, int(enough))), device=device)
        dist.broadcast(size, 0)
        took_s = _there_and_back_s(int(size), rank, other, device)
        if rank == 0:
            measured[other] = 2 * int(size) / took_s
    dist.broadcast(measured, 0)
    measured[0] = measured[1:].max()
    found: list[float] = measured.tolist()
    return found


def _there_and_back_s(size: int, rank: int, other: int, device: torch.device) -> float:
    """Seconds, on rank 0, in which so many bytes come from rank `other` and go there again; all ranks call it."""
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
    return time.monotonic() - began_s


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
        kept: dict[str, Any] | None,
    ) -> None:
        """Measure the links, where an answer depends on them.

        Args:
            recipe: of the run.
            trained: parameters whose gradients travel.
            speeds: of all workers.
            rank: of this process.
            world: workers.
            device: of this process.
            kept: `kept` of the run's start before.

        Raises:
            ConfigError: the run has chosen a way that is no more.
        """
        self._least = recipe.nodes.min if recipe.nodes is not None else world
        measured = world > 1 and recipe.workers.shares == "measured"
        self._may_leave_out = measured and recipe.nodes is not None and recipe.nodes.leave_out
        # Once in a run is enough to tell its user.
        self._may_advise = measured and not self._may_leave_out and kept is None
        chosen: SyncName | None = kept["sync"] if kept else None
        if chosen == "powersgd":
            raise ConfigError(f"recipe {recipe.name}: {POWERSGD_IS_GONE}")
        behind: int | None = kept["behind_steps"] if kept else recipe.diloco.behind_steps
        ways = recipe.sync_choices if chosen is None else (chosen,)
        may_choose = world > 1 and len(ways) > 1
        how_far = world > 1 and behind is None and "diloco" in ways
        needs = self._may_leave_out, self._may_advise, may_choose, how_far
        self._links = links_bytes_per_s(rank, world, device) if any(needs) else []
        self._items = recipe.batch.items
        self._exchanges: dict[SyncName, Exchange] = {}
        for way in ways:
            self._exchanges[way] = exchange_of(way, recipe, [p.shape for p in trained], trained[0].element_size())
        self.predicted_s: dict[SyncName, float] = {}
        """Way → seconds of a step, where there was something to choose."""
        if may_choose:
            self.predicted_s = {way: step_s(speeds, self._items, self._exchanges[way], self._links) for way in ways}
            chosen = choose_sync(self.predicted_s)
        if chosen is None and len(ways) == 1:
            chosen = ways[0]
        if chosen == "diloco" and how_far:
            computing_s = longest_s(speeds, cut_shares(speeds, self._items))
            behind = behind_steps(
                ring_s(self._exchanges["diloco"].sent_bytes, self._links), computing_s, recipe.diloco.every_steps
            )
        self.sync: SyncName = chosen or ways[0]
        """A worker alone has nothing to choose, and takes the most exact."""
        self.behind_steps = behind or 0
        """With `diloco`: steps that go on while weights travel."""
        settled = chosen is not None and (chosen != "diloco" or behind is not None)
        self.kept = {"sync": chosen, "behind_steps": behind} if settled else None
        """What the run's later starts go by: chosen once, from what was measured then."""

    @property
    def choice(self) -> str:
        """What was chosen and why, in a line; empty where there was nothing to choose."""
        return f"sync: {choice_said(self.sync, self.predicted_s)}" if self.predicted_s else ""

    def slower_with(self, speeds: Sequence[Speed]) -> WorkersLeftOut | None:
        """Which workers, at these speeds, make a step longer than it would be without them; the same on every rank."""
        return self._slower_with(speeds, self._least) if self._may_leave_out else None

    def not_worth_having(self, speeds: Sequence[Speed]) -> dict[str, Any]:
        """The same of a run that keeps all of its workers whatever they cost, for its user to know, at its first start.

        Returns:
            `ranks`, `with_s` and `without_s`; empty where there is nothing to say.
        """
        found = self._slower_with(speeds, 1) if self._may_advise else None
        return {"ranks": found.ranks, "with_s": found.with_s, "without_s": found.without_s} if found else {}

    def _slower_with(self, speeds: Sequence[Speed], least: int) -> WorkersLeftOut | None:
        kept = worth_keeping(speeds, self._items, self._exchanges[self.sync], self._links, least)
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

    Args:
        model: on its device.
        sync: any but `diloco`.
        clock: of this worker.
    """
    parallel = nn.parallel.DistributedDataParallel(model)

    def hook(_: None, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
        if bucket.is_last():
            clock.complete()
        if sync == "bf16":  # what is sent is rounded, what is added up is rounded again, the weights stay float32
            return default_hooks.bf16_compress_hook(None, bucket)  # type: ignore[arg-type]
        return default_hooks.allreduce_hook(None, bucket)  # type: ignore[arg-type]  # None: all workers

    parallel.register_comm_hook(None, hook)
    return parallel
