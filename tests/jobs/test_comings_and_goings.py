"""A run on whatever PCs are there, in a LAN in a box, and one of each kind of what happens to them.

Each event is a test of its own, in this order, on the same run; then what must hold at its end. In float64 the weights
are those of one process that was never disturbed, to 1e-8: in float32 the rounding of other sums alone drifts apart by
more. No time is asserted: `python -m tests.bench recovery` measures it. The other events are in
`test_more_comings_and_goings`, and `python -m tests.box.soak` goes on for hours. A PC that is drained and a head whose
Ray is killed are in `test_run_on_several_pcs`.
"""

import pytest

from tests.box.goings import PCS, begin_scene, goes_on_after, has_undisturbed_weights, restore, takes_every_step_once

pytestmark = [pytest.mark.xdist_group("box"), pytest.mark.ray]

EVENTS = ("cable pulled", "cable back", "storage away", "worker hangs", "checkpoint damaged", "driver killed")


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
    takes_every_step_once(scene.run, 2)


def test_the_weights_are_those_of_an_undisturbed_run(scene, tmp_path):
    has_undisturbed_weights(scene.run, tmp_path)
