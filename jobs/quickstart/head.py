"""The head of a quickstart: the one that runs, or one that ends with it."""

import contextlib
from collections.abc import Callable, Iterator

from cluster.errors import NoHead
from cluster.facts import look
from cluster.node.head import Head, all_joined, find_head, state_folder, unchanging
from cluster.node.lifecycle import start_head, stop
from cluster.node.processes import alive
from cluster.node.ray_start import node_start
from jobs.queue.client import stop_run
from jobs.queue.keeper import KEEPER
from jobs.queue.submit import LIVE_JOB, job_states
from jobs.queue.table import Ledger
from jobs.quickstart.signals import signals_ignored
from jobs.quickstart.stages import Stages
from jobs.runs.folder import RunFolder
from jobs.runs.state import LIVE


class BorrowedHead:
    """The head that runs here, else one that is started when it is first needed and ends with the block."""

    def __init__(self, keep: bool, stages: Stages) -> None:
        self.facts = look()
        self.left_running: Head | None = None
        """After the block."""
        self._keep = keep
        self._stages = stages
        self._head: Head | None = None
        self._started = False
        self._runs: list[RunFolder] = []

    def __enter__(self) -> "BorrowedHead":
        self._head = self.left_running = running_head()
        if self._keep:
            self.head()
        return self

    def head(self) -> Head:
        """The head; started where none runs."""
        if self._head is None:
            with self._stages.stage("Ray head", "started on free ports, for this machine alone"):
                self._head, self._started = start_head(node_start(self.facts, port_base=0), [KEEPER])
        elif "Ray head" not in self._stages.seconds:
            with self._stages.stage("Ray head", f"the one at {self._head.gcs_address} runs already"):
                pass
        return self._head

    @contextlib.contextmanager
    def carrying(self, run: RunFolder) -> Iterator[None]:
        """The run in the block is stopped when the block of the cluster fails."""
        self._runs.append(run)
        yield

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if error is not None:
            with signals_ignored():
                self._interrupt()
        elif self._head is not None and self._started:
            if self._keep or self._has_other_jobs(self._head):
                self.left_running = self._head
            else:
                stop()

    def _interrupt(self) -> None:
        """End the run under way, and the head if it was started here."""
        live = [run for run in self._runs if run.state().state in LIVE]
        if live or self._started:
            self._stages.say("ending what was started (some seconds)")
        if not self._started:
            for run in live:
                stop_run(run, self._head)
            return
        for run in live:
            # Otherwise the keeper of a later head would go on with it.
            Ledger(state_folder()).want_stopped(run.id)
        stop()
        for run in live:
            if run.state().state in LIVE:
                run.give_notice("stopped", "vr quickstart was interrupted")

    def _has_other_jobs(self, head: Head) -> bool:
        ours = tuple(f"{run.id}.a" for run in self._runs)
        others = [
            job for job, state in job_states(head).items() if state in LIVE_JOB and not (ours and job.startswith(ours))
        ]
        if others:
            self._stages.say(f"the head is left running: it also runs {', '.join(others)}")
        return bool(others)


def running_head(find: Callable[[], Head] = find_head) -> Head | None:
    """The head that runs here, looked for by `find` while no other process starts or ends one.

    Raises:
        NoHead: this PC is a worker of another's.
    """
    try:
        # One that another quickstart is ending still answers for seconds, and would take no job.
        with unchanging():
            return find()
    except NoHead:
        if any(alive(joined.ray) for joined in all_joined()):
            raise
        return None
