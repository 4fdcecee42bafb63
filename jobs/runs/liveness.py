"""Whether somebody carries a run: the driver of its newest attempt, as a process here, by its heartbeat elsewhere.

No clock that somebody sets decides. A process of this boot is known by its id and the clock ticks at which it started.
Of a driver on another PC only state.json is seen: it lives where the count in it moves while one watches, and is dead
where that has stood still for `driver_silent_s`; until one of them it is unknown.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from cluster.node.processes import boot_id, machine_id, start_ticks_of
from jobs.errors import DamagedRun, RunExists
from jobs.runs.folder import RunFolder
from jobs.runs.state import LIVE, RunState
from vr_core.config import Spec, validate
from vr_core.errors import ConfigError, command
from vr_core.files import clear_drafts, write_json
from vr_core.small_files import read_json

Liveness = Literal["alive", "dead", "unknown"]
Heartbeat = tuple[int, int, float]
"""The newest attempt, the attempt that wrote the state, and what it counts: any change is a sign of life."""

POLL_S = 0.5
DRIVERS_FILES = ("state.json", "summary.json", "metrics.jsonl", "origin.json", "trials.json", "best.yaml")
"""What the driver of a run, or of a search, alone writes in its folder."""


class Driver(Spec):
    """`driver.json` of an attempt."""

    boot_id: str
    machine: str = ""
    """Of the PC, in every boot; "" where that is not known."""
    pid: int
    start_ticks: int | None = None
    """Clock ticks from boot to its start; versions before wrote a date, `started_s`, which moves with the clock."""
    started_s: float = 0.0


@dataclass(frozen=True)
class Signs:
    """What one look at a run shows of its driver."""

    known: Liveness
    """unknown: it is on another PC, or has not begun."""
    heartbeat: Heartbeat = (0, 0, 0.0)
    here: bool = False
    """It was started in this boot of this PC."""


@dataclass(frozen=True)
class Sighting:
    """A heartbeat as one process has watched it."""

    heartbeat: Heartbeat
    since_s: float
    """When it was first seen at this count, by the watching process's monotonic clock."""
    moved: bool = False
    """It was seen at another count of the same attempt before."""


def judge_here(driver: Driver, boot: str, machine: str, ticks: int | None) -> Liveness:
    """What a PC knows of `driver` by itself.

    Args:
        driver: What the driver noted when it began.
        boot: Id of this boot of this PC.
        machine: Id of this PC; "" where it is not known.
        ticks: At which this PC's process of the driver's number started; None where there is none.
    """
    if driver.boot_id != boot:
        return "dead" if machine and driver.machine == machine else "unknown"
    if ticks is None:
        return "dead"
    if driver.start_ticks is None:
        # Of an earlier version: the number is in use, and the date of its start tells nothing after a clock was set.
        return "unknown"
    return "alive" if ticks == driver.start_ticks else "dead"


def of_own_job(signs: Signs) -> Signs:
    """`signs` where the newest attempt is a job of this PC's head, on which Ray then starts its driver.

    One that was not started in this boot has ended with an earlier one, or has not begun: the job's status tells.
    """
    return signs if signs.here else replace(signs, known="dead")


def sighted(before: Sighting | None, heartbeat: Heartbeat, now_s: float) -> Sighting:
    """`before` after one more look."""
    if before is None or before.heartbeat[:2] != heartbeat[:2]:
        return Sighting(heartbeat, now_s)
    return before if before.heartbeat == heartbeat else Sighting(heartbeat, now_s, moved=True)


def judge_by_heartbeat(sighting: Sighting, now_s: float, silent_s: float) -> Liveness:
    """What watching has shown: dead after `silent_s` without a change, alive after one, and before that unknown."""
    if now_s - sighting.since_s >= silent_s:
        return "dead"
    return "alive" if sighting.moved else "unknown"


