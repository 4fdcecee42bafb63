"""Whether a run that failed is started again: one pure rule for the supervisor and for the keeper."""

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.timings import Timings

ATTEMPTS_WITHOUT_PROGRESS = 3
"""Failures in a row without a new checkpoint after which a run is given up."""

ATTEMPTS_WITHOUT_STORAGE = 20
"""The same where each time a disk or a share failed: with the pauses that is a quarter of an hour."""


@dataclass(frozen=True)
class Failed:
    """One end of a run that was not its finish."""

    step: int
    """Step of the newest checkpoint at that moment."""
    why: str
    final: bool = False
    """Trying again would end the same way."""
    user_error: bool = False
    """Final, and the user can mend it."""
    storage: bool = False
    """A disk or a share failed: it may come back by itself."""


@dataclass(frozen=True)
class Retry:
    """Start again from the last checkpoint after a pause."""

    delay_s: float


@dataclass(frozen=True)
class Stop:
    """Give the run up."""

    why: str
    user_error: bool = False


def decide(history: Sequence[Failed], first_step: int, timings: Timings) -> Retry | Stop:
    """What follows the last of `history` (not empty), for a run that began with a checkpoint at `first_step`.

    A new checkpoint between two failures is progress and forgives all earlier ones: a run on a machine that is taken
    back every evening must go on for weeks. Without progress the pauses double and the attempts are numbered.
    """
    last = history[-1]
    if last.final:
        return Stop(last.why, last.user_error)
    steps = [first_step, *(failed.step for failed in history)]
    idle = 0
    for before, after in zip(reversed(steps[:-1]), reversed(steps[1:]), strict=True):
        if after > before:
            break
        idle += 1
    allowed = ATTEMPTS_WITHOUT_PROGRESS
    if all(failed.storage for failed in history[len(history) - idle :]):
        allowed = ATTEMPTS_WITHOUT_STORAGE
    if idle >= allowed:
        return Stop(f"{idle} attempts without a new checkpoint after step {last.step}; the last one: {last.why}")
    return Retry(delay_s(idle, timings))


def delay_s(idle: int, timings: Timings) -> float:
    """Seconds to wait after `idle` failures in a row without progress."""
    return min(timings.longest_retry_s, timings.first_retry_s * 2.0 ** max(0, idle - 1))
