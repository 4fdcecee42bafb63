"""The events that `test_comings_and_goings` leaves out, in the same way on a run of their own."""

import pytest

from tests.box.goings import Goings

pytestmark = [
    pytest.mark.xdist_group("box"),
    pytest.mark.long("cluster", "dataprep", "jobs", "vr_core"),
    pytest.mark.ray,
]


class TestTheOthers(Goings):
    events = ("worker killed", "worker slower", "cable pulled", "PC back", "share away on one PC", "PC drained")
    attempts = 1
