"""Machines held for jobs that have ended; that they are given back on a real head: `test_run_on_several_pcs`."""

from hypothesis import given
from hypothesis import strategies as st

from jobs.execution.reservations import Reservation, abandoned

JOBS = st.sampled_from(["01", "02", "03", "04"])
HELD = st.builds(Reservation, id=st.uuids().map(str), job=JOBS, is_detached=st.booleans())


@given(st.lists(HELD), st.sets(JOBS))
def test_only_what_an_ended_job_left_and_was_not_made_to_outlive_it(held, ended):
    given_back = abandoned(held, ended)
    for one in held:
        assert (one.id in given_back) == (one.job in ended and not one.is_detached)
    assert len(given_back) == len(set(given_back))
