import asyncio
import io
import os
import re
import shlex
import shutil
import socket
import socketserver
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from cluster.errors import TokenError
from cluster.node.head import Head, state_folder
from jobs.errors import ClaimLost, JobsFailure, JobUnknown, RunExists
from jobs.execution import launch
from jobs.execution.ray_session import DRIVER_ENVIRONMENT
from jobs.queue.kept import require_kept
from jobs.queue.submit import (
    error_summary,
    follow_logs,
    job_logs,
    job_states,
    start,
    stop_job,
    submit_next,
    submitted_runs,
)
from jobs.queue.table import Ledger
from jobs.recipe import Recipe
from jobs.runs.creation import create_run
from jobs.runs.folder import RunFolder
from tests.jobs.drivers import dies, drives
from tests.jobs.job_api import cluster_with, head_record, nearly_without_code
from tests.jobs.ledgers import closed, recorded
from vr_core.errors import UserError


@pytest.fixture
def recipe(tmp_path, monkeypatch) -> Recipe:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "data").mkdir()
    return Recipe(name="line", data=tmp_path / "data", out=tmp_path / "runs", steps=100)


@pytest.fixture
def dead_head(tmp_path, monkeypatch) -> Head:
    """A head whose ports nobody listens on."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    head = head_record(tmp_path, port, "0" * 64)
    for key in (*head.environment(), "NO_PROXY", "no_proxy", "http_proxy", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(key, "")
    return head


def test_a_run_of_the_same_name_in_another_folder_is_refused_before_anything_changes(recipe, dead_head, tmp_path):
    first = create_run(recipe)
    recorded(Ledger(state_folder()), first)
    other = create_run(recipe.model_copy(update={"out": tmp_path / "other"}))
    assert other.id == first.id
    assert submitted_runs() == [first.id]
    with pytest.raises(UserError, match=f"{first.path} was submitted under this name"):
        start(dead_head, other, other.recipe())
    assert other.newest_attempt() == 0
    assert other.state().state == "pending"
    assert Ledger(state_folder()).row(first.id).folder == str(first.path)


def test_a_run_that_the_head_did_not_take_has_failed_and_is_not_kept(recipe, dead_head):
    run = create_run(recipe)
    with pytest.raises(JobsFailure, match="the head did not take the job"):
        start(dead_head, run, run.recipe())
    state = run.state()
    assert (state.state, state.user_error) == ("failed", False)
    assert "did not take" in state.why
    assert not Ledger(state_folder()).row(run.id).open


def test_of_a_traceback_the_end_is_told():
    traceback = """Request failed with status code 500: Traceback (most recent call last):
  File "/x/job_head.py", line 419, in submit_job
    resp = await client.submit_job_internal(request)
