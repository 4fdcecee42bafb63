"""What follows from a step: what is saved, and whether the loop ends. A pure function of what all ranks know."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from jobs.steps.step_report import StepReport

Destination = Literal["share", "own disk"]
Ending = Literal["finished", "stopped", "excluded", "left"]


@dataclass(frozen=True)
class Exclusion:
    """Ranks without which a step is shorter."""

    ranks: tuple[int, ...]
    with_s: float
    """Predicted seconds of a step with them."""
    without_s: float
    """The same without them."""


@dataclass(frozen=True)
class Ended:
    """How the loop ended, on every rank; a failure is an exception instead."""

    how: Ending
    figures: dict[str, float] = field(default_factory=dict)
    """`step`, `loss` of the last step, `validation_loss` and `best_validation_loss` where there is validation."""
    exclusion: Exclusion | None = None
    """Where `how` is `excluded`."""


@dataclass(frozen=True)
class Decision:
    """What follows from a step."""

    save: Destination | None
    end: Ending | None


def decide(
    reports: Sequence[StepReport],
    steps: int,
    every_steps: int | None,
    *,
    excluded: bool,
    improved: bool,
    skipped: bool,
    local_steps: bool,
) -> Decision:
    """What follows from the steps that all ranks have just told of.

    Args:
        reports: of these steps, at least one.
        steps: of the whole run.
        every_steps: `checkpoint.every_steps` of the recipe.
        excluded: a step is shorter without some ranks.
        improved: a validation was better than any before.
        skipped: the last step was skipped since something was not finite.
        local_steps: ranks take steps of their own, and each skips its own.
    """
    before, step = reports[0].step, reports[-1].step + 1
    end: Ending | None = None
    if step == steps:
        end = "finished"
    elif any(report.stop for report in reports):
        end = "stopped"
    elif excluded:
        end = "excluded"
    elif any(report.leave for report in reports):
        end = "left"
    due = any(report.save for report in reports) or (
        every_steps is not None and step // every_steps > before // every_steps
    )
    # Within a streak of skipped steps retention would let the last good checkpoint go.
    if end or improved or (due and (local_steps or not skipped)):
        return Decision("share", end)
    return Decision("own disk" if any(report.save_here for report in reports) and not skipped else None, end)
