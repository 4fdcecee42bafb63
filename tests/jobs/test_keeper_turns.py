"""Turns of the keeper beside a head without Ray: what it does about a submitted run, whatever becomes of its jobs."""

import shutil
import time
from collections.abc import Iterator

import pytest

from cluster.head import head_file, state_folder, write_member
from cluster.timings import Timings
from cluster.token import read_token
from jobs.keeper import (
    turn,
)
from jobs.ledger import Ledger, Row
from jobs.recipe import Recipe
from jobs.retry import ATTEMPTS_WITHOUT_PROGRESS
from jobs.runs import RunFolder, create_run
from jobs.submit import submit_attempt
from tests.jobs.drivers import dies, drives
from tests.jobs.job_api import WithoutRay, head_without_ray, nearly_without_code
from tests.jobs.one_process import save

QUICK = Timings(submitting_s=0.01, first_retry_s=0.01, beat_s=0.01, driver_silent_s=0.02)
"""Everything that the keeper waits for is over at its next turn."""


@pytest.fixture
def cluster(tmp_path, monkeypatch) -> Iterator[WithoutRay]:
    with head_without_ray(tmp_path, monkeypatch, QUICK) as cluster:
        yield cluster


def waits_long(cluster: WithoutRay, **waits: float) -> None:
    """Let the keeper wait for what it waits for by default."""
    timings = QUICK.model_copy(update=waits)
    write_member(head_file(), cluster.head.model_copy(update={"timings": timings}))


@pytest.fixture
def run(cluster, tmp_path) -> RunFolder:
    """A run with next to no code."""
    return nearly_without_code(tmp_path)


class Kept:
    """A run that was submitted, and turns of its keeper."""

    def __init__(self, cluster: WithoutRay, run: RunFolder) -> None:
        self.api, self.run, self.ledger = cluster.api, run, Ledger(state_folder())
        self.complaints: dict[str, str] = {}
        submit_attempt(cluster.head, run, idle=0)

    def turn(self) -> None:
        time.sleep(0.05)  # what is over at the next turn by QUICK
        turn(self.ledger, self.complaints)

    def jobs(self) -> list[str]:
        return [job.removeprefix(f"{self.run.id}.") for job in self.api.jobs]

    def row(self) -> Row:
        row = self.ledger.row(self.run.id)
        assert row is not None
        return row

    def fails(self) -> None:
        """The driver of the newest job dies, as Ray notices."""
        drives(self.run)
        dies(self.run)
        self.api.becomes(f"{self.run.id}.a{self.run.newest_attempt()}", "FAILED")


@pytest.fixture
def kept(cluster, run) -> Kept:
    return Kept(cluster, run)


def test_a_run_whose_driver_died_is_carried_by_another_job_with_the_same_code(kept):
    drives(kept.run)
    kept.api.becomes(f"{kept.run.id}.a1", "RUNNING")
    kept.turn()
    assert kept.jobs() == ["a1"]
    kept.fails()
    kept.turn()
    assert kept.jobs() == ["a1", "a2"]
    first, second = kept.api.jobs.values()
    assert second.entrypoint.endswith(f"-m jobs.launch {kept.run.path} 2")
    assert second.runtime_env == first.runtime_env
    assert second.status == "PENDING"
    assert (kept.row().submission, kept.row().attempt, kept.row().idle) == (f"{kept.run.id}.a2", 2, 1)
    assert kept.run.state().why == "submitted"
    kept.turn()
    assert kept.jobs() == ["a1", "a2"], "its job waits for a driver"
    assert kept.complaints == {}


def test_jobs_that_bring_no_checkpoint_end_the_run_and_one_forgives(kept):
    kept.fails()
    kept.turn()
    save(kept.run, 1)
    for _ in range(ATTEMPTS_WITHOUT_PROGRESS):
        kept.fails()
        kept.turn()
    assert kept.row().idle == ATTEMPTS_WITHOUT_PROGRESS - 1
    kept.fails()
    kept.turn()
    assert kept.jobs() == ["a1", "a2", "a3", "a4", "a5"], "two without a checkpoint, and three from it"
    assert kept.run.state().state == "failed"
    assert "3 jobs in a row ended without a new checkpoint" in kept.run.state().why
    assert not kept.row().open


def test_a_run_waits_before_it_is_submitted_again(kept, cluster):
    waits_long(cluster, first_retry_s=30.0, longest_retry_s=60.0)
    kept.fails()
    kept.turn()
    assert kept.jobs() == ["a1"]
    waits_long(cluster)
    kept.turn()
    assert kept.jobs() == ["a1", "a2"]


def test_a_job_that_the_head_has_forgotten_is_submitted_again_and_counts_for_nothing(kept):
    drives(kept.run)
    dies(kept.run)
    kept.api.jobs.clear()  # a head that was started again without its store
    kept.turn()
    assert kept.jobs() == ["a2"]
    assert kept.row().idle == 0


