"""A run on whatever PCs are there, in a LAN in a box: a worker killed, a cable pulled, the PC back; nothing is lost.

In float64 the weights at the end are those of one process that was never disturbed, to 1e-8: in float32 the rounding of
other sums alone drifts apart by more. No time is asserted: `python -m tests.bench recovery` measures it.
"""

import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from jobs.checkpoint import read_newest
from jobs.recipe import NodesSpec, Recipe
from jobs.runs import RunFolder
from tests.box.runs import PATIENCE_S, Run, join, share_data, start_cluster, submit
from tests.jobs.test_train import distance, here, last_weights, new_run, recipe_of
from tests.lan import SHARED, Lan, await_true, require
from vr_core.config import plain
from vr_core.specs import StftSpec

pytestmark = [pytest.mark.ray, pytest.mark.slow]

STEPS = 240
CHECKPOINT_STEPS = 20
LINK_MBIT = 8
"""Slow, so that the gradients of a small model make steps long enough for all that happens meanwhile."""


@pytest.fixture(scope="module")
def lan():
    require()
    with Lan("attic", "study", "den") as box:
        start_cluster(box["attic"], box["study"], box["den"])
        yield box


def recipe(data: Path, **changes) -> Recipe:
    settings = {
        "steps": STEPS, "batch.items": 9, "precision": "float64", "checkpoint.every_steps": CHECKPOINT_STEPS,
        "checkpoint.keep": 2, "validation.every_steps": STEPS, "workers.device": "cpu", "optim.lr": 1e-3,
    }  # fmt: skip
    return recipe_of(data, **settings, **changes)


@pytest.fixture(scope="module")
def run(lan) -> Run:
    data = share_data(lan, StftSpec(n_fft=64, hop=32))
    for host in lan.hosts.values():
        host.rate(LINK_MBIT)
    return submit(lan, lan["attic"], recipe(data, out=f"{SHARED}/runs", nodes=plain(NodesSpec(min=2, leave_out=False))))


def test_it_starts_on_all_that_are_there(run):
    assert set(run.await_started("1.1")) == {"attic", "study", "den"}
    run.await_steps(CHECKPOINT_STEPS + 5)


def test_a_killed_worker_costs_the_steps_since_the_last_checkpoint(run):
    killed_s = time.time()
    os.kill(run.worker_pids("1.1")["den"], signal.SIGKILL)
    assert set(run.await_started("1.2")) == {"attic", "study", "den"}
    said = run.await_event("died", killed_s)["said"]
    assert "starting again from step" in said
    run.await_steps(CHECKPOINT_STEPS, time.time())


def test_a_pulled_cable_is_noticed_and_the_rest_goes_on(lan, run):
    cut_s = time.time()
    lan["study"].cut()
    assert "study answers no more" in run.await_event("no more", cut_s)["said"]
    assert set(run.await_started("1.3")) == {"attic", "den"}
    run.await_steps(CHECKPOINT_STEPS, time.time())


def test_a_pc_that_is_back_joins_with_a_checkpoint_first(lan, run):
    lan["study"].mend()
    lan["study"].vr("cluster", "down", "--yes")
    back_s = time.time()
    join(lan["attic"], lan["study"])
    run.await_event("study joins", back_s)
    run.await_event("start 1.4: 3", back_s)
    left_with = RunFolder(run.folder).last_step()  # before a worker of the new start can have taken a step
    assert set(run.await_started("1.4")) == {"attic", "study", "den"}
    left, started = (run.await_event(words, back_s) for words in ("start 1.4: 3", "start 1.4: all workers"))
    # Nothing is computed again: the last step that was taken is that of the checkpoint that it left with.
    assert left["step"] == started["step"] == left_with


def test_every_step_once_and_the_weights_of_an_undisturbed_run(lan, run, tmp_path):
    run.await_one_more_step()
    for host in lan.hosts.values():
        host.rate(None)
    await_true(lambda: run.state["state"] not in ("pending", "running"), "the end", PATIENCE_S)
    assert run.state["state"] == "finished", run.state
    assert run.state["attempt"] == 1
    assert Counter(line["step"] for line in run.lines("step")) == Counter(range(1, STEPS + 1))
    undisturbed = new_run(tmp_path / "undisturbed", recipe(lan.shared / "data"))
    here(undisturbed)
    assert distance(last_weights(RunFolder(run.folder)), last_weights(undisturbed)) < 1e-8
    assert read_newest(undisturbed)[0].row.step == STEPS
