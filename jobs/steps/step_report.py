"""What a rank says of a step, and what all ranks together say of it once their reports are added up.

Its fields travel as one vector of float64 whose sum over the ranks is the report of them all: losses and counts add up,
and each rank fills its own place of the busy times.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dataprep.batches.order import Item
from jobs.steps.world import World

HASH_BITS = 32
"""Sums of so many bits for a million items are exact in float64."""


@dataclass
class StepReport:
    """Of all ranks about one step, once what they told is added up."""

    step: int
    """Steps that were done before it."""
    losses: dict[str, float]
    """Term of the objective → its part of the step's loss."""
    items: int = 0
    """How many were computed."""
    positions: int = 0
    """Sum of `position_hash` of their positions."""
    stop: bool = False
    """Somebody wishes that the run stops."""
    leave: bool = False
    """Somebody wishes that the run leaves its machines."""
    save: bool = False
    """By the clock of rank 0 a checkpoint is due."""
    save_here: bool = False
    """By the clock of rank 0 a copy on each PC's own disk is due."""
    busy_s: list[float] = field(default_factory=list)
    """Of each rank: how long its gradients took, without the exchange."""

    @property
    def loss(self) -> float:
        """Of the step: the mean of its items' losses."""
        return sum(self.losses.values())

    @classmethod
    def of_vector(cls, step: int, terms: Sequence[str], values: Sequence[float]) -> "StepReport":
        """The report of all ranks whose vectors `RankReport.vector` add up to `values`."""
        count = len(terms)
        items, positions, stop, leave, save, save_here = values[count : count + 6]
        return cls(
            step, dict(zip(terms, values, strict=False)), int(items), int(positions),
            bool(stop), bool(leave), bool(save), bool(save_here), list(values[count + 6 :]),
        )  # fmt: skip


class RankReport:
    """One rank's report of a step while the rank computes; losses stay on its device."""

    def __init__(self, step: int, world: World, items: int) -> None:
        """`items` are those of the whole step, which a loss is a mean over."""
        self.step = step
        self._world, self._of_items = world, items
        self._losses: dict[str, Tensor] = {}
        self._items, self._positions = 0, 0
        self._wishes = (False, False, False, False)
        self._busy_s = 0.0

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the objective's terms, in the order of the vector."""
        return tuple(self._losses)

    @property
    def loss(self) -> Tensor:
        """This rank's part of the step's loss, a scalar in float64 on its device."""
        return torch.stack(list(self._losses.values())).sum() / self._of_items

    def add(self, terms: Mapping[str, Tensor], items: Sequence[Item]) -> None:
        """Take in a micro-batch: losses `[item]` of each term, and which items they are of."""
        for name, losses in terms.items():
            before = self._losses.get(name)
            self._losses[name] = losses.sum().double() if before is None else before + losses.sum()
        self._items += len(items)
        self._positions += sum(position_hash(item.index) for item in items)

    def wish(self, *, stop: bool = False, leave: bool = False, save: bool = False, save_here: bool = False) -> None:
        """What this rank asks all ranks for."""
        self._wishes = (stop, leave, save, save_here)

    def computed(self, busy_s: float) -> None:
        """The rank's gradients took so long."""
        self._busy_s = busy_s

    def count_nothing(self) -> None:
        """Let another rank speak for the items, which all have computed alike."""
        self._losses = {name: torch.zeros_like(losses) for name, losses in self._losses.items()}
        self._items, self._positions = 0, 0

    def vector(self) -> Tensor:
        """Everything that is told, `[terms + 6 + ranks]` float64 on the rank's device."""
        busy_s = [0.0] * self._world.size
        busy_s[self._world.rank] = self._busy_s
        reported = [self._items, self._positions, *self._wishes, *busy_s]
        losses = torch.stack(list(self._losses.values())) / self._of_items
        return torch.cat([losses, torch.tensor(reported, dtype=torch.float64, device=self._world.device)])


def position_hash(position: int) -> int:
    """`HASH_BITS` bits of a position in the order: which positions were added up can be told from the sum of them.

    The finaliser of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators").
    """
    mask = (1 << 64) - 1
    z = (position + 1) * 0x9E3779B97F4A7C15 & mask
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
    return (z ^ (z >> 31)) >> (64 - HASH_BITS)
