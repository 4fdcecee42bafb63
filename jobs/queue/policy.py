"""What the keeper decides about a run: pure rules from what is known of it."""

import math
from dataclasses import dataclass

from cluster.node.processes import Now
from cluster.timings import Timings
from jobs.execution.retry import ATTEMPTS_WITHOUT_PROGRESS, delay_s
from jobs.queue.submit import LIVE_JOB
from jobs.queue.table import Row
from jobs.runs.liveness import Liveness
from jobs.runs.state import LIVE, RunState, State
from vr_core.errors import command


@dataclass(frozen=True)
class Wait:
    """Nothing to do now."""


@dataclass(frozen=True)
class Close:
    """The run has ended: forget it."""


@dataclass(frozen=True)
class End:
    """Nobody carries the run and nobody will: write its last state."""

    state: State
    why: str


@dataclass(frozen=True)
class StopJob:
    """The user wants the run stopped and its job still runs."""


@dataclass(frozen=True)
class Submit:
    """Submit the run again."""

    attempt: int
    """That one and no other: where somebody else has taken it, they carry the run."""
    idle: int


Action = Wait | Close | End | StopJob | Submit


@dataclass(frozen=True)
class Seen:
    """What the keeper sees of a run at one moment."""

    state: RunState
    job: str | None
    """Ray's status of the newest job; None where Ray knows no such job."""
    step: int
    """Newest checkpoint."""
    driver: Liveness
    """Whether somebody carries the run, with a job or without."""
    attempt: int = 1
    """The newest one."""
    stop_wished: bool = False
    """By a `stop` file in the run's folder, which also a PC without this ledger can write."""


def decide(row: Row, seen: Seen, now: Now, timings: Timings) -> Action:
    """What to do about one open row.

    A job that Ray has forgotten counts for nothing: the head was started anew, which is not the run's fault. One that
    failed counts as an attempt, and `ATTEMPTS_WITHOUT_PROGRESS` of them without a new checkpoint end the run; so does
    one that died with a head that was killed, since the head that is back remembers it as failed.
    """
    if seen.state.state not in LIVE:
        return Close()
    if seen.job in LIVE_JOB:
        return StopJob() if row.wanted == "stopped" else Wait()
    if seen.driver != "dead":
        # Without a job of ours: `vr jobs resume --here`.
        return Wait()
    if row.wanted == "stopped" or seen.stop_wished:
        return End("stopped", "stopped by the user")
    if seen.job == "STOPPED":
        return End("stopped", "its job was stopped through Ray")
    since_s = unchanged_s(row, now)
    if seen.job is None:
        # Its row is written before a job exists.
        return Wait() if since_s < timings.submitting_s else Submit(seen.attempt + 1, row.idle)
    idle = 0 if seen.step > row.step else row.idle + 1
    if idle >= ATTEMPTS_WITHOUT_PROGRESS:
        return End(
            "failed", f"{idle} jobs in a row ended without a new checkpoint; see `{command('jobs logs', row.run)}`"
        )
    return Wait() if since_s < delay_s(idle, timings) else Submit(seen.attempt + 1, idle)


def unchanged_s(row: Row, now: Now) -> float:
    """For how long nobody has changed the row; whoever changed it in an earlier boot is gone."""
    return now.since_boot_s - row.since_boot_s if row.boot_id == now.boot_id else math.inf
