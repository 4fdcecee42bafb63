"""What the supervisor decides about a start of the workers, and what follows its end: pure functions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cluster.timings import Timings
from jobs.execution.retry import Failed, Stop, decide

Kind = Literal["finished", "stopped", "left", "lost", "waiting", "failed"]
"""left: a machine was taken back, or one joins; lost: one is not responding. Neither is a failure of the run."""


@dataclass(frozen=True)
class Outcome:
    """How one start of the workers ended."""

    kind: Kind
    failed: Failed | None = None
    """Where the kind is failed."""


@dataclass(frozen=True)
class Seen:
    """One look at a start that is going on."""

    unresponsive: bool
    """A machine that holds workers of it is not responding."""
    idle_s: float
    """Since the newest step, once all workers are there."""
    stopping_s: float | None
    """Since the user asked the run to stop; None where nobody has."""


Interruption = Literal["lost", "hung", "given up"]


def interruption(seen: Seen, hung_after_s: float, timings: Timings) -> Interruption | None:
    """Why a start is ended from outside now; None to let it go on.

    Args:
        seen: what is to be seen of it.
        hung_after_s: of the recipe: without a step for so long, a collective waits for a worker that is stuck.
        timings: of the head; a loop that does not stop within `stop_within_s` is left behind.
    """
    if seen.unresponsive:
        return "lost"
    if seen.idle_s > hung_after_s:
        return "hung"
    if seen.stopping_s is not None and seen.stopping_s > timings.stop_within_s:
        return "given up"
    return None


def ended_by_itself(result: Mapping[str, Any]) -> Outcome:
    """Of a start whose loop has returned `result` on rank 0; an exclusion goes on without the excluded."""
    kind: Kind = "left" if result["ended"] == "excluded" else result["ended"]
    return Outcome(kind)


def ended_by_error(failure: Outcome, *, leaving: bool) -> Outcome:
    """Of a start that raised, while nobody stops the run and all of its machines respond.

    Args:
        failure: what the error means by itself.
        leaving: its loop was asked to leave a machine, which may be gone before it could: no failure of the run.
    """
    retryable = failure.failed is not None and not failure.failed.final
    return Outcome("left") if leaving and retryable else failure


@dataclass(frozen=True)
class End:
    """The run has ended."""

    state: Literal["finished", "stopped", "failed"]
    why: str = ""
    user_error: bool = False


@dataclass(frozen=True)
class Again:
    """Another start follows."""

    pause_s: float = 0.0


def follows(outcome: Outcome, history: Sequence[Failed], first_step: int, timings: Timings) -> End | Again:
    """What follows a start that ended with `outcome`.

    Args:
        outcome: of the start.
        history: failures of this attempt, the one of `outcome` among them.
        first_step: step of the newest checkpoint when the attempt began.
        timings: of the head.
    """
    if outcome.kind == "finished":
        return End("finished")
    if outcome.kind == "stopped":
        return End("stopped", "stopped by the user")
    if outcome.failed is None:
        return Again()
    verdict = decide(history, first_step, timings)
    if isinstance(verdict, Stop):
        return End("failed", verdict.why, verdict.user_error)
    return Again(verdict.delay_s)
