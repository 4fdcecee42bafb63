"""The supervisor: what goes on around Ray Train's `fit()` so that one attempt of a run comes to its end.

It waits for machines, starts Ray Train, watches it, writes state.json, and after any failure asks
`jobs.execution.retry.decide`. Ray Train's own retries are off: they do not cover a failed start of the process group.
`jobs.execution.launch` calls it.
"""

import contextlib
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.timings import Timings
from jobs.errors import DamagedRun, Unplaceable
from jobs.execution.decisions import (
    End,
    Interruption,
    Outcome,
    Seen,
    ended_by_error,
    ended_by_itself,
    follows,
    interruption,
)
from jobs.execution.heartbeat import Heartbeat, answers
from jobs.execution.membership import ROOM_REMEDY, ClusterView, Membership
from jobs.execution.messages import carried, first_cause, read_words
from jobs.execution.placement import Missing, Node, Placement, machine_name
from jobs.execution.ray_train import Fits
from jobs.execution.retry import Failed
from jobs.recipe import Recipe
from jobs.recipes.checks import without_effect
from jobs.runs.folder import RunFolder
from jobs.runs.progress import last_step
from jobs.runs.provenance import read_kept_origin, read_machines, read_origin
from jobs.runs.starts import Start
from jobs.runs.state import RunState
from jobs.runs.state_writer import Record
from jobs.runs.summary import ProgressWriter
from vr_core.files import touch_below, whole_file, write_json
from vr_core.small_files import DamagedFile

POLL_S = 0.2


