import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.timings import DEFAULT_TIMINGS
from jobs.execution.retry import ATTEMPTS_WITHOUT_PROGRESS, ATTEMPTS_WITHOUT_STORAGE, Failed, Retry, Stop, decide


def fail(*steps: int) -> list[Failed]:
    return [Failed(step, f"failure {i + 1}") for i, step in enumerate(steps)]


def test_a_run_is_given_up_after_three_failures_without_a_new_checkpoint():
    assert decide(fail(10), 10, DEFAULT_TIMINGS) == Retry(2.0)
    assert decide(fail(10, 10), 10, DEFAULT_TIMINGS) == Retry(4.0)
    stop = decide(fail(10, 10, 10), 10, DEFAULT_TIMINGS)
    assert stop == Stop("3 attempts without a new checkpoint after step 10; the last one: failure 3")


def test_progress_forgives_what_was_before_it():
    assert decide(fail(10, 10, 20), 10, DEFAULT_TIMINGS) == Retry(2.0)
    assert decide(fail(10, 10, 20, 20, 20), 10, DEFAULT_TIMINGS) == Retry(4.0)
    assert isinstance(decide(fail(10, 10, 20, 20, 20, 20), 10, DEFAULT_TIMINGS), Stop)
    assert decide(fail(1), 0, DEFAULT_TIMINGS) == Retry(2.0)


@pytest.mark.parametrize("user_error", [True, False])
def test_a_final_failure_is_not_retried(user_error):
    history = [*fail(5), Failed(9, "no such data set", final=True, user_error=user_error)]
    assert decide(history, 0, DEFAULT_TIMINGS) == Stop("no such data set", user_error)


@given(st.integers(0, 50), st.lists(st.integers(0, 5), min_size=1, max_size=40))
def test_never_more_attempts_than_the_limit_in_a_row_and_never_a_longer_pause(first, advances):
    """Walk through a life of failures, against a count kept the simple way."""
    history: list[Failed] = []
    step, idle = first, 0
    for advance in advances:
        step += advance
        idle = 0 if advance else idle + 1
        history.append(Failed(step, "lost"))
        verdict = decide(history, first, DEFAULT_TIMINGS)
        assert isinstance(verdict, Stop) == (idle >= ATTEMPTS_WITHOUT_PROGRESS)
        if isinstance(verdict, Stop):
            return
        assert 0 < verdict.delay_s <= DEFAULT_TIMINGS.longest_retry_s


def test_storage_that_is_away_is_given_a_quarter_of_an_hour():
    away = [Failed(5, "the share failed", storage=True)] * (ATTEMPTS_WITHOUT_STORAGE - 1)
    assert decide(away, 5, DEFAULT_TIMINGS) == Retry(DEFAULT_TIMINGS.longest_retry_s)
    assert isinstance(decide([*away, away[0]], 5, DEFAULT_TIMINGS), Stop)
    assert isinstance(decide([*away, Failed(5, "diverged")], 5, DEFAULT_TIMINGS), Stop), "that is another thing"
    waits_s = sum(decide(away[: n + 1], 5, DEFAULT_TIMINGS).delay_s for n in range(len(away)))
    assert 10 * 60 < waits_s < 25 * 60
