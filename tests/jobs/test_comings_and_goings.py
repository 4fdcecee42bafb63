"""A run on whatever PCs are there, in a LAN in a box, and everything that happens to them: a soak of a few minutes.

Each row of the table is a test of its own, in this order, on the same run; then what must hold at its end. In float64
the weights are those of one process that was never disturbed, to 1e-8: in float32 the rounding of other sums alone
drifts apart by more. No time is asserted: `python -m tests.bench recovery` measures it, and `python -m tests.box.soak`
goes on for hours.
"""

import pytest

from jobs.checkpoint import read_newest
from jobs.runs import RunFolder
from tests.box.events import EVENTS, Scene
from tests.box.runs import Run, start_cluster
from tests.box.soak import (
    HUNG_AFTER_S,
    NEXT_STEP_WITHIN,
    WEIGHTS_WITHIN,
    begin,
    finish,
    next_steps_off,
    steps_wrongly_taken,
    undisturbed_weights,
    weights_off,
)
from tests.lan import Lan, require

pytestmark = pytest.mark.ray

STEPS = 700
TABLE = {
    "worker killed": "starting again from step",
    "worker slower": "",
    "cable pulled": "answers no more",
    "PC back": "joins",
    "storage away": "",
    "share away on one PC": "is not there any more",
    "worker hangs": f"no step for {HUNG_AFTER_S} s",
    "PC drained": "is drained",
    "checkpoint damaged": "starting again from step",
    "driver killed": "start 2.1: 2 worker(s)",
}
"""Event → what the user reads of it in `vr jobs show`. The head's Ray is killed in `test_run_on_several_pcs`."""


@pytest.fixture(scope="module")
def lan():
    require()
    with Lan("attic", "study", "den") as box:
        start_cluster(box["attic"], box["study"], box["den"])
        yield box


@pytest.fixture(scope="module")
def run(lan) -> Run:
    return begin(lan, STEPS)


@pytest.fixture(scope="module")
def scene(lan, run) -> Scene:
    return Scene(lan, run)


def test_it_starts_on_all_that_are_there(run):
    assert set(run.await_started("1.1")) == {"attic", "study", "den"}
    run.await_steps(25)


@pytest.mark.parametrize("event", TABLE)
def test_it_goes_on_after(event, scene, run):
    before = len(run.events())
    figures = EVENTS[event](scene)
    print(figures)
    said = " ".join(line["said"] for line in run.events()[before:])
    assert TABLE[event] in said
    assert set(scene.workers()) == {"attic", "study", "den"} - {*scene.cut, *scene.drained}
    if event in ("PC back", "PC drained", "storage away"):
        assert figures["steps_again"] == 0, "it leaves with a checkpoint"
    if event == "worker slower":
        assert figures["share_after"] < figures["share_before"]


def test_every_step_once_and_the_weights_of_an_undisturbed_run(run, tmp_path):
    run.await_one_more_step()
    finish(run)
    assert run.state["attempt"] == 2
    assert steps_wrongly_taken(run) == {}
    assert read_newest(RunFolder(run.folder))[0].row.step == STEPS
    assert weights_off(run, undisturbed_weights(run, tmp_path / "undisturbed")) < WEIGHTS_WITHIN
    off = next_steps_off(run, tmp_path, every=5)
    assert len(off) > 3
    assert max(off.values()) < NEXT_STEP_WITHIN["float64"]