def test_a_row_without_a_job_yet_is_being_submitted_by_somebody(kept, cluster):
    waits_long(cluster, submitting_s=30.0)
    kept.api.jobs.clear()
    kept.turn()
    assert kept.jobs() == []
    waits_long(cluster)
    kept.turn()
    assert kept.jobs() == ["a2"], "whoever wrote the row has died"


def test_what_the_user_stopped_is_stopped_by_its_job_and_never_submitted_again(kept):
    drives(kept.run)
    kept.api.becomes(f"{kept.run.id}.a1", "RUNNING")
    kept.ledger.want_stopped(kept.run.id)
    kept.api.on_stop = lambda job: None
    kept.turn()
    assert kept.api.stopped == [f"{kept.run.id}.a1"]
    kept.api.becomes(f"{kept.run.id}.a1", "STOPPED")
    kept.turn()
    assert kept.run.state().state == "running", "its driver is still there"
    dies(kept.run)
    kept.turn()
    assert (kept.run.state().state, kept.run.state().why) == ("stopped", "stopped by the user")
    assert not kept.row().open
    kept.turn()
    assert kept.jobs() == ["a1"]


def test_a_run_that_is_stopped_while_the_keeper_asks_for_jobs_is_not_submitted_again(kept):
    kept.fails()
    kept.api.on_list = lambda: kept.ledger.want_stopped(kept.run.id)
    kept.turn()
    assert kept.jobs() == ["a1"]
    assert kept.row().wanted == "stopped"


def test_a_job_that_was_stopped_through_ray_ends_its_run(kept):
    kept.fails()
    kept.api.becomes(f"{kept.run.id}.a1", "STOPPED")
    kept.turn()
    assert (kept.run.state().state, kept.run.state().why) == ("stopped", "its job was stopped through Ray")
    assert kept.jobs() == ["a1"]


@pytest.mark.parametrize("state", ["finished", "failed", "stopped"])
def test_a_run_that_has_ended_is_forgotten(kept, state):
    kept.fails()
    kept.run.write_state(state=state, why="said so")
    kept.turn()
    assert not kept.row().open
    assert kept.run.state().why == "said so"
    asked = len(kept.api.requests)
    kept.turn()
    assert len(kept.api.requests) == asked, "nobody is asked about no run"


@pytest.mark.parametrize("broken", ["list", "token", "version", "gone"])
def test_a_head_that_does_not_answer_is_said_once_and_nothing_is_done_until_it_does(kept, cluster, caplog, broken):
    kept.fails()
    record = head_file().read_text()
    if broken == "token":
        kept.api.token = "b" * 64
    elif broken == "gone":
        head_file().unlink()
    else:
        kept.api.broken = frozenset({"GET /api/jobs/" if broken == "list" else "GET /api/version"})
    said = {"list": "HTTP 500", "version": "HTTP 500", "token": "does not accept this token", "gone": "no Ray head"}
    for _ in range(2):
        kept.turn()
    assert said[broken] in kept.complaints["head"]
    assert len(caplog.messages) == 1
    assert kept.jobs() == ["a1"]
    assert kept.run.state().state == "running"
    kept.api.broken, kept.api.token = frozenset(), read_token(cluster.head.token_file)
    head_file().write_text(record)
    kept.turn()
    assert kept.complaints == {}
    assert kept.jobs() == ["a1", "a2"]


def test_a_head_that_takes_no_job_is_asked_again(kept):
    kept.fails()
    kept.api.broken = frozenset({"POST /api/jobs/"})
    kept.turn()
    assert "the head did not take the job" in kept.complaints[kept.run.id]
    assert kept.run.state().state == "pending"
    assert kept.row().open
    kept.api.broken = frozenset()
    kept.turn()
    assert kept.jobs() == ["a1", "a3"]


def test_a_job_that_was_taken_without_an_answer_is_not_submitted_twice(kept):
    kept.fails()
    kept.api.closes_after_submit = True
    kept.turn()
    assert kept.complaints == {}
    kept.api.closes_after_submit = False
    kept.turn()
    assert kept.jobs() == ["a1", "a2"]
    assert kept.complaints == {}
    assert kept.row().submission == f"{kept.run.id}.a2"


def test_a_run_that_is_damaged_hinders_no_other(kept, cluster, tmp_path):
    other = create_run(Recipe(name="other", data=tmp_path / "data", out=tmp_path / "runs", steps=100))
    shutil.copytree(kept.run.path / "source", other.path / "source")
    submit_attempt(cluster.head, other, idle=0)
    drives(other)
    dies(other)
    kept.api.becomes(f"{other.id}.a1", "FAILED")
    kept.run.state_file.write_text("{")
    kept.turn()
    assert "state.json cannot be read" in kept.complaints[kept.run.id]
    assert list(kept.api.jobs) == [f"{kept.run.id}.a1", f"{other.id}.a1", f"{other.id}.a2"]
