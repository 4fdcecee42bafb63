"""The processes that train together, and everything that one of them tells another.

Its methods are collectives: every rank calls the same ones in the same order, or the others wait for it. Nothing else
in the loop communicates, so the order of set-up can be read where a `World` is used.
"""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

TEXT_BYTES = 128
"""Longest text that `texts` carries; what is longer is cut."""


@dataclass(frozen=True)
class World:
    """One rank's view of the ranks; `torch.distributed` is initialised where there is more than one."""

    rank: int
    size: int
    device: torch.device
    """This rank's."""
    machine: str = ""
    """Name of this rank's PC. Without it every rank counts as a PC of its own."""

    @classmethod
    def alone(cls, device: torch.device) -> "World":
        """A world of one rank, which communicates with nobody."""
        return cls(0, 1, device)

    def sum(self, value: Tensor) -> Tensor:
        """`value`, of any shape, added up over the ranks in place."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def sum_later(self, value: Tensor) -> dist.Work | None:
        """Begin `sum`; `value` holds it after `wait()` on what is returned. None for a rank alone, which has it."""
        return dist.all_reduce(value, async_op=True) if self.size > 1 else None

    def least(self, value: Tensor) -> Tensor:
        """The least of all ranks' `value`, element by element, in place."""
        if self.size > 1:
            dist.all_reduce(value, dist.ReduceOp.MIN)
        return value

    def of_first(self, value: Tensor) -> Tensor:
        """Rank 0's `value`, in place."""
        if self.size > 1:
            dist.broadcast(value, src=0)
        return value

    def gather(self, value: Tensor) -> Tensor:
        """All ranks' `value` as `[rank, ...]`."""
        rows = [value]
        if self.size > 1:
            rows = [torch.empty_like(value) for _ in range(self.size)]
            dist.all_gather(rows, value)
        return torch.stack(rows)

    def texts(self, text: str) -> list[str]:
        """All ranks' `text`, of each the first `TEXT_BYTES` bytes."""
        mine = list(text.encode()[:TEXT_BYTES].ljust(TEXT_BYTES, b"\0"))
        rows = self.gather(torch.tensor(mine, dtype=torch.uint8, device=self.device))
        return [bytes(row).rstrip(b"\0").decode(errors="replace") for row in rows.tolist()]

    def machines(self) -> list[str]:
        """Name of each rank's PC."""
        return self.texts(self.machine or f"rank {self.rank}")

    def there_and_back_s(self, size_bytes: int, other: int) -> float:
        """Seconds, on rank 0, in which so many bytes come from rank `other` and go there again."""
        sample = torch.zeros(size_bytes, dtype=torch.uint8, device=self.device)
        dist.barrier()
        began_s = time.monotonic()
        if self.rank == other:
            dist.send(sample, 0)
            dist.recv(sample, 0)
        elif self.rank == 0:
            dist.recv(sample, other)
            dist.send(sample, other)
            sample[:1].cpu()  # until it is there
        return time.monotonic() - began_s

    def data_parallel(
        self, model: nn.Module, hook: Callable[[Any, Any], Any], fixed: Collection[str] = ()
    ) -> nn.Module:
        """`model` whose backward pass hands each bucket of gradients to `hook`, a communication hook of torch's.

        Weights and buffers of the names `fixed` are the same on all ranks and stay so: they never travel.
        """
        parallel_of = nn.parallel.DistributedDataParallel
        parallel_of._set_params_and_buffers_to_ignore_for_model(model, list(fixed))  # type: ignore[no-untyped-call]
        parallel = parallel_of(model)
        parallel.register_comm_hook(None, hook)
        return parallel
