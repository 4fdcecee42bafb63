"""A head without Ray: an HTTP server with the rules of Ray 2.60's job API, and the record of a head that points to it.

What it keeps of Ray (`dashboard/modules/job/job_head.py`, `job_manager.py`): the token of every request is checked; an
id is taken for good by the first job that is submitted under it; a job waits as PENDING, and one whose package was not
uploaded fails; `stop` answers at once and the job ends later; a failure of its own is sent as a traceback with status
500. No driver runs: a test says what becomes of a job. Without the tail of a job's output, which is a websocket.
"""

import contextlib
import http.server
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from cluster.inventory import node_labels
from cluster.node.head import Head, head_file, state_folder, write_member
from cluster.node.processes import ProcessRef, boot_id, start_ticks_of
from cluster.node.ray_start import NodeStart, Ports
from cluster.timings import DEFAULT_TIMINGS, Timings
from cluster.trust.token import write_private
from jobs.queue.kept import keep_recipe
from jobs.recipe import Recipe
from jobs.runs.creation import create_run
from jobs.runs.folder import RunFolder

LIVE = ("PENDING", "RUNNING")


@dataclass
class Job:
    """A submitted job, as Ray lists it."""

    submission_id: str
    entrypoint: str
    metadata: dict[str, str]
    runtime_env: dict[str, Any]
    status: str = "PENDING"
    message: str = "Job has not started yet."

    def details(self) -> dict[str, Any]:
        return {"type": "SUBMISSION", "job_id": None, "driver_info": None, **vars(self)}


@dataclass
class JobApi:
    """The server's jobs, and how it misbehaves; a test reads and changes both while it runs."""

    token: str
    jobs: dict[str, Job] = field(default_factory=dict)
    packages: dict[str, bytes] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)
    stopped: list[str] = field(default_factory=list)
    """Ids that were asked to stop, in order."""
    requests: list[str] = field(default_factory=list)
    """`METHOD /path` of every request with the token."""
    delay_s: float = 0.0
    """Before each answer."""
    broken: frozenset[str] = frozenset()
    """`METHOD /path` of what fails with status 500."""
    closes_after_submit: bool = False
    """It accepts a job and closes the connection without an answer."""
    breaks_after_submit: bool = False
    """It accepts a job and then fails with status 500."""
    unanswered: frozenset[str] = frozenset()
    """`METHOD /path` of what is carried out and not answered before `over`."""
    over: threading.Event = field(default_factory=threading.Event)
    """The test is."""
    on_list: Callable[[], object] = lambda: None
    """What happens while the list of jobs is on its way."""
    on_stop: Callable[[Job], object] | None = None
    """What becomes of a running job that is asked to stop; None: it ends at once."""

    def becomes(self, submission: str, status: str) -> None:
        """Its driver has begun (`RUNNING`) or ended."""
        self.jobs[submission].status = status

    def submit(self, body: dict[str, Any]) -> tuple[int, object]:
        submission = body["submission_id"]
        if submission in self.jobs:
            return 500, (
                'Traceback (most recent call last):\n  File "job_head.py", line 419, in submit_job\n'
                "RuntimeError: Request failed with status code 400: Traceback (most recent call last):\n"
                '  File "job_manager.py", line 553, in submit_job\n'
                f"ValueError: Job with submission_id {submission} already exists. "
                "Please use a different submission_id.\n."
            )
        job = Job(submission, body["entrypoint"], body.get("metadata") or {}, body.get("runtime_env") or {})
        package = job.runtime_env.get("working_dir", "").removeprefix("gcs://")
        if package and package not in self.packages:
            job.status, job.message = "FAILED", f"runtime_env setup failed: Failed to download {package}"
        self.jobs[submission] = job
        return 200, {"job_id": submission, "submission_id": submission}

    def stop(self, job: Job) -> tuple[int, object]:
        self.stopped.append(job.submission_id)
        running = job.status in LIVE
        if running and self.on_stop is not None:
            self.on_stop(job)
        elif running:
            job.status = "STOPPED"
        return 200, {"stopped": running}

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, object]:
        """Status, and text or what is sent as JSON."""
        if f"{method} {path}" in self.broken:
            return 500, 'Traceback (most recent call last):\n  File "x.py"\nTimeoutError: Failed to get head node agent'
        match (method, *path.strip("/").split("/")):
            case ("GET", "api", "version"):
                return 200, {"version": "4", "ray_version": version("ray"), "ray_commit": "", "session_name": ""}
            case ("GET", "api", "v0", "nodes?detail=1"):
                return 200, {"data": {"result": {"result": []}}}
            case ("GET", "api", "cluster_status"):
                return 200, {}
            case ("GET", "api", "packages", "gcs", package):
                return (200, "") if package in self.packages else (404, f"Package gcs://{package} does not exist")
            case ("PUT", "api", "packages", "gcs", package):
                self.packages[package] = body
                return 200, ""
            case ("GET", "api", "jobs"):
                self.on_list()
                # Ray lists the drivers of others as well.
                driver = {"type": "DRIVER", "job_id": "01000000", "submission_id": None, "status": "RUNNING"}
                return 200, [*(job.details() for job in self.jobs.values()), {**driver, "entrypoint": "python"}]
            case ("POST", "api", "jobs"):
                return self.submit(json.loads(body))
            case (_, "api", "jobs", submission, *_) if submission not in self.jobs:
                return 404, f"Job {submission} does not exist"
            case ("GET", "api", "jobs", submission):
                return 200, self.jobs[submission].details()
            case ("GET", "api", "jobs", submission, "logs"):
                return 200, {"logs": self.logs.get(submission, "")}
            case ("POST", "api", "jobs", submission, "stop"):
                return self.stop(self.jobs[submission])
        return 404, "404: Not Found"


