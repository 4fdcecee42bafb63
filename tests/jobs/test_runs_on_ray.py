"""Runs through a real head, a second node, Ray jobs and the keeper; each event once."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.admission import ADMISSION
from cluster.facts import look
from cluster.head import Head, state_folder
from cluster.inventory import NodeSpec
from cluster.lifecycle import join, start_head, stop
from cluster.plan import node_start
from cluster.rotate import rotate
from cluster.token import read_token, write_private
from cluster.versions import own_versions
from jobs.control import stop_run
from jobs.driver import is_driven
from jobs.keeper import KEEPER
from jobs.ledger import Ledger
from jobs.recipe import Recipe
from jobs.runs import RunFolder, create_run, read_json
from jobs.submit import job_states, keep_source, submit_attempt
from jobs.submit import start as submit
from tests.jobs import loops, training
from tests.jobs.heads import PATIENCE_S, until_up, wait_for
from vr_core.config import validate

pytestmark = pytest.mark.ray

STEPS = 400


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """A head with its keeper and one more node, both on loopback addresses of their own."""
    facts = look()
    first = NodeSpec(name="attic", address="127.0.0.2", role="head", gpus=(), cpus=2, labels={"room": "attic"})
    second = NodeSpec(name="cellar", address="127.0.0.3", gpus=(), cpus=1, labels={"room": "cellar"})
    try:
        started, _ = until_up(lambda: start_head(node_start(facts, first, port_base=0), [KEEPER]))
        token = read_token(started.token_file)
        until_up(lambda: join(node_start(facts, second, port_base=0, head=started.gcs_address), token))
        yield started
        # Ray keeps the first token that it reads for the life of a process: later tests need it in this one.
        stop()
        write_private(started.token_file, token + "\n")
    finally:
        stop()


def start(head: Head, out: Path, seed: int, workers: dict) -> RunFolder:
    """Submit a run of the small loop in place of the training loop: a run is the code in its folder."""
    (out / "data").mkdir(exist_ok=True)
    recipe = {
        "name": "line",
        "data": out / "data",
        "out": out / "runs",
        "seed": seed,
        "steps": 6,
        "workers": workers,
        "optim": {"warmup_steps": 0},
    }
    run = create_run(validate(Recipe, recipe, "test"))
    keep_source(run)
    shutil.copy(loops.__file__, run.path / "source" / "jobs" / "train.py")
    submit_attempt(head, run, idle=0)
    return run


def ended(run: RunFolder) -> bool:
    return run.state().state not in ("pending", "running")


def test_a_mistake_of_the_user_is_told_once_and_a_stopped_run_stays_stopped(head, tmp_path):
    wrong = start(head, tmp_path, seed=2, workers={"count": 1})
    waiting = start(head, tmp_path, seed=4, workers={"count": 1})
    wait_for("the failure", lambda: ended(wrong), head, wrong)
    state = wrong.state()
    assert (state.state, state.user_error, state.attempt) == ("failed", True, 1)
    assert state.why == "data: the shard is cut short; prepare it again"

    # Stopped before its driver can listen.
    early = start(head, tmp_path, seed=5, workers={"count": 1})
    assert stop_run(early, head).state == "stopped"

    wait_for("some steps", lambda: waiting.last_step() >= 4, head, waiting)
    stopped = stop_run(waiting, head)
    assert (stopped.state, stopped.attempt) == ("stopped", 1)
    wait_for("both closed", lambda: not Ledger(state_folder()).rows(only_open=True), head, waiting)
    assert not is_driven(waiting, stopped)
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


def test_the_training_loop_on_two_nodes_outlives_a_killed_driver_and_keeper(head, tiny_data, tmp_path):
    changes = {
        "out": str(tmp_path / "runs"),
        "steps": STEPS,
        "workers.count": 2,
        "workers.shares": "equal",  # or two runs differ by the rounding of other sums
        "workers.device": "cpu",
        "workers.labels": [{"room": "cellar"}, {"room": "attic"}],
        "checkpoint.every_steps": 10,
        "validation.every_steps": 100,
    }
    recipe = training.recipe_of(tiny_data, **changes)
    undisturbed = training.new_run(tmp_path / "undisturbed", recipe)
    training.finish(training.start(undisturbed, 2, tmp_path / "meeting"))

    run = create_run(recipe)
    submit(head, run)

    def machines(fit: str) -> list[dict]:
        return read_json(run.origin_file)["machines"].get(fit, [])

    def driver() -> int:
        return read_json(run.attempt_folder(run.newest_attempt()) / "driver.json")["pid"]

    wait_for("the first start", lambda: machines("1.1"), head, run)
    kill_between_checkpoints(run, 0, driver)
    # Both ranks again on the machines that the recipe names.
    wait_for("the keeper's attempt", lambda: machines("2.1"), head, run)
    assert [machine["labels"]["room"] for machine in machines("2.1")] == ["cellar", "attic"]

    os.kill(head.processes[1].pid, signal.SIGKILL)
    kill_between_checkpoints(run, run.last_step(), driver)
    wait_for("nobody to carry it", lambda: not is_driven(run, run.state()), head, run)
    assert run.state().state == "running"
    subprocess.run([sys.executable, "-m", "jobs.cli", "jobs", "resume", str(run.path)], check=True, timeout=PATIENCE_S)
    wait_for("the end", lambda: ended(run), head, run)
    state = run.state()
    assert (state.state, state.step, state.attempt) == ("finished", STEPS, 3)
    assert training.distance(training.last_weights(run), training.last_weights(undisturbed)) < 1e-5
    names = {f"{run.id}.a1": "FAILED", f"{run.id}.a2": "FAILED", f"{run.id}.a3": "SUCCEEDED"}
    wait_for("the jobs ended", lambda: names.items() <= job_states(head).items(), head, run)


def test_a_run_goes_on_when_the_token_was_changed(head, tmp_path):
    # On the head: the other node is out until it joins again. A job's name is taken for good, so no recipe comes twice.
    run = start(head, tmp_path, seed=4, workers={"count": 1, "labels": [{"room": "attic"}]})
    wait_for("some steps", lambda: run.last_step() >= 4, head, run)
    old = read_token(head.token_file)
    rotated = until_up(lambda: rotate([KEEPER, ADMISSION], ["cellar"], own_versions()))
    assert read_token(head.token_file) != old
    assert list(rotated.codes) == ["cellar"]
    wait_for("the end", lambda: ended(run), rotated.head, run)
    assert (run.state().state, run.last_step(), run.state().attempt) == ("finished", 6, 2)