class Listener:
    """What one process has seen of the heartbeats of runs, from look to look."""

    def __init__(
        self, now_s: Callable[[], float] = time.monotonic, pause: Callable[[float], object] = time.sleep
    ) -> None:
        """Nothing has been seen yet."""
        self._now_s, self._pause = now_s, pause
        self._sightings: dict[str, Sighting] = {}

    def judge(self, run: str, signs: Signs, silent_s: float) -> Liveness:
        """Whether the driver of `run` lives, after one more look at it; `silent_s` is the head's `driver_silent_s`."""
        if signs.known != "unknown":
            self.forget(run)
            return signs.known
        now_s = self._now_s()
        self._sightings[run] = sighted(self._sightings.get(run), signs.heartbeat, now_s)
        return judge_by_heartbeat(self._sightings[run], now_s, silent_s)

    def forget(self, run: str) -> None:
        """`run` could not be looked at: a driver must not count as silent while nobody listened."""
        self._sightings.pop(run, None)

    def look(self, run: RunFolder, state: RunState, silent_s: float) -> Liveness:
        """Look at `run`, which is in `state`, and judge."""
        return self.judge(run.id, look_for_driver(run, state), silent_s)

    def until_known(self, run: RunFolder, silent_s: float) -> Liveness:
        """Look until it is known, which takes `silent_s` where the driver is elsewhere and dead."""
        while (found := self.look(run, run.state(), silent_s)) == "unknown":
            self._pause(min(POLL_S, silent_s))
        return found


def write_driver(run: RunFolder, attempt: int) -> None:
    """Note that this process drives `attempt`; what a killed driver has begun to write is removed."""
    clear_drafts(run.path, DRIVERS_FILES)
    write_json(
        run.attempt_folder(attempt) / "driver.json",
        {
            "boot_id": boot_id(),
            "machine": machine_id(),
            "pid": os.getpid(),
            "start_ticks": start_ticks_of(os.getpid()),
        },
        root=run.root,
    )


def read_driver(run: RunFolder, attempt: int) -> Driver | None:
    """Who drives `attempt`; None where nobody has begun, or the note is damaged."""
    file = run.attempt_folder(attempt) / "driver.json"
    with contextlib.suppress(OSError, ValueError, ConfigError):
        return validate(Driver, read_json(file), str(file))
    return None


def look_for_driver(run: RunFolder, state: RunState) -> Signs:
    """What is to be seen now of the driver of `run`, which is in `state`."""
    attempt = run.newest_attempt()
    if state.state not in LIVE or attempt == 0:
        return Signs("dead")
    driver = read_driver(run, attempt)
    boot = boot_id()
    known: Liveness = "unknown"
    if driver is not None:
        known = judge_here(driver, boot, machine_id(), start_ticks_of(driver.pid))
    # Versions before count nothing, and write the time.
    heartbeat = attempt, state.attempt, state.beat or state.updated_s
    return Signs(known, heartbeat, here=driver is not None and driver.boot_id == boot)


@contextlib.contextmanager
def beating(run: RunFolder, every_s: float) -> Iterator[None]:
    """Count in the run's state while the block lasts, for a driver that writes no state meanwhile."""
    end = threading.Event()

    def beat() -> None:
        count = 0
        while not end.wait(every_s):
            count += 1
            with contextlib.suppress(OSError, DamagedRun):  # the folder is away: the next one may be written
                run.write_state(beat=count)

    thread = threading.Thread(target=beat, name=f"heartbeat of {run.id}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def require_resumable(run: RunFolder, silent_s: float, watch: Listener | None = None) -> None:
    """Check that an attempt of `run` may begin; a driver elsewhere is watched for `silent_s` at most.

    Raises:
        RunExists: it is finished, or somebody carries it.
    """
    state = run.state()
    if state.state == "finished":
        raise RunExists(f"{run.id} is finished; to repeat it, submit its recipe with --again")
    watch = watch or Listener()
    if watch.look(run, state, silent_s) == "unknown":
        print(f"{run.id}: its driver is on another PC; listening for it, {silent_s:g} s at most", file=sys.stderr)
    if watch.until_known(run, silent_s) == "alive":
        raise RunExists(f"{run.id} is {state.state} already; watch it with `{command('jobs watch', run.typed)}`")
