"""Runs through a real head, a second node, Ray jobs and the keeper; each event once."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from cluster.node.head import Head, state_folder, unchanging
from cluster.node.processes import alive
from jobs.queue.client import stop_run
from jobs.queue.submit import job_states
from jobs.queue.submit import start as submit
from jobs.queue.table import Ledger
from jobs.runs.creation import create_run
from jobs.runs.folder import RunFolder
from jobs.runs.liveness import look_for_driver
from jobs.runs.metrics import read_metrics
from jobs.runs.starts import starts
from jobs.runs.summary import read_summary
from tests.jobs import training
from tests.jobs.heads import PATIENCE_S, wait_for
from tests.jobs.lines import start_line
from tests.loopback import Loopback
from vr_core.small_files import read_json

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("head")]

STEPS = 120


@pytest.fixture(scope="module")
def head(loopback: Loopback) -> Head:
    """With its keeper; a node beside it."""
    return loopback.head


def ended(run: RunFolder) -> bool:
    return run.state().state not in ("pending", "running")


def test_a_mistake_of_the_user_is_told_once_and_a_stopped_run_stays_stopped(head, tmp_path):
    wrong = start_line(head, tmp_path, seed=2, workers={"count": 1})
    waiting = start_line(head, tmp_path, seed=4, workers={"count": 1})
    wait_for("the failure", lambda: ended(wrong), head, wrong)
    state = wrong.state()
    assert (state.state, state.user_error, state.attempt) == ("failed", True, 1)
    assert state.why == "data: the shard is cut short; prepare it again"

    # Stopped before its driver can listen.
    early = start_line(head, tmp_path, seed=5, workers={"count": 1})
    assert stop_run(early, head).state == "stopped"

    wait_for("some steps", lambda: waiting.last_step() >= 4, head, waiting)
    stopped = stop_run(waiting, head)
    assert (stopped.state, stopped.attempt) == ("stopped", 1)
    wait_for("both closed", lambda: not Ledger(state_folder()).rows(only_open=True), head, waiting)
    assert look_for_driver(waiting, stopped).known == "dead"
    # Ray notes the end of a job once its driver has gone.
    names = {f"{wrong.id}.a1": "FAILED", f"{waiting.id}.a1": "STOPPED"}
    wait_for("both jobs ended", lambda: names.items() <= job_states(head).items(), head, waiting)


def kill_between_checkpoints(run: RunFolder, after: int, pid: Callable[[], int]) -> None:
    """SIGKILL once a checkpoint after step `after` is there: somewhere within the steps that follow it."""
    deadline_s = time.monotonic() + PATIENCE_S
    while run.last_step() <= after:
        assert time.monotonic() < deadline_s, run.state()
        time.sleep(0.01)
    os.kill(pid(), signal.SIGKILL)
    assert run.last_step() < run.recipe().steps, "killed too late to show anything"


def test_the_training_loop_on_two_nodes_outlives_a_killed_driver_and_keeper(loopback, head, tiny_data, tmp_path):
    changes = {
        "out": str(tmp_path / "runs"),
        "steps": STEPS,
        "workers.count": 2,
        "workers.shares": "equal",  # or two runs differ by the rounding of other sums
        "workers.device": "cpu",
        "workers.labels": [{"room": "cellar"}, {"vr/node": "attic"}],
        "checkpoint.every_steps": 10,
        "validation.every_steps": STEPS,
    }
    recipe = training.recipe_of(tiny_data, **changes)
    undisturbed = training.new_run(tmp_path / "undisturbed", recipe)
    training.finish(training.start(undisturbed, 2, tmp_path / "meeting"))

    run = create_run(recipe)
    submit(head, run, recipe)

    def machines(fit: str) -> list[dict]:
        return read_json(run.origin_file)["machines"].get(fit, [])

    def driver() -> int:
        return read_json(run.attempt_folder(run.newest_attempt()) / "driver.json")["pid"]

    wait_for("the first start", lambda: machines("1.1"), head, run)
    kill_between_checkpoints(run, 0, driver)
    # Both ranks again on the machines that the recipe names.
    wait_for("the keeper's attempt", lambda: machines("2.1"), head, run)
    assert [machine["labels"]["vr/node"] for machine in machines("2.1")] == ["cellar", "attic"]

    keeper = next(ref for ref in head.processes if ref.name == "keeper")
    with unchanging():  # or the head's supervisor would start another keeper at once
        os.kill(keeper.pid, signal.SIGKILL)
        kill_between_checkpoints(run, run.last_step(), driver)
        wait_for("nobody to carry it", lambda: look_for_driver(run, run.state()).known == "dead", head, run)
        assert run.state().state == "running"
        resume = [sys.executable, "-m", "jobs.cli", "jobs", "resume", str(run.path)]
        subprocess.run(resume, check=True, timeout=PATIENCE_S)
    wait_for("the end", lambda: ended(run), head, run)
    state = run.state()
    assert (state.state, state.step, state.attempt) == ("finished", STEPS, 3)
    assert training.distance(training.last_weights(run), training.last_weights(undisturbed)) < 1e-5
    assert [str(start) for start in starts(run)] == ["1.1", "2.1", "3.1"]
    assert [line["step"] for line in read_metrics(run) if line["kind"] == "step"] == [*range(1, STEPS + 1)]
    summary = read_summary(run)
    assert summary is not None
    assert (summary.step, summary.left_s) == (STEPS, 0.0)
    names = {f"{run.id}.a1": "FAILED", f"{run.id}.a2": "FAILED", f"{run.id}.a3": "SUCCEEDED"}
    wait_for("the jobs ended", lambda: names.items() <= job_states(head).items(), head, run)
    wait_for("another keeper", lambda: keeper not in loopback.head.processes and keepers(loopback.head), head, run)


def keepers(head):
    return [ref for ref in head.processes if ref.name == "keeper" and alive(ref)]
