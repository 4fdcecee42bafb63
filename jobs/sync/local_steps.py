"""DiLoCo: every worker takes optimiser steps of its own, and now and then an outer step adds up what came of them.

Douillard et al. 2023, "DiLoCo: Distributed Low-Communication Training of Language Models", algorithm 1: an inner AdamW
takes H steps, the worker's delta is the weights before them minus those after, the mean of all deltas is the gradient
of an outer SGD with Nesterov momentum, and all go on from the outer optimiser's weights. Where this departs from it:

- A step covers the recipe's N items, cut by speed as in every other way, and each worker takes the step over its part
  of them: all finish together, with the same number of steps, and schedule, position and loader are what they are.
  (Charles et al. 2025, "Communication-Efficient Language Model Training Scales Reliably", also divide the batch among
  the replicas.) So a delta counts by the items that it was computed from.
- Local steps begin after `diloco.start_step`; until then every worker computes every step whole, and so has the same
  weights as the others. (Lin et al. 2018, "Don't Use Large Mini-Batches, Use Local SGD", begin late as well, with
  exchanged gradients before.)
- Deltas travel in bfloat16, and while they do the worker goes on (Douillard et al. 2025, "Streaming DiLoCo", section
  2.3, there with a mixture of both weights): what it has moved since is put on top of the outer step's weights.
"""

from collections.abc import Collection, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from jobs.recipe import Recipe
from jobs.steps.world import World
from vr_core.lora import copy_of

TRAVELS = torch.bfloat16


