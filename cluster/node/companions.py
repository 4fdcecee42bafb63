"""A head's companions, looked after by the head's supervisor: what has ended is started again."""

import os
from collections.abc import Callable, Sequence

from cluster.errors import ClusterFailure, OtherAtWork
from cluster.node.head import Head, read_head, unchanging
from cluster.node.processes import ProcessRef, alive
from cluster.node.ray_start import MARKER
from cluster.node.start import start_companion
from cluster.node.supervision import Companion, CompanionSeen
from cluster.timings import Timings


class CompanionWatch:
    """The companions of the head that this process supervises."""

    def __init__(self, companions: Sequence[Companion], timings: Timings, say: Callable[[str], None]) -> None:
        """Look after `companions`; `say` gets a line for each start."""
        self._companions = companions
        self._timings = timings
        self._say = say
        self._seen: dict[str, CompanionSeen] = {}
        self._next_s = float("-inf")

    def look(self, now_s: float) -> None:
        """Start what has ended and is due; at most every `keeper_turn_s`.

        Whoever starts or ends something on this PC holds a lock, and is left alone: the next look sees what came of it.

        Raises:
            VrError: the head's record cannot be read.
        """
        if now_s < self._next_s:
            return
        self._next_s = now_s + self._timings.keeper_turn_s
        head = _own_head()  # once: `_start` looks again, when nobody else can change it
        for companion in self._companions:
            if _ended(head, companion.name) is None:
                continue
            seen = self._seen.get(companion.name, CompanionSeen(float("-inf"), now_s, 0))
            if seen.ended_s < seen.started_s:  # the start that was made here has ended
                seen = CompanionSeen(seen.started_s, now_s, seen.failures)
            self._seen[companion.name] = seen
            if seen.is_due(now_s, self._timings) and self._start(companion):
                self._seen[companion.name] = CompanionSeen(now_s, float("-inf"), seen.failures_now(self._timings))

    def _start(self, companion: Companion) -> bool:
        """Whether a start was made, even in vain."""
        try:
            with unchanging(timeout_s=0.0):
                head = _own_head()
                if head is None or _ended(head, companion.name) is None:
                    return False
                self._say(f"{companion.name} has ended; starting it again")
                start_companion(head, companion)
        except OtherAtWork:
            return False
        except (ClusterFailure, OSError) as error:  # a full disk, no process left: the next look tries again
            self._say(str(error))
        return True


def _own_head() -> Head | None:
    """The record of the head whose supervisor this process is."""
    head = read_head()
    return head if head is not None and head.id == os.environ.get(MARKER) else None


def _ended(head: Head | None, name: str) -> ProcessRef | None:
    """The companion of that name that was started and does not run."""
    return next((ref for ref in head.processes if ref.name == name and not alive(ref)), None) if head else None
