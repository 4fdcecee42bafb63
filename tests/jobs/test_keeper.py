"""What the keeper decides about a run, from values; and its table of runs."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.timings import DEFAULT_TIMINGS as USUAL
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
from jobs.runs import RunFolder, RunState, create_run

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
    for seed, (state, waiting_for) in enumerate(
        [("pending", "machines"), ("pending", None), ("running", None), ("pending", "machines")]
    ):
        recipe = Recipe(name="line", data=tmp_path / "data", out=tmp_path / "runs", seed=seed, steps=1)
        run = create_run(recipe.model_copy(update={"workers": WorkersSpec(count=seed + 1)}))
        run.write_state(state=state, why="in any words", waiting_for=waiting_for)
        ledger.submitted(run, 1, f"{run.id}.a1")
    ledger.want_stopped(run.id)
    assert [workers.count for workers in waiting_workers(ledger.rows(only_open=True))] == [1]
