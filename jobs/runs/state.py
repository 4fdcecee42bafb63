"""What `state.json` and `notice.json` of a run say, and which of the two holds. Pure."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from vr_core.config import Line, Spec, plain

State = Literal["pending", "running", "finished", "failed", "stopped"]
LIVE: tuple[State, ...] = ("pending", "running")
_OLD_WAIT = "waits: "
"""So began the `why` of a pending run that waited for machines, before there was `waiting_for`."""


class RunState(Spec):
    """`state.json`, which the driver of the newest attempt alone writes."""

    state: State
    step: Annotated[int, Field(ge=0)] = 0
    steps: Annotated[int, Field(ge=1)]
    attempt: Annotated[int, Field(ge=0)] = 0
    why: Line = ""
    """What a pending run waits for, or why a run failed or was stopped; for people."""
    waiting_for: Literal["machines"] | None = None
    """What a pending run waits for that somebody else can bring: the keeper wakes PCs for it."""
    user_error: bool = False
    """A failed run that only the user can mend: nothing retries it."""
    updated_s: float = 0.0
    """Unix time of the last write, for people: the clock may be set."""
    beat: Annotated[int, Field(ge=0)] = 0
    """Counts the writes of the attempt's driver, so that who watches from another PC sees that it lives."""


class Notice(Spec):
    """`notice.json`: a run's state by somebody else than its driver, who has not written yet or can write no more."""

    state: State
    why: Line
    of_updated_s: float
    """`updated_s` of the state that it is about: as soon as the driver writes, the driver is believed."""
    updated_s: float


def standing(written: RunState, notice: Notice | None) -> RunState:
    """A run's state by what its driver wrote and by what others have to say of that."""
    if notice is None or notice.of_updated_s != written.updated_s:
        return written
    changes = {
        "state": notice.state,
        "why": notice.why,
        "user_error": False,
        "waiting_for": None,
        "updated_s": notice.updated_s,
    }
    return written.model_copy(update=changes)


def settled(changes: Mapping[str, Any]) -> dict[str, Any]:
    """`changes` of a state as a whole: a new reason ends the wait that the one before it gave."""
    return {"waiting_for": None, **changes} if changes.keys() & {"state", "why"} else dict(changes)


def with_wait(raw: dict[str, Any]) -> dict[str, Any]:
    """A state as it was stored; of a time before `waiting_for`, with what its words say."""
    if "waiting_for" in raw or not str(raw.get("why", "")).startswith(_OLD_WAIT):
        return raw
    return {**raw, "waiting_for": "machines"}


def stored(state: RunState) -> dict[str, Any]:
    """`state` as it is written: the run's code may be an earlier version's, which refuses what it does not know."""
    record = plain(state)
    if not state.beat:
        del record["beat"]
    if state.waiting_for is None and not state.why.startswith(_OLD_WAIT):
        del record["waiting_for"]
    return record
