"""The supervisor: what goes on around Ray Train's `fit()` so that one attempt of a run comes to its end.

It waits for machines, starts Ray Train, watches it, writes state.json, and after any failure asks
`jobs.execution.retry.decide`. Ray Train's own retries are off: they do not cover a failed start of the process group.
`jobs.execution.launch` calls it.
"""

import contextlib
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cluster.timings import Timings
from jobs.errors import DamagedRun, Unplaceable
from jobs.execution.heartbeat import Pulse, answers
from jobs.execution.membership import ClusterView, Seats
from jobs.execution.messages import carried, first_cause
from jobs.execution.placement import Missing, Node, Placement, machine_name
from jobs.execution.ray_train import Fits
from jobs.execution.retry import Failed, Stop, decide
from jobs.recipe import Recipe, without_effect
from jobs.runs.folder import RunFolder, read_json
from jobs.runs.progress import last_step
from jobs.runs.provenance import read_origin
from jobs.runs.starts import Start
from jobs.runs.state import RunState
from jobs.runs.state_writer import Record
from jobs.runs.summary import ProgressWriter
from vr_core.files import write_json

POLL_S = 0.2


@dataclass
class Outcome:
    """How one fit ended."""

    kind: Literal["finished", "stopped", "left", "lost", "waiting", "failed"]
    """left: a machine was taken back, or one joins; lost: one answers no more. Neither is a failure of the run."""
    failed: Failed | None = None


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
        self._seats = Seats(self.recipe, self.can_wait, self.timings, self.view)
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
            if outcome.kind == "finished":
                return self._record.write(state="finished", why="", step=last_step(self.run))
            if outcome.kind == "stopped":
                return self._record.write(state="stopped", why="stopped by the user", step=self.run.last_step())
            if outcome.kind in ("left", "lost"):
                self._record.write(state="pending", why=self._why, step=self.run.last_step())
            if outcome.failed is None:
                continue
            history.append(outcome.failed)
            verdict = decide(history, first_step, self.timings)
            if isinstance(verdict, Stop):
                return self._record.write(state="failed", why=verdict.why, user_error=verdict.user_error)
            self._record.say(
                f"{outcome.failed.why}; starting again from step {outcome.failed.step} in {verdict.delay_s:g} s",
                "retry",
            )
            self._record.write(state="pending", why=f"starts again after: {outcome.failed.why}")
            self._pause(verdict.delay_s)

    def request_stop(self) -> None:
        """Ask the loop to stop at its next report; called from a signal handler as well."""
        self._stop.set()
        with contextlib.suppress(OSError):
            self.run.stop_file.touch()

    def _wait_for_machines(self) -> Placement | None:
        """Placement on the live nodes as soon as they can hold the run; None when stopped meanwhile."""
        said = ""
        while not self._stopping():
            found = self._seats.place(self._on_gpus())
            if isinstance(found, Placement):
                return found
            if not self.can_wait:
                raise Unplaceable(
                    f"run {self.run.id}: {found.why}; change workers.count, workers.cpus or "
                    "workers.labels, or start a cluster with `vr cluster head`"
                )
            if isinstance(found, Missing) and found.why != said:
                said = found.why
                self._record.write(state="pending", why=f"waits: {said}", waiting_for="machines")
            self._pause(self.timings.beat_s)
        return None

    def _on_gpus(self) -> bool | None:
        """What the run's first start computed on: a run must not change its device because a PC is off."""
        for machines in self._starts():
            return any(machine["device"] != "cpu" for machine in machines)
        return None

    def _starts(self) -> list[list[dict[str, Any]]]:
        """The machines of every start whose workers have all been there, of any attempt."""
        with contextlib.suppress(OSError, ValueError, KeyError):
            return list(read_json(self.run.origin_file)["machines"].values())
        return []

    def _one_fit(self, placement: Placement) -> Outcome:
        self._number += 1
        self._placement, self._names, self._moved = placement, frozenset(), (-1, 0.0)
        where = f" on {', '.join(placement.names)}" if placement.names else ""
        start = f"{self.attempt}.{self._number}"
        self._record.say(f"start {start}: {len(placement.selectors)} worker(s){where}", "start", start=start)
        self.run.leave_file.unlink(missing_ok=True)
        others = self._seats.others()
        with Pulse(others, self.timings) as pulse:
            return self._watch_fit(placement, pulse, {node.name: node for node in others})

    def _watch_fit(self, placement: Placement, pulse: Pulse, others: dict[str, Node]) -> Outcome:
        done: list[Any] = []
        thread = threading.Thread(target=self._call_fit, args=(placement, done), name="fit", daemon=True)
        thread.start()
        used: set[str] = set()
        give_up_s: float | None = None
        while thread.is_alive():
            thread.join(POLL_S)
            self._beat()
            used = set(placement.names or self._names)
            lost = [others[name] for name in pulse.lost() if name in used]
            if lost:
                self._end_fit(thread)
                return self._lose(lost)
            if self._hangs():
                self._end_fit(thread)
                self._record.await_folder(self._stop)
                why = f"no step for {self.recipe.workers.hung_after_s:g} s"
                return Outcome("failed", Failed(self.run.last_step(), why))
            if self._stopping():
                now_s = self.view.now_s()
                give_up_s = give_up_s or now_s + self.timings.stop_within_s
                if now_s > give_up_s:
                    return Outcome("stopped")
        self._beat(now=True)
        [ended] = done
        if not isinstance(ended, BaseException):
            if ended["ended"] != "excluded":
                return Outcome(ended["ended"])
            return self._leave_out(ended)
        if self._stopping():
            return Outcome("stopped")
        # Ray may have been quicker: of a PC whose Ray has ended it hears at once.
        within_s = self.timings.answer_within_s
        lost = [n for n in others.values() if n.name in used and not answers(n.address, n.port, within_s)]
        if lost:
            return self._lose(lost)
        outcome = self._failure(ended)
        if self.run.leave_file.exists() and outcome.failed is not None and not outcome.failed.final:
            # The machine was gone before the loop had left it.
            return Outcome("left")
        return outcome

    def _end_fit(self, thread: threading.Thread) -> None:
        """End the workers; those that are not gone in time are left behind."""
        self.fits.end()
        give_up_s = self.view.now_s() + self.timings.end_within_s
        while thread.is_alive() and self.view.now_s() < give_up_s:
            thread.join(POLL_S)

    def _lose(self, nodes: list[Node]) -> Outcome:
        """Go on without these."""
        self._seats.lose(nodes)
        self._why = f"starts again: {', '.join(sorted(node.name for node in nodes))} answers no more"
        self._record.say(self._why, "lost")
        return Outcome("lost")

    def _leave_out(self, ended: dict[str, Any]) -> Outcome:
        """Go on without the machines of the ranks that make steps longer."""
        file = self.run.attempt_folder(self.attempt) / f"machines-{self._number}.json"
        machines = read_json(file)["machines"]
        names = {machine_name(machines[rank]) for rank in ended["ranks"]}
        self._seats.leave_out(names)
        cost = f"with it a step takes {ended['with_s']:.2f} s, without {ended['without_s']:.2f} s (predicted)"
        self._why = f"{', '.join(sorted(names))} is left out: {cost}"
        self._record.say(self._why, "excluded")
        return Outcome("left")

    def _call_fit(self, placement: Placement, done: list[Any]) -> None:
        """Thread: append rank 0's mapping, or the exception, to `done`."""
        try:
            been = {machine["host"] for machines in self._starts() for machine in machines}
            numbers = self.attempt, self._number
            done.append(self.fits.start(self.run, self.recipe, *numbers, placement, self.loop, been))
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
        with contextlib.suppress(OSError):  # a full disk is what it may be about
            (folder / f"error-{self._number}.txt").write_text(str(error), encoding="utf-8")
        told = [read_json(file) for file in folder.glob(f"error-{self._number}-rank-*.json")]
        failures = getattr(error, "worker_failures", {})
        told += carried(failures, told)
        silent = set(failures) - {t["rank"] for t in told}
        lines = [line.strip() for line in str(cause or error).splitlines() if line.strip()]
        fallback = lines[-1] if lines else type(error).__name__
        return Outcome("failed", first_cause(told, silent, self.run.last_step(), fallback))

    def _stopping(self) -> bool:
        if not self._stop.is_set() and self.run.stop_file.exists():
            self._stop.set()
        return self._stop.is_set()

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
        except (OSError, DamagedRun) as error:
            # The shared folder may be away for a moment; what the run needs from it fails by itself.
            print(f"run {self.run.id}: state not written: {error}", file=sys.stderr, flush=True)

    def _tell(self) -> None:
        self._record.require_newest()
        changes: dict[str, Any] = {}
        file = self.run.attempt_folder(self.attempt) / f"machines-{self._number}.json"
        if file not in self._announced and file.exists():
            machines = read_json(file)["machines"]
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

    def _note_machines(self, machines: list[dict[str, Any]]) -> None:
        """Into the run's origin; one that is damaged is written anew."""
        try:
            origin = read_json(self.run.origin_file)
            of_starts = dict(origin["machines"])
        except (ValueError, KeyError, TypeError):
            said = f"{self.run.origin_file} was damaged; what it said of earlier starts is lost"
            self._record.say(said, "mended")
            origin, of_starts = read_origin(), {}
        name = str(Start(self.attempt, self._number))
        write_json(self.run.origin_file, {**origin, "machines": {**of_starts, name: machines}})

    def _leave_drained(self) -> dict[str, Any]:
        """Ask the loop to leave where a node with workers of it is drained; changes of the state."""
        self._seats.look_for_drained()
        taken = [node for node in self._seats.drained if node.name in self._names]
        return self._ask_to_leave("; ".join(node.why for node in taken)) if taken else {}

    def _join(self) -> dict[str, Any]:
        """Ask the loop to leave where it can go on with more PCs; changes of the state."""
        joining = self._seats.joining(self._placement, self._announced_s) if self._placement else []
        return self._ask_to_leave(f"{', '.join(joining)} joins") if joining else {}

    def _hangs(self) -> bool:
        """Whether all workers are there and nothing comes of it: a collective that waits for one that is stuck."""
        step, now_s = self._step, self.view.now_s()
        if not self._names or step != self._moved[0]:
            self._moved = (step, now_s)
        return now_s - self._moved[1] > self.recipe.workers.hung_after_s

    def _ask_to_leave(self, why: str) -> dict[str, Any]:
        if self.run.leave_file.exists():
            return {}
        self._why = f"starts again: {why}"
        self._record.say(why, "leaving")
        self.run.leave_file.touch()
        return {"why": f"leaves: {why}"}
