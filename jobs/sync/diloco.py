"""`sync: diloco` in the training loop: rounds of local steps, at whose ends the ranks tell each other what happened."""

from typing import Any

import torch
from torch import Tensor, nn

from dataprep.batches.loader import CodedBatch
from jobs.checkpoints.format import read_part
from jobs.recipe import Recipe, SyncName
from jobs.steps.gradient import ItemLosses, add_gradients
from jobs.steps.state import TrainingFile, TrainState
from jobs.steps.step_plan import Rounds, StepPlan
from jobs.steps.step_report import RankReport, StepReport
from jobs.steps.world import World
from jobs.sync.busy_clock import BusyClock
from jobs.sync.local_steps import LocalSteps


class Diloco:
    """Each rank takes steps of its own; `jobs.sync.local_steps` adds up what came of them."""

    name: SyncName = "diloco"

    def __init__(
        self, recipe: Recipe, state: TrainState, behind_steps: int, losses_of: ItemLosses, world: World,
        clock: BusyClock,
    ) -> None:  # fmt: skip
        """All ranks' models are alike now; `behind_steps` go on while weights travel."""
        self.clock = clock
        self.rounds = Rounds(recipe.diloco.every_steps, recipe.local_from_step)
        self.loss = 0.0
        self._recipe, self._losses_of, self._world = recipe, losses_of, world
        self._local = LocalSteps(recipe, state.model, state.trained, behind_steps, world)
        self._model = state.model
        self._told: list[Tensor] = []
        """Reports of this rank since the ranks last told each other."""
        self._steps_of_round = 0

    @property
    def agreed(self) -> nn.Module:
        """The weights of the last outer step."""
        return self._local.agreed

    def enter(self, state: TrainState) -> None:
        """As `Sync.enter`: what a phase does not train has moved by nothing."""
        self.clock.begin()

    def backward(self, batch: CodedBatch, plan: StepPlan, step: int, *, last: bool) -> dict[str, Tensor]:
        """As `Sync.backward`; the step is this rank's own, over its items alone."""
        items = plan.shares(step)[self._world.rank]
        terms = add_gradients(self._model, self._losses_of, batch, items=items, world=1, last=last)
        if last:
            self.clock.complete()
        return terms

    def exchange(self, report: RankReport) -> list[StepReport]:
        """As `Sync.exchange`: of all steps of a round, at its end."""
        report.computed(self.clock.busy_s())
        self.loss = report.loss.item()
        if self._local.whole(report.step) and self._world.rank:  # all have computed the same: it counts once
            report.count_nothing()
        self._told.append(report.vector())
        if not self._local.ends_round(report.step + 1):
            return []
        rows = self._world.sum(torch.stack(self._told)).tolist()
        self._told, self._steps_of_round = [], len(rows)
        first = report.step + 1 - len(rows)
        return [StepReport.of_vector(first + number, report.terms, row) for number, row in enumerate(rows)]

    def after_update(self, state: TrainState, plan: StepPlan, *, taken: bool) -> None:
        """As `Sync.after_update`: deltas leave at a round's end, and arrive `behind_steps` later."""
        local, step = self._local, state.step
        if taken and local.whole(step - 1):
            state.average_in(state.model)
        if local.overdue(step):
            self._settle(state)
        if not local.ends_round(step):
            return
        if not local.whole(step - 1):
            shares = [plan.shares(k) for k in range(step - self._steps_of_round, step)]
            local.begin(step, len(shares), [sum(of_rank) for of_rank in zip(*shares, strict=True)])
        if step in (self._recipe.steps, self.rounds.whole_until) or step % self._recipe.validation.every_steps == 0:
            self._settle(state)

    def _settle(self, state: TrainState) -> None:
        """The outer step of a round; before local steps, rank 0's weights for all."""
        if self._local.whole(state.step - 1):
            self._local.agree()
        else:
            steps = self._local.settle()
            state.average_in(self._local.agreed, steps)

    def common(self) -> dict[str, Any]:
        """As `Sync.common`."""
        return self._local.state()

    def own(self, state: TrainState) -> dict[str, Any]:
        """As `Sync.own`: the rank's weights and moments."""
        if self._local.whole(state.step - 1):
            self._local.follow()
        return state.own()

    def restore(self, saved: TrainingFile, state: TrainState) -> None:
        """As `Sync.restore`: exactly, where as many ranks go on.

        With another number the outer step that was due is taken from the weights of all who were there, and ranks that
        were not there begin with rank 0's moments.
        """
        rank = self._world.rank
        if saved.diloco is None:
            return
        assert saved.folder is not None, "it was not read"
        if 0 < rank < saved.world:
            state.restore_own(read_part(saved.folder, rank), origin=f"checkpoint of step {saved.step}")
        others: list[dict[str, Tensor]] = []
        if self._world.size != saved.world:
            parts = [read_part(saved.folder, other)["model"] for other in range(1, saved.world)]
            others = [saved.model, *parts]
        self._local.restore(saved.diloco, saved.step, others)