class LocalSteps:
    """One worker's rounds. `agreed` holds the weights of the last outer step, the same on every worker."""

    def __init__(
        self, recipe: Recipe, model: nn.Module, trained: Collection[str], behind_steps: int, world: World
    ) -> None:
        """All workers' models are alike now.

        Args:
            recipe: its `diloco`, `validation` and `steps` say when a round ends.
            model: the worker's own, on its device.
            trained: names of its parameters that are ever trained.
            behind_steps: steps that go on while deltas travel.
            world: of this worker.
        """
        self._recipe, self._behind_steps, self._world = recipe, behind_steps, world
        self._names = [name for name, _ in model.named_parameters() if name in trained]
        self._own = [dict(model.named_parameters())[name] for name in self._names]
        self.agreed = copy_of(model)
        self._agreed = [dict(self.agreed.named_parameters())[name].requires_grad_(True) for name in self._names]
        self._fixed: frozenset[str] = getattr(model, "frozen_base", frozenset())
        self._own_buffers, self._agreed_buffers = list(model.buffers()), list(self.agreed.buffers())
        self._outer = torch.optim.SGD(
            self._agreed, recipe.diloco.lr, recipe.diloco.momentum, nesterov=recipe.diloco.momentum > 0
        )
        self._began: int | None = None
        """Step at which the deltas that travel were taken."""
        self._steps, self._items = 0, [0]
        """Of the round whose deltas travel: how many, and the items of each worker."""
        self._work: dist.Work | None = None
        self._deltas = torch.empty(0)
        self._then: list[Tensor] = []
        """The worker's weights at that step."""

    def whole(self, step: int) -> bool:
        """Whether the step after `step` steps is computed whole by every worker: local ones have not begun."""
        return step < self._recipe.local_from_step

    @torch.no_grad()
    def follow(self) -> None:
        """Before local steps: what all have agreed on is what this worker has."""
        for own, agreed in zip((*self._own, *self._own_buffers), (*self._agreed, *self._agreed_buffers), strict=True):
            agreed.copy_(own)

    @torch.no_grad()
    def agree(self) -> None:
        """Before local steps: all take the first worker's weights; by as many roundings theirs may differ."""
        for own in self._own:
            self._world.of_first(own.data)
        self._share_buffers()
        self.follow()

    def ends_round(self, step: int) -> bool:
        """Whether workers tell each other what happened after `step` steps, and an outer step is due."""
        recipe = self._recipe
        return step in (recipe.steps, recipe.local_from_step) or any(
            step % n == 0 for n in (recipe.diloco.every_steps, recipe.validation.every_steps)
        )

    def overdue(self, step: int) -> bool:
        """Whether the deltas that travel have to be there after `step` steps: always at the same step."""
        return self._began is not None and (step >= self._began + self._behind_steps or self.ends_round(step))

    @torch.no_grad()
    def begin(self, step: int, steps: int, items: Sequence[int]) -> None:
        """Send the worker's delta on its way.

        Args:
            step: done so far.
            steps: of the round that has ended.
            items: that each worker computed in it.
        """
        self._began, self._steps, self._items = step, steps, list(items)
        part = items[self._world.rank] / sum(items)
        self._then = [p.clone() for p in self._own]
        self._deltas = _sent(self._agreed, self._own, part)
        self._work = self._world.sum_later(self._deltas)

    @torch.no_grad()
    def settle(self) -> int:
        """Wait for all deltas, take the outer step, and put what the worker has moved meanwhile on top of it.

        Returns:
            The steps of the round.
        """
        if self._work is not None:
            self._work.wait()
        self._take(self._deltas)
        for own, agreed, then in zip(self._own, self._agreed, self._then, strict=True):
            own.add_(agreed - then)
        self._share_buffers()
        self._began, self._work, self._then, self._deltas = None, None, [], torch.empty(0)
        return self._steps

    def state(self) -> dict[str, Any]:
        """What all workers have in common, for a checkpoint of the step at which a round has just ended."""
        agreed = {name: value for name, value in self.agreed.state_dict().items() if name not in self._fixed}
        return {
            "agreed": agreed, "outer": self._outer.state_dict(),
            "travelling": self._began is not None, "steps": self._steps, "items": self._items,
        }  # fmt: skip

    def restore(self, state: dict[str, Any], step: int, others: Sequence[dict[str, Tensor]] = ()) -> None:
        """Go on from `state`.

        Args:
            state: from `state`.
            step: of the checkpoint.
            others: all workers' own weights of then, where their number has changed since: the outer step is taken from
                these, and every worker begins with what it gives. Without it the model has this worker's already.
        """
        self.agreed.load_state_dict(state["agreed"], strict=not self._fixed)
        self._outer.load_state_dict(state["outer"])
        if others:
            self._join(state, others)
        elif state["travelling"]:
            self.begin(step, state["steps"], state["items"])

    @torch.no_grad()
    def _join(self, state: dict[str, Any], others: Sequence[dict[str, Tensor]]) -> None:
        if state["travelling"]:
            deltas = [
                _sent(
                    [a.cpu() for a in self._agreed], [theirs[name] for name in self._names], items / sum(state["items"])
                )
                for theirs, items in zip(others, state["items"], strict=True)
            ]
            self._take(torch.stack(deltas).sum(0).to(self._agreed[0].device))
        for own, agreed in zip(self._own, self._agreed, strict=True):
            self._world.of_first(agreed.data)  # adding up on different devices may round differently
            own.copy_(agreed)
        self._share_buffers()

    @torch.no_grad()
    def _share_buffers(self) -> None:
        """All take the first worker's buffers: a count or a table has no mean."""
        for own, agreed in zip(self._own_buffers, self._agreed_buffers, strict=True):
            self._world.of_first(own)
            agreed.copy_(own)

    def _take(self, deltas: Tensor) -> None:
        """One outer step."""
        at = 0
        for agreed in self._agreed:
            agreed.grad = deltas[at : at + agreed.numel()].view_as(agreed).to(agreed.dtype)
            at += agreed.numel()
        self._outer.step()
        self._outer.zero_grad(set_to_none=True)


def _sent(agreed: Sequence[Tensor], own: Sequence[Tensor], part: float) -> Tensor:
    """A worker's delta as it travels, `[element]`."""
    return torch.cat([((a - p) * part).to(TRAVELS).flatten() for a, p in zip(agreed, own, strict=True)])
