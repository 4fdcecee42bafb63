import dataclasses
import shutil
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.head import head_file, state_folder, write_member
from cluster.timings import DEFAULT_TIMINGS as USUAL
from cluster.timings import Timings
from cluster.token import read_token
from jobs.keeper import (
    Close,
    End,
    Seen,
    StopJob,
    Submit,
    Wait,
    decide,
    machines_turn,
    turn,
    waiting_workers,
)
from jobs.ledger import Ledger, Row
from jobs.machines import Memory
from jobs.recipe import Recipe, WorkersSpec
from jobs.retry import ATTEMPTS_WITHOUT_PROGRESS
from jobs.runs import WAITS, RunFolder, RunState, create_run
from jobs.submit import submit_attempt
from tests.jobs.drivers import dies, drives
from tests.jobs.job_api import WithoutRay, head_without_ray, nearly_without_code
from tests.jobs.one_process import save

NOW_S = 1000.0
ROW = Row("line-1", "/runs/line-1", 1, "line-1.a1", 10, 0, "running", 1, 0.0, NOW_S - 600)


def seen(job: str | None, state: str = "running", step: int = 10, driven: bool = False) -> Seen:
    return Seen(RunState(state=state, steps=100), job, step, driven)  # type: ignore[arg-type]


def row(**changes) -> Row:
    return dataclasses.replace(ROW, **changes)


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        ("PENDING", Wait()),
        ("RUNNING", Wait()),
        ("FAILED", Submit(1)),
        ("SUCCEEDED", Submit(1)),
        (None, Submit(0)),
        ("STOPPED", End("stopped", "its job was stopped through Ray")),
    ],
)
def test_a_run_whose_driver_is_gone_is_submitted_again(job, expected):
    assert decide(ROW, seen(job), NOW_S, USUAL) == expected


@given(
    st.sampled_from(["finished", "failed", "stopped"]),
    st.sampled_from([None, "RUNNING", "FAILED", "STOPPED"]),
    st.sampled_from(["running", "stopped"]),
)
def test_a_run_that_has_ended_is_never_touched(state, job, wanted):
    assert decide(row(wanted=wanted), seen(job, state), NOW_S, USUAL) == Close()


@given(
    st.sampled_from([None, "PENDING", "RUNNING", "FAILED", "STOPPED", "SUCCEEDED"]), st.integers(0, 9), st.booleans()
)
def test_what_the_user_stopped_is_never_submitted_again(job, idle, driven):
    action = decide(row(wanted="stopped", idle=idle), seen(job, driven=driven), NOW_S, USUAL)
    assert not isinstance(action, Submit)
    if job == "RUNNING":
        assert action == StopJob()


def test_failures_without_a_new_checkpoint_are_counted_and_end_the_run():
    kept = ROW
    for n in range(1, ATTEMPTS_WITHOUT_PROGRESS):
        action = decide(kept, seen("FAILED"), NOW_S, USUAL)
        assert action == Submit(n)
        kept = row(idle=n)
    ended = decide(kept, seen("FAILED"), NOW_S, USUAL)
    assert isinstance(ended, End)
    assert ended.state == "failed"
    assert decide(kept, seen("FAILED", step=11), NOW_S, USUAL) == Submit(0)


def test_a_head_that_was_started_again_is_not_the_fault_of_the_run():
    assert decide(row(idle=ATTEMPTS_WITHOUT_PROGRESS - 1), seen(None), NOW_S, USUAL) == Submit(
        ATTEMPTS_WITHOUT_PROGRESS - 1
    )


def test_a_job_that_is_just_being_submitted_is_waited_for():
    assert decide(row(updated_s=NOW_S - USUAL.submitting_s + 1), seen(None), NOW_S, USUAL) == Wait()
    assert decide(row(updated_s=NOW_S - 1), seen("FAILED"), NOW_S, USUAL) == Wait()
    assert decide(ROW, seen(None, driven=True), NOW_S, USUAL) == Wait()


