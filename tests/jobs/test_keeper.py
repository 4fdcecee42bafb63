"""What the keeper decides about a run, from values; one keeper at a time; and what is said of what goes wrong."""

import dataclasses
import errno
import json
import logging
import signal
import threading

import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

from cluster.node.processes import Now
from cluster.timings import DEFAULT_TIMINGS as USUAL
from jobs.errors import DamagedRun
from jobs.execution.retry import ATTEMPTS_WITHOUT_PROGRESS
from jobs.queue import keeper as keeper_module
from jobs.queue.keeper import Complaints, Keeper, keep, look, main, take_lock
from jobs.queue.node_power import Memory
from jobs.queue.policy import Close, End, Seen, StopJob, Submit, Wait, decide, unchanged_s
from jobs.queue.table import Ledger, Row
from jobs.recipe import Recipe, WorkersSpec
from jobs.runs.creation import create_run
from jobs.runs.state import RunState
from tests.jobs.job_api import keep_little
from tests.jobs.ledgers import recorded
from tests.jobs.waiting import until

NOW_S = 1000.0
NOW = Now("this boot", NOW_S)
ROW = Row("line-1", "/runs/line-1", 1, "line-1.a1", 10, 0, "running", 1, 1, NOW.boot_id, NOW_S - 600)


def seen(job: str | None, state: str = "running", step: int = 10, driver: str = "dead", **more) -> Seen:
    return Seen(RunState(state=state, steps=100), job, step, driver, **more)  # type: ignore[arg-type]


def row(**changes) -> Row:
    return dataclasses.replace(ROW, **changes)


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        ("PENDING", Wait()),
        ("RUNNING", Wait()),
        ("FAILED", Submit(2, 1)),
        ("SUCCEEDED", Submit(2, 1)),
        (None, Submit(2, 0)),
        ("STOPPED", End("stopped", "its job was stopped through Ray")),
    ],
)
def test_a_run_whose_driver_is_gone_is_submitted_again(job, expected):
    assert decide(ROW, seen(job), NOW, USUAL) == expected


@given(
    st.sampled_from(["finished", "failed", "stopped"]),
    st.sampled_from([None, "RUNNING", "FAILED", "STOPPED"]),
    st.sampled_from(["running", "stopped"]),
)
def test_a_run_that_has_ended_is_never_touched(state, job, wanted):
    assert decide(row(wanted=wanted), seen(job, state), NOW, USUAL) == Close()


@given(
    st.sampled_from([None, "PENDING", "RUNNING", "FAILED", "STOPPED", "SUCCEEDED"]), st.integers(0, 9),
    st.sampled_from(["alive", "dead", "unknown"]), st.booleans(), st.booleans(),
)  # fmt: skip
def test_what_the_user_stopped_is_never_submitted_again(job, idle, driver, in_row, in_folder):
    wanted = "stopped" if in_row or not in_folder else "running"
    found = seen(job, driver=driver, stop_wished=in_folder)
    action = decide(row(wanted=wanted, idle=idle), found, NOW, USUAL)
    assert not isinstance(action, Submit)
    if job == "RUNNING" and wanted == "stopped":
        assert action == StopJob()
    if job not in ("RUNNING", "PENDING") and driver == "dead":
        assert action == End("stopped", "stopped by the user")


def test_failures_without_a_new_checkpoint_are_counted_and_end_the_run():
    kept = ROW
    for n in range(1, ATTEMPTS_WITHOUT_PROGRESS):
        action = decide(kept, seen("FAILED"), NOW, USUAL)
        assert action == Submit(2, n)
        kept = row(idle=n)
    ended = decide(kept, seen("FAILED"), NOW, USUAL)
    assert isinstance(ended, End)
    assert ended.state == "failed"
    assert decide(kept, seen("FAILED", step=11, attempt=4), NOW, USUAL) == Submit(5, 0)


def test_a_head_that_was_started_again_is_not_the_fault_of_the_run():
    idle = ATTEMPTS_WITHOUT_PROGRESS - 1
    assert decide(row(idle=idle), seen(None), NOW, USUAL) == Submit(2, idle)


def test_a_job_that_is_just_being_submitted_is_waited_for():
    just = row(since_boot_s=NOW_S - USUAL.submitting_s + 1)
    assert decide(just, seen(None), NOW, USUAL) == Wait()
    assert decide(row(since_boot_s=NOW_S - 1), seen("FAILED"), NOW, USUAL) == Wait()
    earlier = dataclasses.replace(just, boot_id="an earlier boot")
    assert unchanged_s(earlier, NOW) == float("inf")
    assert decide(earlier, seen(None), NOW, USUAL) == Submit(2, 0), "who wrote the row is gone"


