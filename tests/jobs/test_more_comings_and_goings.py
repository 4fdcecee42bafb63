"""The events that `test_comings_and_goings` leaves out, in the same way on a run of their own."""

import pytest

from tests.box.goings import PCS, begin_scene, goes_on_after, has_undisturbed_weights, restore, takes_every_step_once

pytestmark = [
    pytest.mark.xdist_group("box"),
    pytest.mark.long("cluster", "dataprep", "jobs", "vr_core"),
    pytest.mark.ray,
]

EVENTS = ("worker killed", "worker slower", "cable pulled", "PC back", "share away on one PC", "PC drained")


@pytest.fixture(scope="module")
def scene(standing_lan):
    played = begin_scene(standing_lan, len(EVENTS))
    yield played
    restore(played)


def test_it_starts_on_all_that_are_there(scene):
    assert set(scene.workers()) == PCS


@pytest.mark.parametrize("event", EVENTS)
def test_it_goes_on_after(event, scene):
    goes_on_after(event, scene)


def test_every_step_is_taken_once(scene):
    takes_every_step_once(scene.run, 1)


def test_the_weights_are_those_of_an_undisturbed_run(scene, tmp_path):
    has_undisturbed_weights(scene.run, tmp_path)
