"""The keeper: a plain process beside the head that sees to it that every submitted run comes to its end.

`vr cluster head` starts it (`python -m jobs.queue.keeper`). It looks at the runs of the ledger every two seconds and
resubmits one whose driver is gone (killed, or forgotten by a head that was started again) under a new submission id
and the same run id. It never touches a run that the user stopped, that finished, or that its supervisor gave up. What
it decides is in `jobs.queue.policy`.

It also looks after the cluster's PCs (`jobs.queue.node_power`): takes them out and back at their time, wakes and
suspends them.

One keeper acts at a time: it holds a lock, and its number in the ledger is the highest. A run whose folder is damaged,
gone, or on a share that hangs is named once and hinders neither the others nor the PCs.
"""

import datetime
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from cluster.node.drain import read_drained, read_spans, reckoned
from cluster.node.head import Head, find_head, read_inventory, state_folder, timings_here
from cluster.node.processes import now
from cluster.node.supervision import Companion
from cluster.timings import Timings
from jobs.errors import ClaimLost, NothingKept
from jobs.execution.placement import least_workers
from jobs.queue import node_power as machines
from jobs.queue.apart import Apart
from jobs.queue.kept import changing, forget_code, kept_recipe, require_kept
from jobs.queue.policy import Action, Close, End, Seen, StopJob, Submit, Wait, decide
from jobs.queue.submit import job_states, stop_job, submit_attempt
from jobs.queue.table import Claim, Ledger, Row
from jobs.recipe import WorkersSpec
from jobs.runs.folder import RunFolder
from jobs.runs.liveness import Listener, Signs, look_for_driver, of_own_job
from jobs.runs.state import RunState
from vr_core.errors import VrError
from vr_core.small_files import printable

KEEPER = Companion(name="keeper", argv=(sys.executable, "-m", "jobs.queue.keeper"))
"""As `cluster.node.lifecycle.start_head` starts it."""

LOOK_WITHIN_S = 10.0
"""The runs are waited for so long at each turn: what a run's folder holds is read in milliseconds."""
ACT_WITHIN_S = 60.0
"""What is done about the runs is waited for so long: a job is submitted within seconds."""

log = logging.getLogger("keeper")

T = TypeVar("T")


@dataclass(frozen=True)
class Found:
    """What one look at a run's folder shows."""

    state: RunState
    step: int
    signs: Signs
    attempt: int
    stop_wished: bool
    waits_for: WorkersSpec | None


def look(row: Row) -> Found:
    """The folder of the run of `row` as it is now."""
    run = RunFolder(Path(row.folder))
    state, attempt = run.state(), run.newest_attempt()
    signs = look_for_driver(run, state)
    return Found(
        state=state,
        step=run.last_step(),
        signs=of_own_job(signs) if attempt == row.attempt else signs,
        attempt=attempt,
        stop_wished=run.stop_file.exists(),
        waits_for=waits_for(run, state) if row.wanted == "running" else None,
    )


def waits_for(run: RunFolder, state: RunState) -> WorkersSpec | None:
    """What a run wants that waits for machines now."""
    waits = state.state == "pending" and state.waiting_for == "machines"
    recipe = kept_recipe(run) if waits else None
    return least_workers(recipe) if recipe is not None else None


def act(action: Action, row: Row, head: Head, ledger: Ledger, fence: int) -> None:
    """Carry `action` out, unless somebody has changed the row since it was read."""
    run = RunFolder(Path(row.folder))
    if isinstance(action, Wait):
        return
    claim = ledger.claim(row, fence)
    if claim is None:
        return
    match action:
        case Close():
            _close(ledger, claim, run)
        case End(state, why):
            run.give_notice(state, why)
            _close(ledger, claim, run)
            log.info("%s: %s: %s", row.run, state, why)
        case StopJob():
            stop_job(head, row.submission)
        case Submit(attempt, idle):
            with changing(run):
                try:
                    require_kept(run)
                except NothingKept as error:
                    run.give_notice("failed", str(error))
                    ledger.close(claim)
                    log.warning("%s: %s", row.run, error)
                    return
                # Where somebody else has taken it, they carry the run.
                if run.take_attempt(attempt):
                    again = submit_attempt(head, run, attempt, claim, idle)
                    log.info("%s: submitted again as %s", row.run, again)


def _close(ledger: Ledger, claim: Claim, run: RunFolder) -> None:
    """Close the row of a run that has ended; of one that the user is just taking up again, nothing."""
    with changing(run):
        if ledger.close(claim):
            forget_code(run)


@dataclass
class Complaints:
    """What went wrong and was said, by what it is about: it is said again when something else goes wrong there."""

    said: dict[str, str] = field(default_factory=dict)
    _kinds: dict[str, tuple[object, ...]] = field(default_factory=dict)

    def add(self, about: str, error: Exception) -> None:
        """Say it unless it was said."""
        # Not by the text: a file's draft has another name each time.
        kind = type(error), getattr(error, "errno", None)
        text = str(error) if isinstance(error, VrError | OSError) else f"{type(error).__name__}: {error}"
        self.said[about] = printable(text)  # never a line of its own in the log
        if self._kinds.get(about) != kind:
            self._kinds[about] = kind
            log.warning("%s: %s", about, self.said[about])

    def settle(self, about: str) -> None:
        """It is well again."""
        self.said.pop(about, None)
        self._kinds.pop(about, None)