@pytest.mark.parametrize("job", ["FAILED", "SUCCEEDED", "STOPPED", None])
@pytest.mark.parametrize("driver", ["alive", "unknown"])
def test_a_run_that_somebody_carries_or_may_carry_without_a_job_is_left_to_them(job, driver):
    assert decide(ROW, seen(job, driver=driver), NOW, USUAL) == Wait()
    assert decide(row(wanted="stopped"), seen(job, driver=driver), NOW, USUAL) == Wait()


def test_the_keeper_outlives_a_damaged_ledger(tmp_path):
    keeper = Keeper(Ledger(tmp_path), 1)
    for file in tmp_path.iterdir():
        file.unlink()
    (tmp_path / "runs.sqlite").write_bytes(b"no database" * 100)
    keeper.turn()
    assert "database" in keeper.complaints.said["runs"]
    assert keeper.is_newest(), "nobody else is known"


def test_the_keeper_looks_after_no_machines_without_a_head_and_says_why_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    keeper = Keeper(Ledger(tmp_path), 1)
    for _ in range(2):
        keeper.turn()
    assert keeper.memory == Memory(), "the nodes have not been told"
    assert "no Ray head runs here" in keeper.complaints.said["machines"]
    assert len(caplog.messages) == 1
    keeper.memory = told = Memory(published=frozenset())
    keeper.turn()
    assert keeper.memory == told
    assert keeper.complaints.said == {}, "nobody is drained: nothing to look at"
    (tmp_path / "vr" / "drained.json").write_text("{")
    keeper.turn()
    assert "drained.json: unreadable" in keeper.complaints.said["machines"]


def test_only_runs_that_wait_for_machines_make_the_keeper_wake_one(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "data").mkdir()
    ledger = Ledger(tmp_path)
    for seed, (state, waiting_for) in enumerate(
        [("pending", "machines"), ("pending", None), ("running", None), ("pending", "machines")]
    ):
        recipe = Recipe(name="line", data=tmp_path / "data", out=tmp_path / "runs", seed=seed, steps=1)
        run = create_run(recipe.model_copy(update={"workers": WorkersSpec(count=seed + 1)}))
        run.write_state(state=state, why="in any words", waiting_for=waiting_for)
        recorded(ledger, run)
        keep_little(run)
    ledger.want_stopped(run.id)
    found = [look(row).waits_for for row in ledger.rows(only_open=True)]
    assert [workers and workers.count for workers in found] == [1, None, None, None]


def test_what_went_wrong_is_said_once_until_it_is_well_again(caplog):
    complaints = Complaints()
    for draft in ("1a2b", "3c4d"):
        complaints.add("line-1", OSError(errno.EROFS, "Read-only file system", f"/runs/line-1/.{draft}.state.json"))
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("line-1: ")
    complaints.add("line-1", DamagedRun("state.json cannot be read"))
    complaints.add("line-2", RecursionError("too deep"))
    assert len(caplog.messages) == 3
    assert complaints.said["line-2"] == "RecursionError: too deep"
    complaints.settle("line-1")
    complaints.add("line-1", DamagedRun("state.json cannot be read"))
    assert len(caplog.messages) == 4


def test_one_keeper_holds_the_lock_and_the_next_begins_when_it_has_ended(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    end, taken = threading.Event(), []
    with FileLock(tmp_path / "keeper.lock"):
        waiting = threading.Thread(target=lambda: taken.append(take_lock(tmp_path, end, 0.01).is_locked))
        waiting.start()
        until(lambda: caplog.messages)
        assert taken == []
    waiting.join(60)
    assert taken == [True]


def test_a_keeper_that_waits_for_the_lock_ends_when_it_is_told_to(tmp_path):
    end = threading.Event()
    with FileLock(tmp_path / "keeper.lock"):
        waiting = threading.Thread(target=take_lock, args=(tmp_path, end, 0.01))
        waiting.start()
        end.set()
        waiting.join(60)
        assert not waiting.is_alive()


def test_a_keeper_ends_when_another_has_begun(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    (tmp_path / "vr").mkdir()
    (tmp_path / "vr" / "head.json").write_text(json.dumps({}))  # its waits are then the default ones
    ledger, turns = Ledger(tmp_path), []

    class Counting(Keeper):
        def turn(self) -> None:
            turns.append(1)
            assert len(turns) < 3, "it goes on"
            ledger.take_fence()

    class NoWait(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            return self.is_set()

    keep(Counting(ledger, ledger.take_fence()), NoWait())
    assert turns == [1]
    assert "another keeper has begun" in caplog.text


def test_a_second_keeper_does_nothing_while_the_first_holds_the_lock(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    (tmp_path / "vr").mkdir()
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(keeper_module, "keep", lambda keeper, end: None)
    codes = []
    with FileLock(tmp_path / "vr" / "keeper.lock"):
        second = threading.Thread(target=lambda: codes.append(main()), daemon=True)
        second.start()
        until(lambda: codes or "another keeper is at work" in caplog.text)
        assert codes == []
        assert Ledger(tmp_path / "vr").fence() == 0, "the first one may act still"
    second.join(60)
    assert codes == [0]
