"""Who of the ranks takes which items of a step: who has them on its own disk, where that can be.

Which items a step covers and how many each rank takes is decided elsewhere and stays; a
step's gradient is a sum over its items, so that only the time of reading depends on what is decided here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.optimize import linear_sum_assignment

from dataprep.batches.order import Item, Order, cut
from dataprep.roles import Role
from dataprep.shards.manifest import Manifest


@dataclass(frozen=True)
class StepCut:
    """The items of each rank in each step."""

    order: Order
    manifest: Manifest
    local: np.ndarray
    """`[rank, shard]` bool: is the shard, in the order of `shard_names`, on the rank's own disk."""

    @cached_property
    def matters(self) -> bool:
        """Whether the ranks differ in what they have; else every rank takes items that follow each other."""
        return bool((self.local != self.local[0]).any())

    def items_of(self, step: int, rank: int, shares: Sequence[int]) -> tuple[Item, ...]:
        """What `rank` computes in a step, by position in the order.

        Args:
            step: number of steps before it.
            rank: whose.
            shares: items of each rank in this step; their sum is the global batch.
        """
        total = sum(shares)
        first, end = cut(step * total, shares)[rank]
        if not self.matters:
            return self.order.items(first, end - first)
        items = self.order.items(step * total, total)
        ranks = nearest(self._remote_frames(items), shares)
        return tuple(item for item, taken_by in zip(items, ranks, strict=True) if taken_by == rank)

    def _remote_frames(self, items: Sequence[Item]) -> np.ndarray:
        """`[rank, item]`: frames that come from elsewhere if that rank takes the item."""
        remote = np.zeros((len(self.local), len(items)))
        for column, item in enumerate(items):
            for read in item.reads:
                remote[:, column] += read.frames * ~self.local[:, self._shard_of[read.song, read.role]]
        return remote

    @cached_property
    def _shard_of(self) -> dict[tuple[str, Role], int]:
        numbers = {name: i for i, name in enumerate(shard_names(self.manifest))}
        return {
            (song.id, role): numbers[stem.shard] for song in self.manifest.songs for role, stem in song.stems.items()
        }


def shard_names(manifest: Manifest) -> list[str]:
    """Of a data set, in the order in which everybody numbers them."""
    return sorted(manifest.shards)


def nearest(remote: np.ndarray, shares: Sequence[int]) -> list[int]:
    """Rank of each item such that least is read from elsewhere.

    The assignment problem, solved exactly (Crouse 2016, "On implementing 2D rectangular assignment algorithms", as
    scipy has it): every rank calls this with the same numbers and the same scipy, and finds the same.

    Args:
        remote: `[rank, item]`, what costs something if that rank takes that item.
        shares: how many items each rank takes; they sum to the number of items.
    """
    seats = np.repeat(np.arange(len(shares)), shares)
    _, taken = linear_sum_assignment(remote[seats].T)
    ranks: list[int] = seats[taken].tolist()
    return ranks