def _handler(api: JobApi) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            sent = self.headers.get("Authorization")
            if sent is None:
                self._send(401, "Unauthorized: Missing authentication token")
                return
            if sent != f"Bearer {api.token}":
                self._send(403, "Forbidden: Invalid authentication token")
                return
            api.requests.append(f"{self.command} {self.path}")
            status, answer = api.answer(self.command, self.path, body)
            time.sleep(api.delay_s)
            if api.closes_after_submit and self.command == "POST" and self.path == "/api/jobs/":
                self.close_connection = True
                return
            if api.breaks_after_submit and self.command == "POST" and self.path == "/api/jobs/":
                status, answer = 500, "Traceback (most recent call last):\nConnectionError: the agent went away"
            if f"{self.command} {self.path}" in api.unanswered:
                api.over.wait(20)
            self._send(status, answer)

        do_POST = do_PUT = do_GET

        def _send(self, status: int, answer: object) -> None:
            data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if isinstance(answer, str) else "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            with contextlib.suppress(OSError):  # who asked may be gone
                self.wfile.write(data)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    return Handler


@contextlib.contextmanager
def serving(token: str) -> Iterator[tuple[JobApi, int]]:
    """The API on a port of 127.0.0.1."""
    api = JobApi(token)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(api)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield api, server.server_address[1]
        finally:
            api.over.set()
            server.shutdown()
            thread.join()


def head_record(folder: Path, port: int, token: str, timings: Timings = DEFAULT_TIMINGS) -> Head:
    """A head whose Ray is this very process; its token's file lies in `folder`."""
    token_file = folder / "head-token"
    write_private(token_file, token + "\n")
    own, ticks = os.getpid(), start_ticks_of(os.getpid())
    assert ticks is not None
    return Head(
        id="without-ray",
        node=NodeStart(
            name="attic", address="127.0.0.1", interface="lo", cpus=2, gpus=(), labels=node_labels("attic", (), {}),
            object_store_mib=100,
        ),
        ports=Ports(dashboard=port),
        token_file=token_file,
        temp_dir=folder,
        processes=(
            ProcessRef(name="ray", pid=own, start_ticks=ticks, boot_id=boot_id(), log=folder / "log"),
        ),
        timings=timings,
    )  # fmt: skip


def token_of_this_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The token that Ray sends from this process: the first that it has read, for as long as the process lives."""
    from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled

    write_private(folder / "first-token", "a" * 64 + "\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(folder / "first-token"))
    # Private, and the only way to know it: an API without tokens would not show that they are sent.
    [sent] = get_auth_headers_if_auth_enabled({}).values()
    return sent.removeprefix("Bearer ")


@dataclass(frozen=True)
class WithoutRay:
    """A head that is recorded in a state folder of the test's own."""

    head: Head
    api: JobApi


@contextlib.contextmanager
def head_without_ray(
    folder: Path, monkeypatch: pytest.MonkeyPatch, timings: Timings = DEFAULT_TIMINGS
) -> Iterator[WithoutRay]:
    """Serve the API and record its head; `folder` is the test's own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    token = token_of_this_process(folder, monkeypatch)
    with serving(token) as (api, port):
        head = head_record(folder, port, token, timings)
        # A client sets these for its whole process.
        for key in (*head.environment(), "NO_PROXY", "no_proxy", "http_proxy", "RAY_AUTH_TOKEN"):
            if key != "RAY_AUTH_TOKEN_PATH":
                monkeypatch.setenv(key, "")
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        write_member(head_file(), head)
        yield WithoutRay(head, api)


def nearly_without_code(folder: Path) -> RunFolder:
    """A run in `folder` that can be submitted, with next to no code to be sent."""
    (folder / "data").mkdir()
    run = create_run(Recipe(name="line", data=folder / "data", out=folder / "runs", steps=100))
    keep_little(run)
    return run


def keep_little(run: RunFolder) -> None:
    """What the head keeps of a submitted run, with next to no code."""
    keep_recipe(run, run.recipe())
    [folder] = (state_folder() / "runs").glob(f"{run.id}-*")
    (folder / "source-00000000").mkdir(exist_ok=True)
    (folder / "source-00000000" / "code.py").touch()
    (folder / "code").write_text("source-00000000\n")


def cluster_with(timings: Timings = DEFAULT_TIMINGS) -> Any:
    """A fixture `cluster`: a head without Ray, with these waits, for each test of a module."""

    @pytest.fixture
    def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WithoutRay]:
        with head_without_ray(tmp_path, monkeypatch, timings) as head:
            yield head

    return cluster
