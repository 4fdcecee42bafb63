"""Machines held for jobs that have ended; that they are given back on a real head: `test_run_on_several_pcs`."""

from jobs.execution.reservations import Reservation, abandoned


def test_only_what_an_ended_job_left_and_was_not_made_to_outlive_it():
    held = [
        Reservation("left behind", "01", is_detached=False),
        Reservation("in use", "02", is_detached=False),
        Reservation("made to outlive its job", "01", is_detached=True),
        Reservation("left behind as well", "03", is_detached=False),
    ]
    assert abandoned(held, {"01", "03"}) == ["left behind", "left behind as well"]
    assert abandoned(held, set()) == []
