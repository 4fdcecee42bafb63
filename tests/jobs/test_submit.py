import asyncio
import os
import socket
import socketserver
import threading

import pytest

from cluster.facts import look
from cluster.head import Head, state_folder
from cluster.plan import Ports, node_start
from cluster.processes import ProcessRef
from cluster.token import create_token
from jobs.errors import JobsFailure
from jobs.ledger import Ledger
from jobs.recipe import Recipe
from jobs.runs import create_run
from jobs.submit import follow_logs, job_logs, start, stop_job, submitted_runs, told
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
    token_file = tmp_path / "token"
    create_token(token_file)
    head = Head(
        id="dead",
        node=node_start(look()),
        ports=Ports(dashboard=port),
        token_file=token_file,
        temp_dir=tmp_path,
        processes=(ProcessRef(name="ray", pid=1, start_ticks=0, boot_id="", log=tmp_path / "log"),),
    )
    for key in (*head.environment(), "NO_PROXY", "no_proxy", "http_proxy", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(key, "")
    return head


def test_a_run_of_the_same_name_in_another_folder_is_refused_before_anything_changes(recipe, dead_head, tmp_path):
    first = create_run(recipe)
    Ledger(state_folder()).submitted(first, 1, f"{first.id}.a1")
    other = create_run(recipe.model_copy(update={"out": tmp_path / "other"}))
    assert other.id == first.id
    assert submitted_runs() == [first.id]
    with pytest.raises(UserError, match=f"{first.path} was submitted under this name"):
        start(dead_head, other)
    assert other.newest_attempt() == 0
    assert other.state().state == "pending"
    assert Ledger(state_folder()).row(first.id).folder == str(first.path)


def test_a_run_that_the_head_did_not_take_has_failed_and_is_not_kept(recipe, dead_head):
    run = create_run(recipe)
    with pytest.raises(JobsFailure, match="the head did not take the job"):
        start(dead_head, run)
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
    assert told(RuntimeError(traceback)) == expected
    assert told(ConnectionError("Failed to connect:\n  refused")) == "Failed to connect: refused"


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