ValueError: Job with submission_id line-1.a1 already exists.
Please use a different submission_id
.
"""
    expected = "Job with submission_id line-1.a1 already exists. Please use a different submission_id ."
    assert error_summary(RuntimeError(traceback)) == expected
    assert error_summary(ConnectionError("Failed to connect:\n  refused")) == "Failed to connect: refused"


def test_a_head_that_does_not_answer_is_one_line(dead_head):
    with pytest.raises(JobsFailure, match="no logs"):
        job_logs(dead_head, "line-1.a1")
    with pytest.raises(JobsFailure, match="cannot be stopped"):
        stop_job(dead_head, "line-1.a1")

    async def follow() -> None:
        async for _ in follow_logs(dead_head, "line-1.a1"):
            pass

    with pytest.raises(JobsFailure, match="no more of its output"):
        asyncio.run(follow())


def test_the_token_goes_through_no_proxy(dead_head, monkeypatch):
    met = []

    class Proxy(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            met.append(self.request.recv(9999))

    with socketserver.TCPServer(("127.0.0.1", 0), Proxy) as proxy:
        thread = threading.Thread(target=proxy.serve_forever)
        thread.start()
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.server_address[1]}")
        monkeypatch.setenv("no_proxy", "example.org")
        try:
            with pytest.raises(JobsFailure):
                job_logs(dead_head, "line-1.a1")
        finally:
            proxy.shutdown()
            thread.join()
    assert met == []
    assert os.environ["no_proxy"] == "example.org,127.0.0.1"
    assert "RAY_AUTH_TOKEN" not in os.environ


cluster = cluster_with()


def test_a_job_is_the_driver_of_the_next_attempt_with_the_code_of_this_process(cluster, recipe):
    run = create_run(recipe)
    assert start(cluster.head, run, run.recipe()) == f"{run.id}.a1"
    [job] = cluster.api.jobs.values()
    assert job.status == "PENDING"
    own = require_kept(run)
    words = ["-m", "jobs.execution.launch", str(run.path), "1", "--recipe", str(own.recipe_file)]
    assert job.entrypoint == shlex.join([sys.executable, *words])
    assert {**job.metadata, "request": ""} == {"run": run.id, "recipe": "line", "attempt": "1", "request": ""}
    known = {"RAY_JOB_STOP_WAIT_TIME_S": "40", "VR_DASHBOARD_PORT": str(cluster.head.ports.dashboard)}
    assert job.runtime_env["env_vars"] == DRIVER_ENVIRONMENT | known
    assert job.runtime_env["worker_process_setup_hook"] == "cluster.trust.ray_requests.guard"
    [(name, package)] = cluster.api.packages.items()
    assert job.runtime_env["working_dir"] == f"gcs://{name}"
    with zipfile.ZipFile(io.BytesIO(package)) as code:
        kept = code.read("jobs/execution/launch.py")
    assert kept == Path(launch.__file__).read_bytes() == (run.path / "source/jobs/execution/launch.py").read_bytes()
    row = Ledger(state_folder()).row(run.id)
    assert (row.attempt, row.submission, row.wanted, row.open) == (1, f"{run.id}.a1", "running", 1)
    assert (run.state().state, run.state().why) == ("pending", "submitted")
    assert job_states(cluster.head) == {f"{run.id}.a1": "PENDING"}, "the drivers of others have no such id"

    cluster.api.logs[f"{run.id}.a1"] = "step 1\n"
    assert job_logs(cluster.head, f"{run.id}.a1") == "step 1\n"
    stop_job(cluster.head, f"{run.id}.a1")
    assert job_states(cluster.head) == {f"{run.id}.a1": "STOPPED"}


def test_code_that_the_head_has_is_not_sent_again(cluster, recipe):
    run = create_run(recipe)
    start(cluster.head, run, run.recipe())
    drives(run)
    with pytest.raises(RunExists, match="is running already"):
        start(cluster.head, run, run.recipe())
    dies(run)
    start(cluster.head, run, run.recipe())
    assert list(cluster.api.jobs) == [f"{run.id}.a1", f"{run.id}.a2"]
    assert sum(request.startswith("PUT /api/packages/") for request in cluster.api.requests) == 1


def test_an_id_is_taken_for_good_by_the_first_job(cluster, recipe):
    """A run of the same name on a head that remembers the job of one that was deleted."""
    run = create_run(recipe)
    start(cluster.head, run, run.recipe())
    closed(Ledger(state_folder()), run)
    shutil.rmtree(run.path)
    again = create_run(recipe)
    assert again.id == run.id
    before = dict(cluster.api.jobs)
    with pytest.raises(JobsFailure, match=f"Job with submission_id {run.id}.a1 already exists"):
        start(cluster.head, again, again.recipe())
    assert again.state().state == "failed"
    assert cluster.api.jobs == before


def test_what_the_head_says_is_told_in_one_line(cluster, recipe):
    with pytest.raises(JobsFailure, match="job nobody.a1: cannot be stopped .*Job nobody.a1 does not exist"):
        stop_job(cluster.head, "nobody.a1")
    with pytest.raises(JobsFailure, match="job nobody.a1: no logs .*Job nobody.a1 does not exist"):
        job_logs(cluster.head, "nobody.a1")
    cluster.api.token = "b" * 64
    with pytest.raises(TokenError, match="does not accept this token"):
        job_states(cluster.head)


def test_a_token_that_the_job_api_does_not_accept_is_told_in_one_line(cluster, recipe):
    """Ray's client keeps the first token that its process has read, whatever the file says now."""
    cluster.api.token = "b" * 64
    run = create_run(recipe)
    with pytest.raises(JobsFailure, match="the head did not take the job .*Authentication") as failure:
        start(cluster.head, run, run.recipe())
    assert "\n" not in str(failure.value)
    assert cluster.api.jobs == {}