class Keeper:
    """What the keeper of number `fence` remembers from turn to turn."""

    def __init__(
        self,
        ledger: Ledger,
        fence: int,
        look: Callable[[Row], Found] = look,
        look_within_s: float = LOOK_WITHIN_S,
        act_within_s: float = ACT_WITHIN_S,
    ) -> None:
        """Nothing is known yet."""
        self.complaints = Complaints()
        self.memory = machines.Memory()
        self._ledger, self._fence = ledger, fence
        self._look, self._look_within_s, self._act_within_s = look, look_within_s, act_within_s
        self._watch = Listener()
        self._apart: Apart[Any] = Apart()
        self._open: set[str] = set()

    def is_newest(self) -> bool:
        """Whether no other keeper has begun since."""
        newest = self._step("ledger", self._ledger.fence)
        return newest is None or newest <= self._fence

    def turn(self) -> None:
        """Look once at every open run and at the PCs, and act; what goes wrong with one hinders no other."""
        waiting = self._step("runs", self.keep_runs)
        self._step("machines", lambda: self.keep_machines(waiting))

    def _step(self, about: str, step: Callable[[], T]) -> T | None:
        try:
            done = step()
        except Exception as error:  # whatever it is, the cluster still needs its keeper
            self.complaints.add(about, error)
            return None
        self.complaints.settle(about)
        return done

    def keep_runs(self) -> list[WorkersSpec]:
        """Look after the open runs; returns what those want that wait for machines."""
        rows = {row.run: row for row in self._ledger.rows(only_open=True)}
        self._forget_others(rows)
        if not rows:
            return []
        head = find_head()
        # Before the runs: the last words of a job's driver are there once Ray says that it has ended.
        jobs = self._step("jobs", lambda: job_states(head))
        found, failed = self._each({run: partial(self._look, row) for run, row in rows.items()}, self._look_within_s)
        for run in failed:
            self._watch.forget(run)
        if jobs is not None:
            actions = {run: self._decide(rows[run], seen, jobs, head.timings) for run, seen in found.items()}
            calls = {
                run: partial(act, action, rows[run], head, self._ledger, self._fence)
                for run, action in actions.items()
                if not isinstance(action, Wait)
            }
            failed |= self._each(calls, self._act_within_s)[1]
            for run in rows.keys() - failed:
                self.complaints.settle(run)
        return [seen.waits_for for seen in found.values() if seen.waits_for is not None]

    def keep_machines(self, waiting: Sequence[WorkersSpec] | None) -> None:
        """Look after the PCs; `waiting` is what runs wait for, None where that is not known."""
        inventory, record = read_inventory(), read_drained()
        if not machines.has_cares(inventory, record, self.memory):
            return
        head = find_head()
        nodes, at = machines.look(head), now()
        time.tzset()  # the PC may have been taken to another time zone
        wall = datetime.datetime.now()
        record = reckoned(record, self._step("durations", read_spans) or (), at, wall.timestamp())
        at_s = at.since_boot_s
        self.memory = machines.noted(self.memory, record, nodes, at_s)
        for action in machines.decide(inventory, record, nodes, waiting, self.memory, wall, at_s, head.timings):
            about = machines.about(action)
            try:
                self.memory, said = machines.act(action, head, self.memory, at_s)
                self.complaints.settle(about)
                if said:
                    log.info("%s", said)
            except Exception as error:
                self.complaints.add(about, error)

    def _decide(self, row: Row, found: Found, jobs: Mapping[str, str], timings: Timings) -> Action:
        seen = Seen(
            state=found.state,
            job=jobs.get(row.submission),
            step=found.step,
            driver=self._watch.judge(row.run, found.signs, timings.driver_silent_s),
            attempt=found.attempt,
            stop_wished=found.stop_wished,
        )
        return decide(row, seen, now(), timings)

    def _each(self, calls: Mapping[str, Callable[[], T]], within_s: float) -> tuple[dict[str, T], set[str]]:
        """The answers by run, and the runs that gave none."""
        answers: dict[str, T] = {}
        failed = set()
        for run, answer in self._apart.call(calls, within_s).items():
            if isinstance(answer, ClaimLost):
                log.info("%s", answer)
            elif isinstance(answer, Exception):
                failed.add(run)
                self.complaints.add(run, answer)
            else:
                answers[run] = answer
        return answers, failed

    def _forget_others(self, rows: Mapping[str, Row]) -> None:
        for run in self._open - rows.keys():
            self._watch.forget(run)
            self.complaints.settle(run)
        self._open = set(rows)


def keep(keeper: Keeper, end: threading.Event) -> None:
    """Take turns until `end` is set, or another keeper has begun."""
    turn_s = timings_here().keeper_turn_s  # a head with other waits starts another keeper
    while not end.wait(turn_s):
        if not keeper.is_newest():
            log.warning("another keeper has begun: this one ends")
            return
        keeper.turn()


def take_lock(folder: Path, end: threading.Event, again_s: float) -> FileLock | None:
    """The lock of the one keeper of this state folder, as soon as nobody holds it; None when `end` comes before."""
    lock, said = FileLock(folder / "keeper.lock"), False
    while not end.is_set():
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if not said:
                log.warning("another keeper is at work: this one begins when that has ended")
            said = True
            end.wait(again_s)
        else:
            return lock
    return None


def main() -> int:
    """Keep runs until SIGTERM."""
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(message)s")
    end = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: end.set())
    signal.signal(signal.SIGINT, lambda *_: end.set())
    lock = take_lock(state_folder(), end, timings_here().keeper_turn_s)
    if lock is None:
        return 0
    with lock:
        ledger = Ledger(state_folder())
        keeper = Keeper(ledger, ledger.take_fence())
        log.info("keeping the runs of %s", state_folder())
        keep(keeper, end)
    return 0


if __name__ == "__main__":
    sys.exit(main())
