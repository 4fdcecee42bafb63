"""What the supervisor decides; that it does so is in `test_supervisor.py`."""

import pytest

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


def test_a_start_that_raised():
    assert ended_by_error(FAILED, leaving=False) is FAILED
    assert ended_by_error(FAILED, leaving=True) == Outcome("left"), "the machine was gone before the loop had left it"
    assert ended_by_error(FINAL, leaving=True) is FINAL, "a mistake of the user stays one"
    assert ended_by_error(Outcome("waiting"), leaving=True) == Outcome("waiting")


def test_what_follows():
    assert follows(Outcome("finished"), [], 0, DEFAULT_TIMINGS) == End("finished")
    assert follows(Outcome("stopped"), [], 0, DEFAULT_TIMINGS) == End("stopped", "stopped by the user")
    for kind in ("left", "lost", "waiting"):
        assert follows(Outcome(kind), [], 0, DEFAULT_TIMINGS) == Again()
    assert follows(FAILED, [FAILED.failed], 0, DEFAULT_TIMINGS) == Again(DEFAULT_TIMINGS.first_retry_s)
    assert follows(FINAL, [FINAL.failed], 0, DEFAULT_TIMINGS) == End("failed", "no such data set", user_error=True)
    three = follows(FAILED, [FAILED.failed] * 3, 3, DEFAULT_TIMINGS)
    assert three.state == "failed"
    assert three.why.startswith("3 attempts without a new checkpoint after step 3")
