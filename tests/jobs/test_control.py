"""What the command line does to a run that a job carries: stop it and wait, follow it to its end."""

import itertools
import threading

import pytest

from cluster.node.head import head_file, state_folder
from cluster.timings import Timings
from jobs.errors import JobsFailure, RunFailed
from jobs.queue.client import follow, stop_run
from jobs.queue.submit import submit_next
from jobs.queue.table import Ledger
from jobs.runs.folder import RunFolder
from jobs.runs.state import RunState
from tests.jobs.drivers import dies, drives
from tests.jobs.job_api import Job, cluster_with, nearly_without_code
from tests.jobs.ledgers import closed
from tests.jobs.waiting import until
from vr_core.files import write_json

QUICK = Timings(beat_s=0.01, stop_within_s=0.1, stop_job_within_s=0.2, stopped_within_s=0.3)


cluster = cluster_with(QUICK)


@pytest.fixture
def run(cluster, tmp_path) -> RunFolder:
    """A run whose job has been submitted, with next to no code."""
    run = nearly_without_code(tmp_path)
    submit_next(cluster.head, run)
    return run


def test_a_run_is_stopped_by_its_driver_and_that_is_waited_for(cluster, run):
    def stops(job: Job) -> None:
        def last_words() -> None:
            run.write_state(state="stopped", why="stopped by the user", step=8)
            job.status = "STOPPED"

        assert run.stop_file.exists(), "the driver must know that it is the user's wish"
        assert Ledger(state_folder()).row(run.id).wanted == "stopped", "and the keeper before the driver ends"
        assert run.state().state == "running"
        writing.append(threading.Timer(0.2, last_words))
        writing[0].start()

    writing: list[threading.Timer] = []
    drives(run, step=7)
    cluster.api.becomes(f"{run.id}.a1", "RUNNING")
    cluster.api.on_stop = stops
    # On a busy machine 0.2 s become seconds, and those are waited for.
    patient = cluster.head.model_copy(update={"timings": Timings()})
    state = stop_run(run, patient)
    writing[0].join()
    assert (state.state, state.step) == ("stopped", 8)
    assert cluster.api.stopped == [f"{run.id}.a1"]


def test_a_run_whose_driver_has_not_begun_is_stopped_for_it(cluster, run):
    state = stop_run(run, cluster.head)
    assert (state.state, state.why, run.state()) == ("stopped", "stopped by the user", state)
    assert cluster.api.stopped == [f"{run.id}.a1"]


def test_a_run_whose_job_has_ended_without_a_word_is_stopped_for_it(cluster, run):
    cluster.api.becomes(f"{run.id}.a1", "FAILED")
    assert stop_run(run, cluster.head).state == "stopped"
    assert cluster.api.stopped == [], "there is nothing to stop"


def test_a_driver_that_does_not_react_is_told(cluster, run):
    drives(run, step=7)
    cluster.api.becomes(f"{run.id}.a1", "RUNNING")
    cluster.api.on_stop = lambda job: None
    with pytest.raises(RunFailed, match="attempt 1 does not react; end its process by hand"):
        stop_run(run, cluster.head)
    assert run.state().state == "running"
    assert Ledger(state_folder()).row(run.id).wanted == "stopped"


def test_a_run_that_has_ended_is_left_as_it_is(cluster, run):
    run.write_state(state="finished", step=100)
    before = list(cluster.api.requests)
    assert stop_run(run, cluster.head).state == "finished"
    assert cluster.api.requests == before
    assert not run.stop_file.exists()


def test_a_head_that_cannot_stop_a_job_is_told_and_the_wish_is_kept(cluster, run):
    drives(run, step=7)
    cluster.api.becomes(f"{run.id}.a1", "RUNNING")
    cluster.api.broken = frozenset({f"POST /api/jobs/{run.id}.a1/stop"})
    with pytest.raises(JobsFailure, match="cannot be stopped .Failed to get head node agent"):
        stop_run(run, cluster.head)
    assert run.stop_file.exists()
    assert Ledger(state_folder()).row(run.id).wanted == "stopped"


def test_a_run_is_followed_to_its_end_while_the_keeper_will_go_on_with_it(cluster, run):
    """Its driver is dead and its head is there: another attempt comes."""
    drives(run, step=7)
    dies(run)
    shown: list[RunState] = []
    end: list[RunState] = []
    following = threading.Thread(target=lambda: end.append(follow(run, shown.append)), daemon=True)
    following.start()
    until(lambda: len(shown) >= 2)
    run.write_state(state="finished", step=100)
    following.join(60)
    assert [state.state for state in (*shown, *end)][-2:] == ["finished", "finished"]


@pytest.mark.parametrize("gone", ["row", "head"])
def test_a_run_that_nobody_carries_and_no_keeper_goes_on_with_is_not_followed_for_ever(cluster, run, gone):
    drives(run)
    dies(run)
    if gone == "row":
        closed(Ledger(state_folder()), run)
    else:
        head_file().unlink()
    with pytest.raises(RunFailed, match="nothing carries it any more"):
        follow(run, lambda state: None)


def driven_elsewhere(run: RunFolder) -> None:
    """Another PC has taken the run over: `vr jobs resume --here` there."""
    attempt = run.begin_attempt()
    note = {"boot_id": "another PC's", "machine": "another PC", "pid": 1, "start_ticks": 1}
    write_json(run.attempt_folder(attempt) / "driver.json", note)
    run.write_state(state="running", attempt=attempt, beat=1)


def test_a_run_is_not_stopped_for_a_driver_elsewhere_before_that_was_listened_for(cluster, run):
    driven_elsewhere(run)
    clock = itertools.count(step=40.0)  # `stopped_within_s` is over at once
    assert stop_run(run, cluster.head, lambda: next(clock)).state == "stopped"
    assert next(clock) > cluster.head.timings.driver_silent_s, "for so long it was listened for"


def test_a_run_that_another_pc_carries_is_followed_while_it_is_not_known_to_be_dead(cluster, run):
    driven_elsewhere(run)
    closed(Ledger(state_folder()), run)
    shown: list[RunState] = []

    def watch(state: RunState) -> None:
        shown.append(state)
        if len(shown) == 2:
            run.write_state(state="finished", step=100)

    assert follow(run, watch).state == "finished"
