"""The keeper: a plain process beside the head that sees to it that every submitted run comes to its end.

`vr cluster head` starts it (`python -m jobs.keeper`). It looks at the runs of the ledger every two seconds and
resubmits one whose driver is gone (killed, or forgotten by a head that was started again) under a new submission id
and the same run id. It never touches a run that the user stopped, that finished, or that its supervisor gave up.

It also looks after the cluster's PCs (`jobs.machines`): takes them out and back at their time, wakes and suspends them.
"""

import datetime
import logging
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.drain import read_drained
from cluster.head import Head, find_head, read_inventory, state_folder, timings_here
from cluster.start import Companion
from cluster.timings import Timings
from jobs import machines
from jobs.driver import is_driven
from jobs.ledger import Ledger, Row
from jobs.placement import least_workers
from jobs.recipe import WorkersSpec
from jobs.retry import ATTEMPTS_WITHOUT_PROGRESS, delay_s
from jobs.runs import LIVE, RunFolder, RunState
from jobs.submit import LIVE_JOB, job_states, stop_job, submit_attempt
from vr_core.errors import VrError

KEEPER = Companion(name="keeper", argv=(sys.executable, "-m", "jobs.keeper"))
"""As `cluster.lifecycle.start_head` starts it."""

log = logging.getLogger("keeper")


@dataclass(frozen=True)
class Wait:
    """Nothing to do now."""


@dataclass(frozen=True)
class Close:
    """The run has ended: forget it."""


@dataclass(frozen=True)
class End:
    """Nobody carries the run and nobody will: write its last state."""

    state: str
    why: str


@dataclass(frozen=True)
class StopJob:
    """The user wants the run stopped and its job still runs."""


@dataclass(frozen=True)
class Submit:
    """Submit the run again."""

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
    driven: bool
    """Somebody carries the run, with a job or without."""


def decide(row: Row, seen: Seen, now_s: float, timings: Timings) -> Action:
    """What to do about one open row.

    A job that Ray has forgotten counts for nothing: the head was started anew, which is not the run's fault. One that
    failed counts as an attempt, and `ATTEMPTS_WITHOUT_PROGRESS` of them without a new checkpoint end the run; so does
    one that died with a head that was killed, since the head that is back remembers it as failed.
    """
    if seen.state.state not in LIVE:
        return Close()
    if seen.job in LIVE_JOB:
        return StopJob() if row.wanted == "stopped" else Wait()
    if row.wanted == "stopped":
        return Wait() if seen.driven else End("stopped", "stopped by the user")
    if seen.driven:
        # Without a job of ours: `vr jobs resume --here`.
        return Wait()
    if seen.job == "STOPPED":
        return End("stopped", "its job was stopped through Ray")
    since_s = now_s - row.updated_s
    if seen.job is None:
        # Its row is written before a job exists.
        return Wait() if since_s < timings.submitting_s else Submit(row.idle)
    idle = 0 if seen.step > row.step else row.idle + 1
    if idle >= ATTEMPTS_WITHOUT_PROGRESS:
        return End("failed", f"{idle} jobs in a row ended without a new checkpoint; see `vr jobs logs {row.run}`")
    return Wait() if since_s < delay_s(idle, timings) else Submit(idle)


def look(row: Row, jobs: Mapping[str, str], timings: Timings) -> Seen:
    """The run of `row` as it is now."""
    run = RunFolder(Path(row.folder))
    state = run.state()
    driven = is_driven(run, state, silent_s=timings.driver_silent_s)
    return Seen(state, jobs.get(row.submission), run.last_step(), driven)


def act(action: Action, row: Row, head: Head, ledger: Ledger) -> None:
    """Carry `action` out."""
    run = RunFolder(Path(row.folder))
    match action:
        case Close():
            ledger.close(row.run)
        case End(state, why):
            run.write_state(state=state, why=why)
            ledger.close(row.run)
            log.info("%s: %s: %s", row.run, state, why)
        case StopJob():
            stop_job(head, row.submission)
        case Submit(idle):
            # The row was read before slow requests.
            if ledger.claim(row):
                log.info("%s: submitted again as %s", row.run, submit_attempt(head, run, idle))
        case Wait():
            pass


def turn(ledger: Ledger, complaints: dict[str, str]) -> None:
    """Look once at every open run; what goes wrong with one is said once and hinders no other."""
    try:
        rows = ledger.rows(only_open=True)
    except sqlite3.Error as error:
        _complain(complaints, "ledger", error)
        return
    complaints.pop("ledger", None)
    if not rows:
        return
    try:
        head = find_head()
        jobs = job_states(head)
    except VrError as error:
        _complain(complaints, "head", error)
        return
    complaints.pop("head", None)
    for row in rows:
        try:
            act(decide(row, look(row, jobs, head.timings), time.time(), head.timings), row, head, ledger)
            complaints.pop(row.run, None)
        except (VrError, OSError, sqlite3.Error) as error:
            _complain(complaints, row.run, error)


def waiting_workers(rows: Sequence[Row]) -> list[WorkersSpec]:
    """What the open runs want that wait for machines now."""
    waiting = []
    for row in rows:
        run = RunFolder(Path(row.folder))
        state = run.state()
        if state.state == "pending" and state.waiting_for == "machines" and row.wanted == "running":
            waiting.append(least_workers(run.recipe()))
    return waiting


def machines_turn(ledger: Ledger, memory: machines.Memory, complaints: dict[str, str]) -> machines.Memory:
    """Look once at the PCs, and act; what goes wrong with one is said once and hinders no other."""
    try:
        inventory, record = read_inventory(), read_drained()
        if not machines.has_cares(inventory, record, memory):
            return memory
        head = find_head()
        nodes, waiting = machines.look(head), waiting_workers(ledger.rows(only_open=True))
        complaints.pop("machines", None)
    except (VrError, OSError, sqlite3.Error) as error:
        _complain(complaints, "machines", error)
        return memory
    now = datetime.datetime.now().astimezone()
    memory = replace(memory, idle_since_s=machines.idle_since(memory.idle_since_s, nodes, now.timestamp()))
    for action in machines.decide(inventory, record, nodes, waiting, memory, now, head.timings):
        about = type(action).__name__.lower()
        try:
            memory, said = machines.act(action, head, memory, now.timestamp())
            complaints.pop(about, None)
            if said:
                log.info("%s", said)
        except (VrError, OSError) as error:
            _complain(complaints, about, error)
    return memory


def _complain(complaints: dict[str, str], about: str, error: Exception) -> None:
    if complaints.get(about) != str(error):
        complaints[about] = str(error)
        log.warning("%s: %s", about, error)


def keep(ledger: Ledger, end: threading.Event) -> None:
    """Take turns until `end` is set."""
    complaints: dict[str, str] = {}
    memory = machines.Memory()
    turn_s = timings_here().keeper_turn_s  # a head with other waits starts another keeper
    while not end.wait(turn_s):
        turn(ledger, complaints)
        memory = machines_turn(ledger, memory, complaints)


def main() -> int:
    """Keep runs until SIGTERM."""
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(message)s")
    end = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: end.set())
    signal.signal(signal.SIGINT, lambda *_: end.set())
    ledger = Ledger(state_folder())
    log.info("keeping the runs of %s", state_folder())
    keep(ledger, end)
    return 0


if __name__ == "__main__":
    sys.exit(main())
