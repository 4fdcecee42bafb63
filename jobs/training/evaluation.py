"""What a run evaluates now and then: a list of objects, of which the loop runs those that are due.

A new evaluation is a class like `CropLoss` and a line in `Evaluations.of`.
"""

import contextlib
import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import nn

from dataprep.batches.loader import Loader
from dataprep.batches.order import Item, cut, fixed_items
from dataprep.shards.dataset import Dataset
from jobs.checkpoints.format import best_loss
from jobs.recipe import Recipe
from jobs.runs.folder import RunFolder
from jobs.steps.gradient import ItemLosses
from jobs.steps.state import TrainState
from jobs.steps.step_plan import StepPlan
from jobs.steps.world import World
from jobs.sync.sync import Sync
from jobs.training.recorder import Recorder

BEST_OF = "validation_loss"
"""The figure whose least value makes a checkpoint the best."""
_SEED = 2**31
"""Apart from every recipe's seed: validation hides the same frames in every run."""


class Evaluation(Protocol):
    """Something that is measured on the weights that a user would get."""

    name: str
    """Kind of its lines in the metrics."""
    every_steps: int

    def run(self, model: nn.Module, plan: StepPlan, world: World) -> dict[str, float]:
        """Evaluate `model`, which is in evaluation mode.

        All ranks call it, share the work, and get the same: name → figure.
        """
        ...


class CropLoss:
    """The objective's loss over fixed crops with fixed masks, so that two runs differ by their weights alone."""

    name = "validation"

    def __init__(self, recipe: Recipe, data: Dataset, items: tuple[Item, ...], losses_of: ItemLosses) -> None:
        """`items` are the crops."""
        self.every_steps = recipe.validation.every_steps
        self._last_step = recipe.steps - 1
        self._data, self._items, self._losses_of = data, items, losses_of

    def run(self, model: nn.Module, plan: StepPlan, world: World) -> dict[str, float]:
        """As `Evaluation.run`: `loss`, the mean over the crops."""
        pace = plan.at(self._last_step).pace  # the crops are as long as those of the last phase
        first, end = cut(0, pace.split(len(self._items)))[world.rank]
        size = pace.speeds[world.rank].micro_batch
        batches = (self._items[at : min(at + size, end)] for at in range(first, end, size))
        total = torch.zeros((), dtype=torch.float64, device=world.device)
        with torch.inference_mode(), contextlib.closing(Loader(self._data, batches, world.device)) as loader:
            for batch in loader:
                total += self._losses_of.total(model, batch, training=False, seed=_SEED).double().sum()
        return {"loss": float(world.sum(total)) / len(self._items)}


class Evaluations:
    """All that a run evaluates, and the least `BEST_OF` so far."""

    def __init__(self, evaluations: Sequence[Evaluation], steps: int, world: World, best: float) -> None:
        """`best` is of the best checkpoint before this start; infinity without one."""
        self.improved = False
        """Whether what was run last gave a better `BEST_OF` than any before."""
        self._evaluations, self._steps, self._world, self._best = evaluations, steps, world, best

    @classmethod
    def of(cls, recipe: Recipe, run: RunFolder, data: Dataset, losses_of: ItemLosses, world: World) -> "Evaluations":
        """Those of `recipe`; none where no song is held out."""
        found: list[Evaluation] = []
        held_out = fixed_items(data.manifest, recipe.objective, recipe.batch.crop_frames, recipe.validation.items)
        if held_out:
            found.append(CropLoss(recipe, data, held_out, losses_of))
        return cls(found, recipe.steps, world, best_loss(run))

    def run_due(self, state: TrainState, sync: Sync, plan: StepPlan, record: Recorder) -> dict[str, float]:
        """Run those that are due after the steps that are done: name → figure; empty where none is."""
        found: dict[str, float] = {}
        for one in self._evaluations:
            if state.step == self._steps or state.step % one.every_steps == 0:
                with sync.clock.paused(), state.shown(sync.agreed) as model:
                    figures = one.run(model, plan, self._world)
                record.evaluated(one.name, state.step, figures)
                found |= {f"{one.name}_{key}": figure for key, figure in figures.items()}
        # What is not finite improves nothing: every comparison with it is false.
        self.improved = found.get(BEST_OF, math.inf) < self._best
        if self.improved:
            self._best = found[BEST_OF]
        return found | {f"best_{BEST_OF}": self._best} if BEST_OF in found else found
