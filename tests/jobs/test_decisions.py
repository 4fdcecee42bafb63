"""What the supervisor decides; that it does so is in `test_supervisor.py`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.timings import DEFAULT_TIMINGS
from jobs.execution.decisions import Again, End, Outcome, Seen, ended_by_error, ended_by_itself, follows, interruption
from jobs.execution.retry import Failed

STOP_S = DEFAULT_TIMINGS.stop_within_s
FAILED = Outcome("failed", Failed(3, "a worker died"))
FINAL = Outcome("failed", Failed(3, "no such data set", final=True, user_error=True))


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (Seen(False, 100.0, None), None),
        (Seen(False, 100.1, None), "hung"),
        (Seen(True, 100.1, STOP_S + 1), "lost"),
        (Seen(False, 0.0, STOP_S), None),
        (Seen(False, 0.0, STOP_S + 0.1), "given up"),
    ],
)
def test_a_start_is_ended_from_outside_for_the_first_reason_that_holds(seen, why):
    assert interruption(seen, 100.0, DEFAULT_TIMINGS) == why


def test_what_a_loop_returns_is_its_outcome_and_an_exclusion_goes_on():
    assert [ended_by_itself({"ended": kind}).kind for kind in ("finished", "stopped", "left", "excluded")] == [
        "finished", "stopped", "left", "left"
    ]  # fmt: skip


@given(st.sampled_from([FAILED, FINAL, Outcome("waiting")]), st.booleans(), st.booleans(), st.booleans())
def test_a_start_that_raised(failure, stopping, lost, leaving):
    found = ended_by_error(failure, stopping=stopping, unresponsive=["study"] if lost else [], leaving=leaving)
    if stopping:
        assert found.kind == "stopped", "how workers end when the user stops them is no failure"
    elif lost:
        assert found.kind == "lost"
    elif leaving and failure is FAILED:
        assert found.kind == "left", "the machine was gone before the loop had left it"
    else:
        assert found is failure, "a mistake of the user stays one"


def test_what_follows():
    assert follows(Outcome("finished"), [], 0, DEFAULT_TIMINGS) == End("finished")
    assert follows(Outcome("stopped"), [], 0, DEFAULT_TIMINGS) == End("stopped", "stopped by the user")
    for kind in ("left", "lost", "waiting"):
        assert follows(Outcome(kind), [], 0, DEFAULT_TIMINGS) == Again()
    assert follows(FAILED, [FAILED.failed], 0, DEFAULT_TIMINGS) == Again(DEFAULT_TIMINGS.first_retry_s, FAILED.failed)
    assert follows(FINAL, [FINAL.failed], 0, DEFAULT_TIMINGS) == End("failed", "no such data set", user_error=True)
    three = follows(FAILED, [FAILED.failed] * 3, 3, DEFAULT_TIMINGS)
    assert three.state == "failed"
    assert three.why.startswith("3 attempts without a new checkpoint after step 3")
