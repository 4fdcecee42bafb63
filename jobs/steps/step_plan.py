"""Which items a step covers, who computes them in which micro-batches, and at what learning rate.

The loader asks from threads of its own, some steps ahead of the loop; both ask the same plan and get the same answer.
Only `observe` changes it, and what it changes begins later than anything that has been asked for.
"""

import bisect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dataprep.batches.loader import TAKEN_AHEAD
from dataprep.batches.locality import StepCut
from dataprep.batches.order import Item, Order
from dataprep.shards.manifest import Manifest
from jobs.errors import RunFailed
from jobs.recipe import Recipe
from jobs.steps.phases import Phase
from jobs.steps.shares import Pace, Speed
from jobs.steps.step_report import StepReport, position_hash
from vr_core.optim import learning_rate_factor


class Rounds(NamedTuple):
    """When ranks tell each other what happened."""

    steps: int
    """After so many at most."""
    whole_until: int
    """Every rank computes all items of the steps before this one."""


EVERY_STEP = Rounds(1, 0)


@dataclass(frozen=True)
class PhasePlan:
    """The part of a plan that belongs to one phase."""

    phase: Phase
    order: Order
    cut: StepCut
    pace: Pace


class StepPlan:
    """The steps of a run as one rank takes them."""

    def __init__(
        self,
        recipe: Recipe,
        manifest: Manifest,
        speeds: Mapping[Phase, Sequence[Speed]],
        local: np.ndarray,
        rank: int,
        first_step: int,
        rounds: Rounds = EVERY_STEP,
    ) -> None:
        """Plan the steps from `first_step` on.

        Args:
            recipe: of the run.
            manifest: of its data set.
            speeds: of all ranks in each phase that is not over.
            local: `[rank, shard]` bool, as `StepCut` has it.
            rank: whose steps these are.
            first_step: number of steps done so far.
            rounds: how ranks become one.

        Raises:
            ManifestError: no song has the stems that the objective trains on.
        """
        self.items = recipe.batch.items
        self._whole_until = rounds.whole_until
        self._recipe, self._rank = recipe, rank
        self._phases = []
        for phase, of_ranks in sorted(speeds.items(), key=lambda entry: entry[0].first_step):
            order = Order.of(manifest, recipe.objective, recipe.seed, phase.recipe.batch.crop_frames)
            pace = Pace(
                of_ranks, self.items, max(first_step, phase.first_step), TAKEN_AHEAD + rounds.steps,
                measured=recipe.workers.shares == "measured", whole_until=rounds.whole_until,
            )  # fmt: skip
            self._phases.append(PhasePlan(phase, order, StepCut(order, manifest, local), pace))

    def at(self, step: int) -> PhasePlan:
        """The phase of the step that follows `step` steps."""
        number = bisect.bisect_right(self._phases, step, key=lambda planned: planned.phase.first_step)
        return self._phases[max(number, 1) - 1]

    def whole(self, step: int) -> bool:
        """Whether every rank computes all items of that step."""
        return step < self._whole_until

    def shares(self, step: int) -> tuple[int, ...]:
        """How many items each rank computes in that step."""
        return self.at(step).pace.shares(step)

    def speeds(self, step: int) -> tuple[Speed, ...]:
        """Of each rank in that step's phase, as corrected so far."""
        return self.at(step).pace.speeds

    def micro_batches(self, step: int) -> list[tuple[Item, ...]]:
        """This rank's items of that step, as they are computed at once."""
        planned = self.at(step)
        if self.whole(step):
            mine = iter(planned.order.items(step * self.items, self.items))
        else:
            mine = iter(planned.cut.items_of(step, self._rank, planned.pace.shares(step)))
        return [tuple(itertools.islice(mine, count)) for count in planned.pace.pieces(step, self._rank)]

    def batches(self, step: int) -> Iterator[tuple[Item, ...]]:
        """This rank's micro-batches from that step on, without end."""
        return (batch for k in itertools.count(step) for batch in self.micro_batches(k))

    def pieces(self, step: int) -> range:
        """Numbers of this rank's micro-batches in that step."""
        return range(len(self.at(step).pace.pieces(step, self._rank)))

    def rate(self, step: int) -> float:
        """Learning rate of that step as a share of the peak."""
        return learning_rate_factor(step + 1, self._recipe.steps, self._recipe.optim)

    def _require_each_item_once(self, report: StepReport) -> None:
        expected = sum(map(position_hash, range(report.step * self.items, (report.step + 1) * self.items)))
        if (report.items, report.positions) != (self.items, expected):
            raise RunFailed(
                f"step {report.step + 1} was not shared out once: {report.items} items were computed, "
                f"{self.items} belong to it; has every PC the same version of vr and of its packages?"
            )

    def observe(self, report: StepReport) -> tuple[int, ...] | None:
        """Check that a step's items were computed once, and take in how long each rank was busy.

        Returns:
            New shares where there is a decision.

        Raises:
            RunFailed: an item is missing, or was computed twice.
        """
        self._require_each_item_once(report)
        return self.at(report.step).pace.observe(report.step, report.busy_s)

    def nonfinite(self, step: int, loss_is_finite: bool) -> str:
        """For the user: what was not finite in that step, and which songs were in it."""
        items = self.at(step).order.items(step * self.items, self.items)
        songs = sorted({read.song for item in items for read in item.reads})
        named = ", ".join(songs[:6]) + (f" and {len(songs) - 6} more" if len(songs) > 6 else "")
        what = "gradient" if loss_is_finite else "loss"
        return f"step {step + 1} skipped: the {what} is not finite (songs: {named})"