@dataclass
class Supervisor:
    """One attempt of one run; `supervise` returns when the run has ended."""

    run: RunFolder
    recipe: Recipe
    attempt: int
    loop: str
    can_wait: bool
    """Machines may still join; without, a run that does not fit is refused."""
    watch: Callable[[RunState], None]
    timings: Timings
    fits: Fits = Fits()
    """What starts workers."""
    view: ClusterView = ClusterView()
    """What it sees of the cluster."""
    _beat_due_s: float = 0.0
    _number: int = 0
    """Of the newest start within the attempt."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _announced: set[Path] = field(default_factory=set)
    _names: frozenset[str] = frozenset()
    """Machines of the fit that is running, as its workers said; none before they have."""
    _placement: Placement | None = None
    _announced_s: float = 0.0
    _step: int = 0
    _moved: tuple[int, float] = (0, 0.0)
    """The last step that was seen, and since when."""
    _untold: str = ""
    """Why progress could not be written the last time."""
    _why: str = ""
    """Of the last time that it left its machines, or lost one."""

    def __post_init__(self) -> None:
        self._membership = Membership(self.recipe, self.can_wait, self.timings, self.view)
        self._record = Record(self.run, self.attempt, self.watch, self.timings)
        self._progress = ProgressWriter(self.run, self.recipe.steps)

    def supervise(self) -> RunState:
        """Run fits until the run is finished, stopped or given up.

        Raises:
            Superseded: a newer attempt owns the run.
            Unplaceable: the machine here can never hold the workers.
        """
        history: list[Failed] = []
        first_step = self.run.last_step()
        self._record.write(state="pending", why="", attempt=self.attempt, user_error=False)
        vain = without_effect(self.recipe)
        if vain is not None:  # a run of an earlier version: no new one begins so
            self._record.say(vain, "no_effect")
        while True:
            self._record.await_folder(self._stop)
            placement = self._wait_for_machines()
            outcome = Outcome("stopped") if placement is None else self._one_fit(placement)
            self._record.await_folder(self._stop)
            if outcome.failed is not None:
                history.append(outcome.failed)
            next_ = follows(outcome, history, first_step, self.timings)
            if isinstance(next_, End):
                return self._end(next_)
            if outcome.kind in ("left", "lost"):
                self._record.write(state="pending", why=self._why, step=self.run.last_step())
            if outcome.failed is not None:
                why, step = outcome.failed.why, outcome.failed.step
                self._record.say(f"{why}; starting again from step {step} in {next_.pause_s:g} s", "retry")
                self._record.write(state="pending", why=f"starts again after: {why}")
                self._pause(next_.pause_s)

    def _end(self, end: End) -> RunState:
        """Write how the run ended; a failed one keeps the step that it had come to."""
        changes: dict[str, Any] = {"state": end.state, "why": end.why}
        if end.state == "failed":
            changes["user_error"] = end.user_error
        else:
            changes["step"] = last_step(self.run) if end.state == "finished" else self.run.last_step()
        return self._record.write(**changes)

    def request_stop(self) -> None:
        """Ask the loop to stop at its next report; called from a signal handler as well."""
        self._stop.set()
        with contextlib.suppress(OSError):
            touch_below(self.run.root, self.run.stop_file)

    def _wait_for_machines(self) -> Placement | None:
        """Placement on the live nodes as soon as they can hold the run; None when stopped meanwhile."""
        said = ""
        while not self._stopping():
            found = self._membership.place(self._on_gpus())
            if isinstance(found, Placement):
                return found
            if not self.can_wait:
                raise Unplaceable(f"run {self.run.id}: {found.why}; {ROOM_REMEDY}")
            if isinstance(found, Missing) and found.why != said:
                said = found.why
                self._record.write(state="pending", why=f"waits: {said}", waiting_for="machines")
            self._pause(self.timings.beat_s)
        return None

    def _on_gpus(self) -> bool | None:
        """What the run's first start computed on: a run must not change its device because a PC is off."""
        for machines in self._starts():
            return any(machine.get("device", "cpu") != "cpu" for machine in machines)
        return None

    def _starts(self) -> list[list[dict[str, Any]]]:
        """The machines of every start whose workers have all been there, of any attempt."""
        with contextlib.suppress(OSError, DamagedFile):
            return list(read_kept_origin(self.run.origin_file)["machines"].values())
        return []

    def _one_fit(self, placement: Placement) -> Outcome:
        self._number += 1
        self._placement, self._names, self._moved = placement, frozenset(), (-1, 0.0)
        where = f" on {', '.join(placement.names)}" if placement.names else ""
        start = f"{self.attempt}.{self._number}"
        self._record.say(f"start {start}: {len(placement.selectors)} worker(s){where}", "start", start=start)
        self.run.leave_file.unlink(missing_ok=True)
        others = self._membership.others()
        with Heartbeat(others, self.timings) as heartbeat:
            return self._watch_fit(placement, heartbeat, {node.name: node for node in others})

    def _watch_fit(self, placement: Placement, heartbeat: Heartbeat, others: dict[str, Node]) -> Outcome:
        done: list[Any] = []
        thread = threading.Thread(target=self._call_fit, args=(placement, done), name="fit", daemon=True)
        thread.start()
        used: set[str] = set()
        stopping_since_s: float | None = None
        while thread.is_alive():
            thread.join(POLL_S)
            self._beat()
            used = set(placement.names or self._names)
            lost = [others[name] for name in heartbeat.unresponsive() if name in used]
            if stopping_since_s is None and self._stopping():
                stopping_since_s = self.view.now_s()
            stopping_s = None if stopping_since_s is None else self.view.now_s() - stopping_since_s
            seen = Seen(bool(lost), self._idle_s(), stopping_s)
            why = interruption(seen, self.recipe.workers.hung_after_s, self.timings)
            if why is not None:
                return self._interrupt(thread, why, lost)
        self._beat(now=True)
        self._record.await_folder(self._stop)
        [ended] = done
        if not isinstance(ended, BaseException):
            if ended["ended"] == "excluded":
                self._exclude(ended)
            return ended_by_itself(ended)
        if self._stopping():  # how workers end then is no failure
            return Outcome("stopped")
        # Ray may hear of it before the heartbeat: of a PC whose Ray has ended it does at once.
        within_s = self.timings.answer_within_s
        lost = [n for n in others.values() if n.name in used and not answers(n.address, n.port, within_s)]
        if lost:
            self._lose(lost)
            return Outcome("lost")
        return ended_by_error(self._failure(ended), leaving=self._leaving())

    def _interrupt(self, thread: threading.Thread, why: Interruption, lost: list[Node]) -> Outcome:
        """End a start from outside; one that does not stop as it was asked is left behind."""
        if why == "given up":
            return Outcome("stopped")
        self._end_fit(thread)
        if why == "lost":
            self._lose(lost)
            return Outcome("lost")
        self._record.await_folder(self._stop)
        return Outcome("failed", Failed(self.run.last_step(), f"no step for {self.recipe.workers.hung_after_s:g} s"))

    def _end_fit(self, thread: threading.Thread) -> None:
        """End the workers; those that are not gone in time are left behind."""
        self.fits.end()
        give_up_s = self.view.now_s() + self.timings.end_within_s
        while thread.is_alive() and self.view.now_s() < give_up_s:
            thread.join(POLL_S)

    def _lose(self, nodes: list[Node]) -> None:
        """Go on without these."""
        self._membership.lose(nodes)
        names = sorted(node.name for node in nodes)
        self._why = f"starts again: {', '.join(names)} {'is' if len(names) == 1 else 'are'} not responding"
        self._record.say(self._why, "lost")

    def _exclude(self, ended: dict[str, Any]) -> None:
        """Go on without the machines of the ranks that make steps longer."""
        file = self.run.attempt_folder(self.attempt) / f"machines-{self._number}.json"
        machines = read_machines(file)
        names = {machine_name(machines[rank]) for rank in ended["ranks"]}
        self._membership.leave_out(names)
        cost = f"with it a step takes {ended['with_s']:.2f} s, without {ended['without_s']:.2f} s (predicted)"
        self._why = f"{', '.join(sorted(names))} is excluded: {cost}"
        self._record.say(self._why, "excluded")

    def _call_fit(self, placement: Placement, done: list[Any]) -> None:
        """Thread: append rank 0's mapping, or the exception, to `done`."""
        try:
            previous_hosts = {machine["host"] for machines in self._starts() for machine in machines}
            numbers = self.attempt, self._number
            done.append(self.fits.start(self.run, self.recipe, *numbers, placement, self.loop, previous_hosts))
        except BaseException as error:
            done.append(error)

    def _failure(self, error: BaseException) -> Outcome:
        """What went wrong, from the ranks' own words where they could still speak."""
        cause = getattr(error, "controller_failure", None)
        if type(cause).__name__ == "WorkerGroupStartupTimeoutError":
            why = "waits: other runs hold the machines it needs"
            self._record.write(state="pending", why=why, waiting_for="machines")
            return Outcome("waiting")
        folder = self.run.attempt_folder(self.attempt)
        file = folder / f"error-{self._number}.txt"
        with contextlib.suppress(OSError), whole_file(file, self.run.root) as draft:  # it may be about a full disk
            draft.write_text(str(error), encoding="utf-8")
        reported = read_words(folder, self._number)
        failures = getattr(error, "worker_failures", {})
        reported += carried(failures, reported)
        silent = set(failures) - {t["rank"] for t in reported}
        lines = [line.strip() for line in str(cause or error).splitlines() if line.strip()]
        fallback = lines[-1] if lines else type(error).__name__
        return Outcome("failed", first_cause(reported, silent, self.run.last_step(), fallback))

    def _stopping(self) -> bool:
        # A share that is away may answer with an error instead of no.
        with contextlib.suppress(OSError):
            if not self._stop.is_set() and self.run.stop_file.exists():
                self._stop.set()
        return self._stop.is_set()

    def _leaving(self) -> bool:
        with contextlib.suppress(OSError):
            return self.run.leave_file.exists()
        return False

    def _pause(self, seconds: float) -> None:
        end_s = self.view.now_s() + seconds
        while self.view.now_s() < end_s and not self._stopping():
            self._beat()
            self._stop.wait(min(POLL_S, seconds))

    def _beat(self, now: bool = False) -> None:
        """Every `beat_s`: notice a newer attempt, note who the workers are, and say that this driver lives."""
        now_s = self.view.now_s()
        if not now and now_s < self._beat_due_s:
            return
        self._beat_due_s = now_s + self.timings.beat_s
        try:
            self._tell()
        except (OSError, DamagedRun, DamagedFile) as error:
            # The shared folder may be away for a moment; what the run needs from it fails by itself.
            print(f"run {self.run.id}: state not written: {error}", file=sys.stderr, flush=True)

    def _tell(self) -> None:
        self._record.require_newest()
        changes: dict[str, Any] = {}
        file = self.run.attempt_folder(self.attempt) / f"machines-{self._number}.json"
        if file not in self._announced and file.exists():
            machines = read_machines(file)
            start = f"{self.attempt}.{self._number}"
            self._note_machines(machines)
            self._names = frozenset(map(machine_name, machines))
            self._announced.add(file)
            self._announced_s = self.view.now_s()
            self._record.say(f"start {start}: all workers are there", "workers_ready", start=start)
            changes = {"state": "running", "why": ""}
        if file in self._announced:
            changes |= self._leave_drained() or self._join()
        self._step = self._tell_progress()
        self._record.write(step=self._step, **changes)

    def _tell_progress(self) -> int:
        """Write how far the run is; returns its step. Where it cannot be written, the state is all the same."""
        try:
            step = self._progress.tell().step
            self._untold = ""
        except OSError as error:
            why = error.strerror or str(error)
            if why != self._untold:
                self._untold = why
                print(f"run {self.run.id}: progress not written ({why}); tried again", file=sys.stderr, flush=True)
            step = last_step(self.run)
        return step or self.run.last_step()

    def _note_machines(self, machines: Sequence[Mapping[str, Any]]) -> None:
        """Into the run's origin; one that is damaged is written anew."""
        try:
            origin = read_kept_origin(self.run.origin_file)
            of_starts = dict(origin["machines"])
        except DamagedFile:
            said = f"{self.run.origin_file} was damaged; what it said of earlier starts is lost"
            self._record.say(said, "mended")
            origin, of_starts = read_origin(), {}
        name = str(Start(self.attempt, self._number))
        write_json(self.run.origin_file, {**origin, "machines": {**of_starts, name: machines}}, root=self.run.root)

    def _leave_drained(self) -> dict[str, Any]:
        """Ask the loop to leave where a node with workers of it is drained; changes of the state."""
        self._membership.look_for_drained()
        taken = [node for node in self._membership.drained if node.name in self._names]
        return self._ask_to_leave("; ".join(node.why for node in taken)) if taken else {}

    def _join(self) -> dict[str, Any]:
        """Ask the loop to leave where it can go on with more PCs; changes of the state."""
        joining = self._membership.joining(self._placement, self._announced_s) if self._placement else []
        return self._ask_to_leave(f"{', '.join(joining)} joins") if joining else {}

    def _idle_s(self) -> float:
        """Since the newest step; 0 until all workers are there."""
        step, now_s = self._step, self.view.now_s()
        if not self._names or step != self._moved[0]:
            self._moved = (step, now_s)
        return now_s - self._moved[1]

    def _ask_to_leave(self, why: str) -> dict[str, Any]:
        if self._leaving():
            return {}
        self._why = f"starts again: {why}"
        self._record.say(why, "leaving")
        touch_below(self.run.root, self.run.leave_file)
        return {"why": f"leaves: {why}"}
