"""The process that keeps one `ray start --block` running: `python -m cluster.node.supervise CHARGE`.

It is the member's process in the records: where it lives, Ray runs or is about to. What it does is decided in
`cluster.node.supervision`. SIGTERM ends Ray and then itself; when it is killed, the kernel asks Ray to end.
"""

import ctypes
import enum
import http.client
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import psutil

from cluster.errors import ForeignListener, TokenError
from cluster.node.companions import CompanionWatch
from cluster.node.drain import may_start
from cluster.node.gcs import ask
from cluster.node.processes import end_session, start_ticks_of
from cluster.node.ray_start import LOOPBACK
from cluster.node.start import STARTED_LINE, prepare_temp_dir
from cluster.node.supervision import (
    FAILURES,
    Ended,
    GiveUp,
    HeadAnswer,
    QueryHead,
    RayProcessSpec,
    Start,
    decide,
    failures_after,
    is_gone,
)
from cluster.trust.peer import account, listener_of, opener
from cluster.trust.token import read_token
from vr_core.errors import VrError

POLL_S = 0.5
_GRACE_S = 15.0
"""For Ray to end its processes after SIGTERM; less than `cluster.node.processes.end` gives the supervisor."""
_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None)


class Ends(enum.Enum):
    """Why a Ray that was up runs no more; the value is said in the log."""

    BY_ITSELF = "Ray has ended"
    LEFT = "the node has left"
    WITHOUT_DASHBOARD = "the dashboard has ended"


class Supervisor:
    """One Ray, its starts and its ends."""

    def __init__(self, process_spec: RayProcessSpec, ending: threading.Event) -> None:
        self.process_spec = process_spec
        self.ending = ending
        self.ray: subprocess.Popen[bytes] | None = None
        self.starts = int(process_spec.after_boot)
        """The one before the boot counts: what follows it is on the other port."""
        self.started_s = 0.0
        self.log_from = 0
        """Where in the log the newest start begins."""
        self.came_up = False
        self.ever_up = process_spec.after_boot
        self.failures = 0
        self.not_up = 0
        self.companions = CompanionWatch(process_spec.companions, process_spec.timings, _say)

    def run(self) -> int:
        """Keep Ray running until it is to end, or is given up; returns the exit status."""
        if self.process_spec.after_boot:
            ended = Ended(time.monotonic(), came_up=True, ever_up=True, failures=0)
        else:
            self._start(fresh=True)
            ended = self._watch()
        while not self.ending.is_set():
            action = self._next(ended)
            if isinstance(action, GiveUp):
                if action.why:
                    _say(action.why)
                return 1
            self._start(action.fresh)
            ended = self._watch()
        return 0

    def _next(self, ended: Ended) -> Start | GiveUp:
        """Wait for the moment of the next start."""
        asked: HeadAnswer | None = None
        while not self.ending.is_set():
            now_s = time.monotonic()
            action = decide(
                ended, asked, now_s, is_head=self.process_spec.head is None, timings=self.process_spec.timings
            )
            match action:
                case Start() | GiveUp():
                    return action
                case QueryHead():
                    asked = self._ask(asked)
                case _:
                    self.ending.wait(POLL_S)
        return GiveUp()

    def _ask(self, before: HeadAnswer | None) -> HeadAnswer:
        assert self.process_spec.head is not None
        drained = ask(self.process_spec.head, self.process_spec.token_file)
        asked = HeadAnswer(time.monotonic(), drained is not None, may_start(self.process_spec.name, drained))
        if before is None or (before.answers, before.may_start) != (asked.answers, asked.may_start):
            if not asked.answers:
                _say(f"the head {self.process_spec.head} does not answer; waiting for it")
            elif not asked.may_start:
                _say(f"{self.process_spec.name} is drained; waiting for its time")
        return asked

    def _start(self, fresh: bool) -> None:
        if self.ray is not None or self.process_spec.after_boot:
            _say("starting Ray again" + (" without its earlier state" if fresh else ""))
        if self.process_spec.store is not None:
            if fresh:
                _put_aside(self.process_spec.store)
            self.process_spec.store.mkdir(mode=0o700, exist_ok=True)
        prepare_temp_dir(self.process_spec.temp_dir)
        self.log_from = self.process_spec.log.stat().st_size
        self.came_up = False
        self.started_s = time.monotonic()
        parent = os.getpid()
        self.starts += 1
        argv = self.process_spec.argv if self.starts % 2 else self.process_spec.again_argv or self.process_spec.argv
        self.ray = subprocess.Popen(argv, stdin=subprocess.DEVNULL, preexec_fn=lambda: _end_with(parent))

    def _watch(self) -> Ended:
        """Return when Ray has ended, or is to; nothing of it is left then."""
        assert self.ray is not None
        while self.ray.poll() is None and not self._says_it_is_up() and not self.ending.is_set():
            self.ending.wait(POLL_S)
        self.came_up = self._says_it_is_up()
        if self.came_up and self.ever_up and self.process_spec.agent_port is not None:
            threading.Thread(target=_wake_job_watch, args=(self.process_spec, self.ray), daemon=True).start()
        self.ever_up = self.ever_up or self.came_up
        end = self._watch_parts(self.ray) if self.came_up else Ends.BY_ITSELF
        if self.ever_up and not self.ending.is_set():
            _say(f"Ray has ended ({self.ray.poll()})" if end is Ends.BY_ITSELF else end.value)
        if self.ray.poll() is None:
            self.ray.terminate()
        try:
            self.ray.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self.ray.kill()
            self.ray.wait()
        end_session()
        ended_s = time.monotonic()
        self.failures = failures_after(self.failures, ended_s - self.started_s, self.process_spec.timings)
        if end is Ends.WITHOUT_DASHBOARD:  # Ray itself ran: it is started ever later, and not given up
            self.failures = min(self.failures, FAILURES - 1)
        self.not_up = 0 if self.came_up else self.not_up + 1
        return Ended(ended_s, self.came_up, self.ever_up, self.failures, self.not_up, left=end is Ends.LEFT)

    def _watch_parts(self, ray: subprocess.Popen[bytes]) -> "Ends":
        """Return when the Ray that is up has ended or is to end, and why."""
        timings, port = self.process_spec.timings, self.process_spec.dashboard_port
        raylet, dashboard = Part(ray.pid, _is_raylet), Part(ray.pid, _is_dashboard)
        held_by: int | None = None
        while not self.ending.wait(POLL_S) and ray.poll() is None:
            if is_gone(raylet.seen_s(), time.monotonic(), timings):
                return Ends.LEFT
            if port is not None and is_gone(dashboard.seen_s(), time.monotonic(), timings):
                before, held_by = held_by, listener_of(port)
                if held_by is None:
                    return Ends.WITHOUT_DASHBOARD
                if held_by != before:
                    _say(
                        f"the dashboard does not run: {account(held_by)} holds port {port} of this PC. See who listens "
                        "there (ss -tlp) and end it; Ray then starts again with its dashboard"
                    )
            try:
                self.companions.look(time.monotonic())
            except VrError as error:
                _say(str(error))
        return Ends.BY_ITSELF

    def _says_it_is_up(self) -> bool:
        with self.process_spec.log.open("rb") as log:
            log.seek(self.log_from)
            return STARTED_LINE.encode() in log.read()