def test_a_head_that_takes_its_time_is_waited_for(cluster, recipe):
    cluster.api.delay_s = 0.3
    run = create_run(recipe)
    start(cluster.head, run, run.recipe())
    assert job_states(cluster.head) == {f"{run.id}.a1": "PENDING"}


def test_a_run_whose_job_was_taken_without_an_answer_is_kept(cluster, recipe):
    cluster.api.closes_after_submit = True
    run = create_run(recipe)
    assert start(cluster.head, run, run.recipe()) == f"{run.id}.a1"
    assert job_states(cluster.head) == {f"{run.id}.a1": "PENDING"}
    assert run.state().state == "pending"
    assert Ledger(state_folder()).row(run.id).open


def test_a_job_that_was_not_taken_and_not_answered_is_told(cluster, recipe):
    cluster.api.closes_after_submit = True
    cluster.api.broken = frozenset({"POST /api/jobs/"})
    run = create_run(recipe)
    with pytest.raises(JobsFailure, match="the head did not take the job"):
        start(cluster.head, run, run.recipe())
    assert run.state().state == "failed"
    assert not Ledger(state_folder()).row(run.id).open


@pytest.fixture
def ready(cluster, tmp_path) -> RunFolder:
    """A run that can be submitted, with next to no code to be sent."""
    return nearly_without_code(tmp_path)


def is_kept(run: RunFolder) -> bool:
    row = Ledger(state_folder()).row(run.id)
    assert row is not None
    return run.state().state == "pending" and bool(row.open) and row.wanted == "running"


def test_a_run_whose_job_was_taken_before_the_head_failed_is_kept(cluster, ready):
    cluster.api.breaks_after_submit = True
    assert submit_next(cluster.head, ready) == f"{ready.id}.a1"
    assert is_kept(ready)


@pytest.mark.parametrize("how", ["closes_after_submit", "breaks_after_submit"])
def test_a_job_that_nobody_can_be_asked_about_has_not_failed(cluster, ready, how):
    setattr(cluster.api, how, True)
    cluster.api.broken = frozenset({"GET /api/jobs/"})
    with pytest.raises(JobUnknown, match="the head did not say whether it took the job") as caught:
        submit_next(cluster.head, ready)
    assert f"see `vr jobs show {ready.path}`" in str(caught.value)
    assert is_kept(ready)


@pytest.mark.parametrize("taken", [True, False])
def test_a_job_that_is_not_answered_in_time_has_not_failed(cluster, ready, taken):
    cluster.api.unanswered = frozenset({"POST /api/jobs/"})
    cluster.api.broken = frozenset() if taken else cluster.api.unanswered
    if taken:
        assert submit_next(cluster.head, ready, within_s=1.0) == f"{ready.id}.a1"
    else:
        with pytest.raises(JobUnknown):
            submit_next(cluster.head, ready, within_s=1.0)
    assert is_kept(ready)


def test_a_head_that_never_answers_is_not_waited_for_for_ever(cluster, ready):
    job = submit_next(cluster.head, ready)
    cluster.api.unanswered = frozenset({f"POST /api/jobs/{job}/stop", f"GET /api/jobs/{job}/logs"})
    with pytest.raises(JobsFailure, match="cannot be stopped .*timed out"):
        stop_job(cluster.head, job, within_s=0.1)
    with pytest.raises(JobsFailure, match="no logs .*timed out"):
        job_logs(cluster.head, job, within_s=0.1)


def test_a_stop_that_is_wished_while_a_run_is_being_submitted_is_kept(cluster, ready):
    class Stopped(RunFolder):
        def begin_attempt(self) -> int:
            attempt = super().begin_attempt()
            Ledger(state_folder()).want_stopped(self.id)
            return attempt

    told = f"somebody else has stopped or submitted it; see `vr jobs show {ready.path}`"
    with pytest.raises(ClaimLost, match=re.escape(told)):
        submit_next(cluster.head, Stopped(ready.path))
    assert cluster.api.jobs == {}
    assert Ledger(state_folder()).row(ready.id).wanted == "stopped"
    assert ready.newest_attempt() == 0
