"""Runs through a real head, a second node, Ray jobs and the keeper; each event once."""

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from cluster.errors import ClusterFailure
from cluster.facts import look
from cluster.head import Head, state_folder
from cluster.inventory import NodeSpec
from cluster.lifecycle import Companion, join, start_head, stop
from cluster.plan import node_start
from jobs.control import stop_run
from jobs.driver import is_driven
from jobs.ledger import Ledger
from jobs.recipe import Recipe
from jobs.runs import RunFolder, create_run, read_json
from jobs.submit import job_states, keep_source, submit_attempt
from tests.jobs import loops
from vr_core.config import validate

pytestmark = pytest.mark.ray

PATIENCE_S = 240
Started = TypeVar("Started")


def until_up(act: Callable[[], Started]) -> Started:
    """Ray gives a node 30 s to register, whatever it is told; a busy machine needs another try."""
    for _ in range(4):
        with contextlib.suppress(ClusterFailure):
            return act()
    return act()


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """A head with its keeper and one more node, both on loopback addresses of their own."""
    facts = look()
    first = NodeSpec(name="attic", address="127.0.0.2", role="head", gpus=(), cpus=2, labels={"room": "attic"})
    second = NodeSpec(name="cellar", address="127.0.0.3", gpus=(), cpus=1, labels={"room": "cellar"})
    try:
        keeper = Companion(name="keeper", argv=(sys.executable, "-m", "jobs.keeper"))
        started, _ = until_up(lambda: start_head(node_start(facts, first, port_base=0), [keeper]))
        until_up(lambda: join(node_start(facts, second, port_base=0, head=started.gcs_address), started.token_file))
        yield started
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


def wait_for(what: str, condition: Callable[[], object], run: RunFolder, head: Head) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > end_s:
            log = (state_folder() / "keeper.log").read_text()
            pytest.fail(f"{what}: not after {PATIENCE_S} s; {run.state()}; jobs {job_states(head)}; keeper: {log}")
        time.sleep(0.1)


def ended(run: RunFolder) -> bool:
    return run.state().state not in ("pending", "running")


def test_a_run_outlives_a_killed_worker_and_a_killed_driver(head, tmp_path):
    labels = [{"room": "cellar"}, {"room": "attic"}]
    run = start(head, tmp_path, seed=3, workers={"count": 2, "labels": labels})
    wait_for("step 4", lambda: run.last_step() == 4, run, head)
    # The supervisor has started the killed rank again, on the machines that the recipe names.
    wait_for("both starts noted", lambda: len(read_json(run.origin_file)["machines"]) == 2, run, head)
    machines = read_json(run.origin_file)["machines"]["1.2"]
    assert [machine["labels"]["room"] for machine in machines] == ["cellar", "attic"]
    assert run.state().attempt == 1

    os.kill(read_json(run.attempt_folder(1) / "driver.json")["pid"], signal.SIGKILL)
    (run.path / "go").touch()
    wait_for("the end", lambda: ended(run), run, head)
    state = run.state()
    assert (state.state, state.step, state.attempt) == ("finished", 6, 2)
    # Descent on a parabola with its minimum at 0.5, whatever was killed: w = 0.5 + 0.5 · 0.9^6.
    saved = read_json(run.checkpoints / "step-00000006" / "checkpoint.json")
    assert saved["w"] == pytest.approx(0.5 + 0.5 * 0.9**6, rel=1e-5)
    wait_for("closed", lambda: not Ledger(state_folder()).row(run.id).open, run, head)
    assert job_states(head)[f"{run.id}.a1"] == "FAILED"


def test_a_mistake_of_the_user_is_told_once_and_a_stopped_run_stays_stopped(head, tmp_path):
    wrong = start(head, tmp_path, seed=2, workers={"count": 1})
    waiting = start(head, tmp_path, seed=4, workers={"count": 1})
    wait_for("the failure", lambda: ended(wrong), wrong, head)
    state = wrong.state()
    assert (state.state, state.user_error, state.attempt) == ("failed", True, 1)
    assert state.why == "data: the shard is cut short; prepare it again"

    wait_for("some steps", lambda: waiting.last_step() >= 4, waiting, head)
    stopped = stop_run(waiting, head)
    assert (stopped.state, stopped.attempt) == ("stopped", 1)
    wait_for("both closed", lambda: not Ledger(state_folder()).rows(only_open=True), waiting, head)
    assert not is_driven(waiting, stopped)
    # Ray notes the end of a job once its driver has gone.
    names = {f"{wrong.id}.a1": "FAILED", f"{waiting.id}.a1": "STOPPED"}
    wait_for("both jobs ended", lambda: names.items() <= job_states(head).items(), waiting, head)
