"""Phases of a run: stretches of steps with one crop length and one set of trained parameters.

A recipe says when they change, by `curriculum:` and `optim.unfreeze:`. Each phase is a recipe of its own without
either, so that speeds, memory and predictions of a phase are those of that recipe.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from jobs.recipe import Recipe


@dataclass(frozen=True)
class Phase:
    """The steps from `first_step` on, until the next phase begins."""

    first_step: int
    """Number of steps that are done when it begins."""
    recipe: Recipe = field(hash=False)
    """The run's, with this phase's `batch.crop_frames` and `optim.freeze`, and without changes to come."""


def phases_of(recipe: Recipe) -> tuple[Phase, ...]:
    """The phases of a run, in order; the first begins at step 0, and one is the least."""
    changes = {0, *(row.until_step for row in recipe.curriculum), *recipe.optim.unfreeze.values()}
    return tuple(Phase(step, _recipe_at(recipe, step)) for step in sorted(changes) if step < recipe.steps)


def phase_at(phases: Sequence[Phase], step: int) -> Phase:
    """The phase of the step that follows `step` steps."""
    return next(phase for phase in reversed(phases) if phase.first_step <= step)


def _recipe_at(recipe: Recipe, step: int) -> Recipe:
    crops = [row.crop_frames for row in recipe.curriculum if step < row.until_step]
    crop_frames = crops[0] if crops else recipe.batch.crop_frames
    frozen = tuple(pattern for pattern, from_step in recipe.optim.unfreeze.items() if step < from_step)
    return recipe.model_copy(
        update={
            "curriculum": (),
            "batch": recipe.batch.model_copy(update={"crop_frames": crop_frames}),
            "optim": recipe.optim.model_copy(update={"freeze": (*recipe.optim.freeze, *frozen), "unfreeze": {}}),
        }
    )