def _put_aside(store: Path) -> None:
    """What a GCS could not start from stays, for whoever wants to know why; one of before makes room."""
    if store.exists():
        old = store.with_name(f"{store.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        store.rename(old)


class Part:
    """A child of `ray start` without which the node is not whole."""

    def __init__(self, ray_pid: int, is_it: Callable[[psutil.Process], bool]) -> None:
        """Look for it among the children of `ray_pid`."""
        self._ray_pid = ray_pid
        self._is_it = is_it
        self._process: psutil.Process | None = None
        self._seen_s = time.monotonic()

    def seen_s(self) -> float:
        """When it was last seen to run: now, as a rule."""
        if self._process is None or not self._lives(self._process):
            self._process = self._found()
        if self._process is not None:
            self._seen_s = time.monotonic()
        return self._seen_s

    def _found(self) -> psutil.Process | None:
        """Looking for it reads all processes of the PC."""
        try:
            children = psutil.Process(self._ray_pid).children()
            return next((child for child in children if self._is_it(child) and self._lives(child)), None)
        except psutil.NoSuchProcess:
            return None  # something ended just now; whether it is Ray itself is seen next time

    @staticmethod
    def _lives(process: psutil.Process) -> bool:
        return process.is_running() and start_ticks_of(process.pid) is not None


def _is_raylet(process: psutil.Process) -> bool:
    return process.name() == "raylet"


def _is_dashboard(process: psutil.Process) -> bool:
    return any(argument.endswith("/ray/dashboard/dashboard.py") for argument in process.cmdline())


def _wake_job_watch(process_spec: RayProcessSpec, ray: subprocess.Popen[bytes]) -> None:
    """Let the agent look at the jobs that its GCS remembers.

    Ray's agent begins to watch jobs when it is first asked about one. Until then those that died with the head are said
    to run, and the keeper, which resubmits what has failed, would wait for them.
    """
    url = f"http://{LOOPBACK}:{process_spec.agent_port}/api/job_agent/jobs/none/logs"
    asking = opener()
    while ray.poll() is None:
        try:
            token = read_token(process_spec.token_file)
            asking.open(urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"}), timeout=60).close()
        except urllib.error.HTTPError as error:
            with error:
                if error.code == http.HTTPStatus.NOT_FOUND:  # there is no job of that name: it has looked
                    return
        except (OSError, http.client.HTTPException, TokenError, ForeignListener):
            pass
        time.sleep(POLL_S)


def _end_with(parent: int) -> None:
    """In the new process: ask the kernel for SIGTERM when the supervisor is gone."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)


def _say(line: str) -> None:
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} supervisor: {line}", flush=True)


def main(argument: str) -> NoReturn:
    """Supervise until SIGTERM, or until Ray is given up."""
    ending = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ending.set())
    signal.signal(signal.SIGINT, lambda *_: ending.set())
    try:
        sys.exit(Supervisor(RayProcessSpec.model_validate_json(argument), ending).run())
    except (VrError, OSError) as error:
        _say(str(error))
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1])
