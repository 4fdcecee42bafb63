"""Gradients added up over the ranks with every step, by torch's DistributedDataParallel and its communication hooks."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import GradBucket  # type: ignore[attr-defined]  # torch asks for this very annotation
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

from dataprep.batches.loader import CodedBatch
from jobs.recipe import SyncName
from jobs.steps.gradient import ItemLosses, add_gradients
from jobs.steps.state import TrainingFile, TrainState
from jobs.steps.step_plan import EVERY_STEP, StepPlan
from jobs.steps.step_report import RankReport, StepReport
from jobs.steps.world import World
from jobs.sync.busy_clock import BusyClock


class Ddp:
    """`plain` and `bf16`: after every step all ranks have the same weights."""

    rounds = EVERY_STEP

    def __init__(self, name: SyncName, losses_of: ItemLosses, world: World, clock: BusyClock) -> None:
        """`clock` is told when a step's last gradients are ready to travel."""
        self.name, self.clock = name, clock
        self.loss = 0.0
        self._losses_of, self._world = losses_of, world
        self._model: nn.Module | None = None
        self._parallel: nn.Module | None = None

    @property
    def agreed(self) -> nn.Module:
        """The model itself."""
        assert self._model is not None, "no phase was entered"
        return self._model

    def enter(self, state: TrainState) -> None:
        """As `Sync.enter`: torch fixes which gradients travel when it wraps the model."""
        self._model = self._parallel = state.model
        if self._world.size > 1:
            self._parallel = self._world.data_parallel(state.model, self._hook, state.fixed)
        self.clock.begin()

    def _hook(self, _: None, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
        """Send a bucket; they travel while the backward pass goes on."""
        if bucket.is_last():
            self.clock.complete()
        if self.name == "bf16":  # what is sent is rounded, what is added up is rounded again, the weights stay float32
            return default_hooks.bf16_compress_hook(None, bucket)  # type: ignore[arg-type]
        return default_hooks.allreduce_hook(None, bucket)  # type: ignore[arg-type]  # None: all ranks

    def backward(self, batch: CodedBatch, plan: StepPlan, step: int, *, last: bool) -> dict[str, Tensor]:
        """As `Sync.backward`."""
        assert self._parallel is not None, "no phase was entered"
        terms = add_gradients(
            self._parallel, self._losses_of, batch, items=plan.items, world=self._world.size, last=last
        )
        if last and self._world.size == 1:
            self.clock.complete()
        return terms

    def exchange(self, report: RankReport) -> list[StepReport]:
        """As `Sync.exchange`: of this step."""
        report.computed(self.clock.busy_s())
        reported = StepReport.of_vector(report.step, report.terms, self._world.sum(report.vector()).tolist())
        self.loss = reported.loss
        return [reported]

    def after_update(self, state: TrainState, plan: StepPlan, *, taken: bool) -> None:
        """As `Sync.after_update`."""
        if taken:
            state.average_in(state.model)

    def common(self) -> None:
        """Nothing."""

    def own(self, state: TrainState) -> dict[str, Any]:
        """Nothing."""
        return {}

    def restore(self, saved: TrainingFile, state: TrainState) -> None:
        """Nothing to restore."""