@pytest.mark.parametrize("job", ["FAILED", "SUCCEEDED", "STOPPED", None])
def test_a_run_that_somebody_carries_without_a_job_is_left_to_them(job):
    assert decide(ROW, seen(job, driven=True), NOW_S, USUAL) == Wait()


def test_a_row_that_changed_since_it_was_read_is_not_claimed(tmp_path):
    ledger = Ledger(tmp_path)
    for n, change in enumerate(
        (
            lambda run: None,
            lambda run: ledger.want_stopped(run.id),
            lambda run: ledger.close(run.id),
            lambda run: ledger.submitted(run, 2, f"{run.id}.a2"),
        )
    ):
        run = RunFolder(tmp_path / f"line-{n}")
        ledger.submitted(run, 1, f"{run.id}.a1")
        row = ledger.row(run.id)
        change(run)
        assert ledger.claim(row) == (n == 0)


def test_the_keeper_outlives_a_damaged_ledger(tmp_path):
    ledger = Ledger(tmp_path)
    for file in tmp_path.iterdir():
        file.unlink()
    (tmp_path / "runs.sqlite").write_bytes(b"no database" * 100)
    complaints: dict[str, str] = {}
    turn(ledger, complaints)
    assert "database" in complaints["ledger"]


def test_the_ledger_keeps_one_row_a_run_across_openings(tmp_path):
    (tmp_path / "line-1").mkdir()
    run = RunFolder(tmp_path / "line-1")
    Ledger(tmp_path).submitted(run, 1, "line-1.a1")
    Ledger(tmp_path).want_stopped("line-1")
    [kept] = Ledger(tmp_path).rows(only_open=True)
    assert (kept.submission, kept.wanted, kept.step) == ("line-1.a1", "stopped", 0)
    Ledger(tmp_path).submitted(run, 2, "line-1.a2", idle=1)
    [again] = Ledger(tmp_path).rows()
    assert (again.attempt, again.wanted, again.idle, again.created_s) == (2, "running", 1, kept.created_s)
    Ledger(tmp_path).close("line-1")
    assert Ledger(tmp_path).rows(only_open=True) == []
    assert Ledger(tmp_path).row("line-1") is not None
    assert Ledger(tmp_path).row("other") is None


def test_the_keeper_looks_after_no_machines_without_a_head_and_says_why_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    complaints: dict[str, str] = {}
    memory = machines_turn(Ledger(tmp_path), Memory(), complaints)
    assert memory == Memory(), "the nodes have not been told"
    assert "no Ray head runs here" in complaints["machines"]
    told = Memory(published=frozenset())
    complaints.clear()
    assert machines_turn(Ledger(tmp_path), told, complaints) == told
    assert complaints == {}, "nobody is drained: nothing to look at"
    (tmp_path / "vr" / "drained.json").write_text("{")
    machines_turn(Ledger(tmp_path), told, complaints)
    assert "drained.json: unreadable" in complaints["machines"]


def test_only_runs_that_wait_for_machines_make_the_keeper_wake_one(tmp_path):
    (tmp_path / "data").mkdir()
    ledger = Ledger(tmp_path)
    for seed, (state, why) in enumerate(
        [("pending", f"{WAITS}no machine"), ("pending", "starts again"), ("running", ""), ("pending", f"{WAITS}no")]
    ):
        recipe = Recipe(name="line", data=tmp_path / "data", out=tmp_path / "runs", seed=seed, steps=1)
        run = create_run(recipe.model_copy(update={"workers": WorkersSpec(count=seed + 1)}))
        run.write_state(state=state, why=why)
        ledger.submitted(run, 1, f"{run.id}.a1")
    ledger.want_stopped(run.id)
    assert [workers.count for workers in waiting_workers(ledger.rows(only_open=True))] == [1]


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
    assert "the head did not take the job" in kept.complaints[kept.run.id]
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
