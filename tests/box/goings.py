"""What must hold after each event of a run on the standing box's PCs, and at the run's end.

A module of such a run is a class with its events: `class TestMine(Goings)`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from jobs.checkpoints.format import read_newest
from jobs.reports.trace import timelines
from jobs.runs.folder import RunFolder
from tests.box.events import EVENTS, Figures, Scene, come_back
from tests.box.runs import Run
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
from tests.lan import Lan, await_true

PCS = {"attic", "study", "den"}
FIRST_STEPS, STEPS_EACH = 70, 30
"""Of the run, before the first event, and for each: more than pass until it is over."""
SAID = {
    "worker killed": "starting again from step",
    "cable pulled": "is not responding",
    "cable back": "joins",
    "PC back": "joins",
    "share away on one PC": "is not there any more",
    "worker hangs": f"no step for {HUNG_AFTER_S} s",
    "PC drained": "is drained",
    "checkpoint damaged": "starting again from step",
    "driver killed": "start 2.1: ",
}
"""Event → what the user reads of it in `vr jobs show`."""
LOGGED = {"storage away": "the storage is back, the checkpoint is written", "checkpoint damaged": "passed over: "}
"""Event → what the user reads of it in `vr jobs logs`."""


def begin_scene(lan: Lan, events: int) -> Scene:
    """A run on all PCs that goes on for longer than so many events; its first steps are taken."""
    run = begin(lan, FIRST_STEPS + STEPS_EACH * events)
    run.await_started("1.1")
    run.await_steps(25)
    return Scene(lan, run)


def restore(scene: Scene) -> None:
    """All PCs are in the cluster again."""
    for name in scene.cut:
        come_back(scene.lan, name)
    for name in scene.drained:
        scene.head.vr("cluster", "undrain", name)
        await_true(lambda name=name: nodes(scene.lan)[name]["alive"], f"{name} is back")


def nodes(lan: Lan) -> dict[str, dict]:
    """Name → what `vr cluster status` says of it."""
    return {row["name"]: row for row in lan["attic"].vr_json("cluster", "status")["nodes"]}


def goes_on_after(event: str, scene: Scene) -> None:
    """Let it happen; the run goes on with who is left, and the user reads of it."""
    run, before = scene.run, len(scene.run.events())
    figures = EVENTS[event](scene)
    print(event, figures, "at step", run.state["step"])
    assert event in {*SAID, *LOGGED, *SEEN}, "whatever happens, the user reads of it"
    if event in SAID:
        assert SAID[event] in " ".join(line["said"] for line in run.events()[before:])
    if event in LOGGED:
        await_true(lambda: LOGGED[event] in scene.log(), LOGGED[event])
    if event in SEEN:
        SEEN[event](scene, figures)
    assert set(scene.workers()) == PCS - {*scene.cut, *scene.drained}
    if event in ("cable back", "PC back", "PC drained", "storage away"):
        assert figures["steps_again"] == 0, "it leaves with a checkpoint"


def is_lost(scene: Scene, _: Figures) -> None:
    """The head says so too, and the PC knows nothing of that."""
    name = scene.cut[-1]
    row = await_true(lambda: [row for row in [nodes(scene.lan)[name]] if not row["alive"]], "Ray misses it as well")[0]
    assert "lost without notice" in row["why"]
    assert "raylet" in scene.lan[name].run(["ps", "-eo", "comm"]).stdout


def is_back_by_itself(scene: Scene, _: Figures) -> None:
    """No run continues in two places: its Ray has ended, and its supervisor has started another."""
    log = scene.lan[scene.returned].home / f".local/state/vr/joined-{scene.returned}.log"
    assert "supervisor: starting Ray again" in log.read_text()
    assert nodes(scene.lan)[scene.returned]["alive"]


def has_less_to_do(scene: Scene, figures: Figures) -> None:
    """As `vr trace` shows it."""
    shown = {bar.machine: bar.items for bar in timelines(RunFolder(scene.run.folder))[-1].bars}
    assert shown[scene.slowed] == figures["share_after"] < figures["share_before"]


SEEN = {"worker slower": has_less_to_do, "cable pulled": is_lost, "cable back": is_back_by_itself}
"""Event → what else is seen of it."""


def takes_every_step_once(run: Run, attempts: int) -> None:
    """Let it come to its end, in so many attempts."""
    run.await_one_more_step()
    finish(run)
    assert run.state["attempt"] == attempts
    assert steps_wrongly_taken(run) == {}
    assert read_newest(RunFolder(run.folder))[0].row.step == run.state["steps"]


def has_undisturbed_weights(run: Run, folder: Path) -> None:
    """At its end, and after the step that follows a checkpoint: those of one process that was never disturbed."""
    assert weights_off(run, undisturbed_weights(run, folder / "undisturbed")) < WEIGHTS_WITHIN
    off = next_steps_off(run, folder, every=3)
    assert len(off) > 3
    assert max(off.values()) < NEXT_STEP_WITHIN["float64"]


class Goings:
    """The tests of one run: each event is one, in this order, and then what must hold at the end."""

    events: ClassVar[tuple[str, ...]]
    attempts: ClassVar[int]
    """In which the run comes to its end."""

    @pytest.fixture(scope="class")
    @classmethod
    def scene(cls, standing_lan: Lan) -> Iterator[Scene]:
        played = begin_scene(standing_lan, len(cls.events))
        yield played
        restore(played)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "event" in metafunc.fixturenames:
            metafunc.parametrize("event", self.events)

    def test_it_starts_on_all_that_are_there(self, scene: Scene) -> None:
        assert set(scene.workers()) == PCS

    def test_it_goes_on_after(self, event: str, scene: Scene) -> None:
        goes_on_after(event, scene)

    def test_every_step_is_taken_once(self, scene: Scene) -> None:
        takes_every_step_once(scene.run, self.attempts)

    def test_the_weights_are_those_of_an_undisturbed_run(self, scene: Scene, tmp_path: Path) -> None:
        has_undisturbed_weights(scene.run, tmp_path)
