"""What every way of becoming one does for the training loop: all that differs between them is behind this."""

from typing import Any, Protocol

from torch import Tensor, nn

from dataprep.batches.loader import CodedBatch
from jobs.recipe import SyncName
from jobs.steps.state import TrainingFile, TrainState
from jobs.steps.step_plan import Rounds, StepPlan
from jobs.steps.step_report import RankReport, StepReport
from jobs.sync.busy_clock import BusyClock


class Sync(Protocol):
    """One rank's side of it; ranks call `enter`, `backward`, `exchange` and `after_update` in step."""

    name: SyncName
    clock: BusyClock
    rounds: Rounds
    loss: float
    """By which this rank judges whether the step that was exchanged last is finite."""

    @property
    def agreed(self) -> nn.Module:
        """The weights that all ranks share."""
        ...

    def enter(self, state: TrainState) -> None:
        """A phase has begun, with what it trains; the clock begins after it."""
        ...

    def backward(self, batch: CodedBatch, plan: StepPlan, step: int, *, last: bool) -> dict[str, Tensor]:
        """Add a micro-batch's gradients to those that are there; with the step's last, over all ranks.

        Returns:
            Term of the objective → losses `[item]`, detached.
        """
        ...

    def exchange(self, report: RankReport) -> list[StepReport]:
        """Tell all ranks what this one did in a step; the reports of all of them, of each step that is told."""
        ...

    def after_update(self, state: TrainState, plan: StepPlan, *, taken: bool) -> None:
        """The optimiser's step was taken, or it was skipped."""
        ...

    def common(self) -> dict[str, Any] | None:
        """What all ranks have in common besides the model, for a checkpoint."""
        ...

    def own(self, state: TrainState) -> dict[str, Any]:
        """What this rank has of its own, for a checkpoint; empty where ranks are alike."""
        ...

    def restore(self, saved: TrainingFile, state: TrainState) -> None:
        """Go on from what a checkpoint has of `common` and `own`.

        Raises:
            NotACheckpoint: a rank's part is damaged.
            StorageError: the disk or the share failed.
        """
        ...
