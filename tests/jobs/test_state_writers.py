"""`state.json` has one writer, the run's driver: what others have to say of a run stands beside it."""

import pytest

from cluster.node.head import state_folder
from cluster.timings import Timings
from jobs.errors import JobsFailure
from jobs.queue.client import stop_run
from jobs.queue.keeper import act
from jobs.queue.policy import End, Submit
from jobs.queue.submit import keep_source, start, submit_next
from jobs.queue.table import Ledger
from jobs.runs.folder import RunFolder
from tests.jobs.drivers import dies, drives
from tests.jobs.job_api import cluster_with, keep_little, nearly_without_code
from vr_core.files import write_json
from vr_core.small_files import read_json

QUICK = Timings(beat_s=0.01, stop_within_s=0.1, stop_job_within_s=0.2, stopped_within_s=0.3)


cluster = cluster_with(QUICK)


@pytest.fixture
def run(cluster, tmp_path) -> RunFolder:
    """A run with next to no code."""
    return nearly_without_code(tmp_path)


def test_whoever_submits_writes_beside_it(cluster, run):
    written = run.state_file.read_bytes()
    submit_next(cluster.head, run)
    assert (run.state().state, run.state().why) == ("pending", "submitted")
    assert run.state_file.read_bytes() == written
    drives(run, step=3)
    assert (run.state().state, run.state().step, run.state().why) == ("running", 3, "")


def test_a_head_that_takes_no_job_fails_the_run_beside_it(cluster, run):
    written = run.state_file.read_bytes()
    cluster.api.broken = frozenset({"POST /api/jobs/"})
    with pytest.raises(JobsFailure, match="did not take the job"):
        start(cluster.head, run, run.recipe())
    assert run.state().state == "failed"
    assert run.state_file.read_bytes() == written


def test_whoever_stops_a_dead_run_writes_beside_it(cluster, run):
    submit_next(cluster.head, run)
    drives(run, step=7)
    dies(run)
    cluster.api.becomes(f"{run.id}.a1", "FAILED")
    written = run.state_file.read_bytes()
    state = stop_run(run, cluster.head)
    assert (state.state, state.step, state.why, run.state()) == ("stopped", 7, "stopped by the user", state)
    assert run.state_file.read_bytes() == written


def test_the_keeper_writes_beside_it(cluster, run):
    submit_next(cluster.head, run)
    drives(run, step=7)
    dies(run)
    written, ledger = run.state_file.read_bytes(), Ledger(state_folder())
    row = ledger.row(run.id)
    assert row is not None
    act(End("failed", "because"), row, cluster.head, ledger, fence=1)
    assert (run.state().state, run.state().why) == ("failed", "because")
    ledger.open(run)
    keep_little(run)
    row = ledger.row(run.id)
    assert row is not None
    act(Submit(attempt=2, idle=0), row, cluster.head, ledger, fence=1)
    assert (run.state().state, run.state().why) == ("pending", "submitted")
    assert run.state_file.read_bytes() == written


def test_a_run_that_is_submitted_keeps_what_tells_it_from_others_of_its_id(run):
    """The defect: copies on own disks are found by it, so that submitted runs made none."""
    born = read_json(run.origin_file)["born"]
    write_json(run.origin_file, {**read_json(run.origin_file), "machines": {"1.1": []}})
    keep_source(run, run.recipe())
    origin = read_json(run.origin_file)
    assert (origin["born"], origin["machines"]) == (born, {"1.1": []})


def test_a_damaged_origin_keeps_no_run_from_going_on(run):
    run.origin_file.write_bytes(b"\xff")
    keep_source(run, run.recipe())
    assert read_json(run.origin_file)["machines"] == {}
