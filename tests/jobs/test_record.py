"""What a supervisor tells of its run on storage that is full, or away, for a while."""

import threading

import pytest

from cluster.timings import Timings
from jobs.errors import Superseded
from jobs.recipe import Recipe
from jobs.runs.creation import create_run
from jobs.runs.folder import RunFolder
from jobs.runs.state import RunState
from jobs.runs.state_writer import Record, read_events

QUICK = Timings(storage_again_s=0.01, tell_for_s=60)


class FullDisk(RunFolder):
    """A run's folder on a disk that takes no state as long as `full` is more than 0; each try counts it down."""

    full = 0

    def write_state(self, **changes: object) -> RunState:
        self.full -= 1
        if self.full >= 0:
            raise OSError(28, "No space left on device")
        return super().write_state(**changes)


@pytest.fixture
def run(tmp_path) -> FullDisk:
    (tmp_path / "data").mkdir()
    return FullDisk(create_run(Recipe(name="line", data=tmp_path / "data", out=tmp_path / "runs", steps=100)).path)


def test_a_folder_that_is_away_is_waited_for(run, capsys):
    record = Record(run, run.begin_attempt(), lambda state: None, QUICK)
    away = run.path.rename(run.path.with_name("away"))
    back = threading.Timer(0.3, lambda: away.rename(run.path))
    back.start()
    record.await_folder(threading.Event())
    back.join()
    assert run.recipe_file.is_file()
    assert capsys.readouterr().err.count("is away; waiting for it") == 1


def test_who_waits_for_a_folder_can_be_stopped(run):
    stop = threading.Event()
    stop.set()
    run.path.rename(run.path.with_name("away"))
    Record(run, 1, lambda state: None, QUICK).await_folder(stop)


@pytest.mark.parametrize("state", ["pending", "finished"])
def test_a_full_disk_ends_no_supervisor_and_an_end_is_told_in_the_end(run, capsys, state):
    shown: list[RunState] = []
    record = Record(run, run.begin_attempt(), shown.append, QUICK)
    record.write(state="running", step=5)
    run.full = 3
    told = record.write(state=state, why="because")
    assert (told.state, told.step, told.why) == (state, 5, "because")
    assert shown[-1] == told
    assert run.state().state == ("finished" if state == "finished" else "running")
    run.full = 0
    record.write(step=6)
    assert (run.state().state, run.state().why, run.state().step) == (state, "because", 6), "told later"
    assert capsys.readouterr().err.count("state not written") == 1


def test_a_wait_that_could_not_be_written_ends_with_the_next_reason(run):
    record = Record(run, run.begin_attempt(), lambda state: None, QUICK)
    record.write(state="pending", why="submitted")
    run.full = 2
    assert record.write(state="pending", why="no machine", waiting_for="machines").waiting_for == "machines"
    assert record.write(step=3).waiting_for == "machines", "nothing new about why"
    assert record.write(state="running", why="").waiting_for is None
    assert run.state().waiting_for is None


def test_an_end_that_cannot_be_written_for_long_is_given_up(run):
    record = Record(run, run.begin_attempt(), lambda state: None, Timings(storage_again_s=0.01, tell_for_s=0.05))
    record.write(state="running")
    run.full = 10**9
    with pytest.raises(OSError, match="No space left"):
        record.write(state="finished")


def test_an_attempt_whose_first_state_cannot_be_written_does_not_begin(run):
    run.full = 1
    with pytest.raises(OSError, match="No space left"):
        Record(run, run.begin_attempt(), lambda state: None, QUICK).write(state="pending")


def test_a_state_that_was_damaged_meanwhile_is_written_anew(run):
    """Its one writer knows what stood there."""
    record = Record(run, run.begin_attempt(), lambda state: None, QUICK)
    record.write(state="running", step=5)
    run.state_file.write_bytes(b"\xff")
    record.write(step=6)
    assert (run.state().state, run.state().step, run.state().steps) == ("running", 6, 100)


@pytest.mark.parametrize("state", ["running", "failed"])
def test_a_driver_that_has_been_taken_over_writes_no_state_any_more(run, state):
    """The defect: an end was written without a look for a newer attempt."""
    record = Record(run, run.begin_attempt(), lambda state: None, QUICK)
    record.write(state="running", step=5)
    run.write_state(state="running", attempt=run.begin_attempt(), step=2)
    written = run.state_file.read_bytes()
    with pytest.raises(Superseded, match="attempt 2 has taken over from attempt 1"):
        record.write(state=state, step=6)
    assert run.state_file.read_bytes() == written


@pytest.mark.parametrize("damage", [b"\xff", b"{", b"[]", b"7", b'{"said": "no time"}'])
def test_a_damaged_line_of_events_hides_no_other(run, damage):
    record = Record(run, run.begin_attempt(), lambda state: None, QUICK)
    record.say("one", "retry")
    with run.events_file.open("ab") as file:
        file.write(damage + b"\n")
    record.say("two", "retry")
    assert [event["said"] for event in read_events(run)] == ["one", "two"]
