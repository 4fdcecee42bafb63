"""What a run writes down of its steps; rank 0 does."""

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from jobs.recipe import Recipe
from jobs.runs.folder import RunFolder
from jobs.runs.metrics import MetricsLog
from jobs.runs.note import note
from jobs.runs.starts import Start
from jobs.steps.state import TrainState
from jobs.steps.step_plan import StepPlan
from jobs.steps.step_report import StepReport
from jobs.sync.choice import SyncChoice
from jobs.training.checkpointer import Checkpointer


class Recorder:
    """The metrics of a run; does nothing on other ranks. A context manager."""

    def __init__(self, run: RunFolder, recipe: Recipe, start: Start, step: int, rank: int) -> None:
        """Lines of steps after `step` do not count any more, since they are computed again."""
        self._log = MetricsLog(run, start, step, recipe.log.tensorboard) if rank == 0 else None
        self._items = recipe.batch.items
        self._began_s = self._waited_s = 0.0
        self._own: dict[int, dict[str, Any]] = {}
        """Step → what rank 0 alone knows of it, until all ranks have told theirs."""

    def begin(self, choice: SyncChoice, step: int) -> None:
        """How the run's ranks become one, where that was chosen at this start."""
        if self._log is None:
            return
        if choice.said:
            note(choice.said)
            self._log.write("sync", step, **choice.predicted_s)
        if choice.idle:
            idle = choice.idle
            self._log.write("not_worth", step, ranks=idle.ranks, with_s=idle.with_s, without_s=idle.without_s)

    def step_begins(self, waited_s: float) -> None:
        """A step begins, for whose run the loader has been waited for `waited_s` in all."""
        self._began_s, self._waited_s = time.monotonic(), waited_s

    def step_ends(self, state: TrainState, norm: float, waited_s: float, shares: Sequence[int]) -> None:
        """The state has taken the step, or skipped it."""
        took_s = time.monotonic() - self._began_s
        self._own[state.step] = {
            "lr": state.learning_rate, "grad_norm": norm, "items_per_s": self._items / took_s,
            "data_wait": (waited_s - self._waited_s) / took_s, "skipped": state.skipped_in_a_row,
            "step_s": round(took_s, 6), "shares": list(shares),
        }  # fmt: skip

    def step(self, report: StepReport, plan: StepPlan, new_shares: tuple[int, ...] | None) -> tuple[int, ...] | None:
        """All ranks have told of a step, after which `new_shares` were decided on, or none; returns these."""
        step = report.step + 1
        own = self._own.pop(step)
        if self._log is None:
            return new_shares
        terms = {f"loss_{name}": value for name, value in report.losses.items()} if len(report.losses) > 1 else {}
        busy_s = [round(s, 6) for s in report.busy_s]
        self._log.write("step", step, **own, loss=report.loss, **terms, busy_s=busy_s)
        if new_shares is not None:
            item_s = [speed.item_s for speed in plan.speeds(report.step)]
            self._log.write("shares", step, shares=list(new_shares), item_s=item_s)
        return new_shares

    def evaluated(self, name: str, step: int, figures: dict[str, float]) -> None:
        """What an evaluation found."""
        if self._log is not None:
            self._log.write(name, step, **figures)

    def written(self, checkpoints: Checkpointer) -> None:
        """What has been written since the last call."""
        if self._log is not None:
            for done in checkpoints.written():
                self._log.write("checkpoint", done.step, stopped_s=done.stopped_s, wrote_s=done.wrote_s)

    def flush(self) -> None:
        """Before a checkpoint, whose steps are not computed again."""
        if self._log is not None:
            self._log.flush()

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._log is not None:
            self._log.__exit__(kind, error, at)
