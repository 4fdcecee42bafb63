"""When Ray and a head's companions are started again: what a supervisor is told, sees and decides. Pure."""

from dataclasses import dataclass
from pathlib import Path

from cluster.timings import DEFAULT_TIMINGS, Timings
from vr_core.config import Spec

FAILURES = 8
"""Quick failures in a row after which nobody waits any more."""

FRESH_AFTER = 3
"""Starts of a head from its earlier state that did not come up, after which it is given up: one may fail under load."""


class Companion(Spec):
    """A process that runs beside the head, as long as it runs."""

    name: str
    argv: tuple[str, ...]


class RayProcessSpec(Spec):
    """One `ray start --block` that is to be kept running; no secret in it, since it is a process's argument."""

    name: str
    """Of the node."""
    argv: tuple[str, ...]
    again_argv: tuple[str, ...] = ()
    """Of every second start, where it is another: see `again` of `cluster.node.ray_start.ray_argv`."""
    log: Path
    """Where the supervisor's output goes, and so Ray's."""
    temp_dir: Path
    token_file: Path
    head: str | None = None
    """The head that the node joins; None: it is the head."""
    store: Path | None = None
    """Where a head's GCS keeps its state."""
    agent_port: int | None = None
    """Of the head's agent on this machine, which keeps watch over jobs."""
    dashboard_port: int | None = None
    """Of the head's dashboard."""
    companions: tuple[Companion, ...] = ()
    """What runs beside a head; `vr cluster head` starts them first."""
    after_boot: bool = False
    """It ran before the machine was started again: a first start that fails is tried again too."""
    timings: Timings = DEFAULT_TIMINGS


@dataclass(frozen=True)
class Ended:
    """Ray does not run, and this is how it ended."""

    ended_s: float
    """By the clock that `now_s` of `decide` is of."""
    came_up: bool
    """Whether this start said that Ray is up."""
    ever_up: bool
    """Whether any start did."""
    failures: int
    """Quick failures in a row, this one included."""
    not_up: int = 0
    """Starts in a row that did not come up, this one included."""
    left: bool = False
    """In order: Ray let the node go, as after a drain."""


@dataclass(frozen=True)
class HeadAnswer:
    """What the head said when it was last asked whether the node may start."""

    at_s: float
    answers: bool
    may_start: bool
    """By `cluster.node.drain.may_start`."""


@dataclass(frozen=True)
class Wait:
    """Nothing to do now."""


@dataclass(frozen=True)
class QueryHead:
    """Ask the head whether the node may start."""


@dataclass(frozen=True)
class Start:
    """Start Ray again."""

    fresh: bool = False
    """Without the GCS's earlier state: several starts from that did not succeed."""


@dataclass(frozen=True)
class GiveUp:
    """Start it no more; `why` is empty where Ray itself has just said it."""

    why: str = ""


Action = Wait | QueryHead | Start | GiveUp


def is_gone(seen_s: float, now_s: float, timings: Timings) -> bool:
    """Whether a part of a Ray that is up has ended, which was last seen at `seen_s`: the raylet, or a head's dashboard.

    Of one that was killed Ray hears within a second, and ends. It makes nothing of a raylet that left, nor of a
    dashboard that ended by itself or could not have its port.
    """
    return now_s - seen_s > timings.raylet_gone_s


def failures_after(before: int, ran_s: float, timings: Timings) -> int:
    """Quick failures in a row after one more end, `ran_s` after its start."""
    return before + 1 if ran_s < timings.ray_quick_s else 0


def delay_s(failures: int, timings: Timings) -> float:
    """Seconds to wait before the start after that many quick failures: by default none, 2, 4, 8 … 60."""
    return min(timings.ray_first_delay_s * 2.0 ** (failures - 1), timings.ray_longest_delay_s) if failures else 0.0


@dataclass(frozen=True)
class CompanionSeen:
    """What is known of a companion while it does not run."""

    started_s: float
    """Its last start; minus infinity where somebody else made it."""
    ended_s: float
    """When it was first seen not to run."""
    failures: int
    """Quick failures in a row before this end."""

    def failures_now(self, timings: Timings) -> int:
        """Quick failures in a row, this end included."""
        return failures_after(self.failures, self.ended_s - self.started_s, timings)

    def is_due(self, now_s: float, timings: Timings) -> bool:
        """Whether to start it again: as a Ray that failed, but never given up, since the head is nothing without it."""
        return now_s - self.ended_s >= delay_s(self.failures_now(timings), timings)


def decide(ended: Ended, asked: HeadAnswer | None, now_s: float, *, is_head: bool, timings: Timings) -> Action:
    """What to do while Ray does not run.

    A first start that fails is the user's to see and not to be repeated. A head starts again by itself; a node only
    after its head has said that it may: `asked` is the place where a drained node is held back. The head's own PC is
    drained with Ray running, so nothing holds a head back.
    """
    if not ended.ever_up:
        return GiveUp()
    if ended.failures >= FAILURES:
        within = f"within {timings.ray_quick_s:g} s of its start"
        return GiveUp(f"Ray ended {ended.failures} times in a row {within}; given up")
    if now_s - ended.ended_s < max(delay_s(ended.failures, timings), timings.left_s if ended.left else 0.0):
        return Wait()
    if is_head:
        return Start(fresh=ended.not_up == FRESH_AFTER)
    if asked is None or asked.at_s < ended.ended_s:
        return QueryHead()
    if asked.may_start:
        return Start()
    return Wait() if now_s - asked.at_s < (timings.drained_s if asked.answers else timings.head_away_s) else QueryHead()
