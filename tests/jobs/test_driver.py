"""Whether a driver lives: by its process on its own PC, by its heartbeat elsewhere, never by a clock."""

import itertools
import json
import os
import subprocess

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cluster.node.processes import boot_id, machine_id, start_ticks_of
from cluster.timings import Timings
from jobs.errors import RunExists
from jobs.recipe import Recipe
from jobs.runs.creation import create_run
from jobs.runs.folder import RunFolder
from jobs.runs.liveness import (
    Driver,
    Listener,
    Sighting,
    Signs,
    beating,
    judge_by_heartbeat,
    judge_here,
    look_for_driver,
    of_own_job,
    require_resumable,
    sighted,
    write_driver,
)
from jobs.runs.state_writer import Record
from tests.jobs.waiting import until
from vr_core.files import write_json

SILENT_S = 60.0
HERE = Driver(boot_id="this boot", machine="this PC", pid=7, start_ticks=1000)


@pytest.fixture
def run(tmp_path) -> RunFolder:
    (tmp_path / "data").mkdir()
    return create_run(Recipe(name="line", data=tmp_path / "data", out=tmp_path / "runs", steps=4))


def elsewhere(run: RunFolder, **changes) -> int:
    """Its newest attempt is driven from another PC, as that PC has noted it."""
    attempt = run.begin_attempt()
    note = {"boot_id": "another PC's", "machine": "another PC", "pid": 1, "start_ticks": 5}
    write_json(run.attempt_folder(attempt) / "driver.json", note | changes)
    return attempt


@pytest.mark.parametrize(
    ("boot", "machine", "ticks", "expected"),
    [
        ("this boot", "this PC", 1000, "alive"),
        ("this boot", "this PC", None, "dead"),
        ("this boot", "this PC", 1001, "dead"),  # the number was given to another process
        ("the next boot", "this PC", 1000, "dead"),
        ("that PC's boot", "that PC", 1000, "unknown"),
        ("that PC's boot", "", 1000, "unknown"),
    ],
)
def test_a_driver_of_this_pc_is_known_by_its_boot_and_the_ticks_at_which_it_started(boot, machine, ticks, expected):
    assert judge_here(HERE, boot, machine, ticks) == expected


def test_a_note_without_ticks_tells_only_that_its_process_is_gone():
    """Versions before noted a date, which is another one for the same process once the clock has been set."""
    before = Driver(boot_id="this boot", pid=7, started_s=1795575030.2)
    assert judge_here(before, "this boot", "this PC", None) == "dead"
    assert judge_here(before, "this boot", "this PC", 1000) == "unknown"
    assert judge_here(before, "another", "", 1000) == "unknown"


def test_two_pcs_that_know_no_id_of_theirs_are_not_taken_for_one():
    assert judge_here(HERE.model_copy(update={"machine": ""}), "another boot", "", 1000) == "unknown"


@example([(1, 1.0), (1, SILENT_S)])
@example([(1, 1.0), (2, 1.0), (2, SILENT_S - 1), (2, 1.0)])
@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0.1, 40)), min_size=1, max_size=30))
def test_a_heartbeat_is_judged_by_whether_it_moves_while_one_watches(looks):
    """Against a plain reading of the whole history: (count, seconds since the look before)."""
    sighting: Sighting | None = None
    now_s, history = 0.0, []
    for count, after_s in looks:
        now_s += after_s
        history.append((now_s, count))
        sighting = sighted(sighting, (1, 1, float(count)), now_s)
        same = list(itertools.takewhile(lambda seen, last=count: seen[1] == last, reversed(history)))
        still_s = now_s - same[-1][0]
        expected = "dead" if still_s >= SILENT_S else "alive" if len(same) < len(history) else "unknown"
        assert judge_by_heartbeat(sighting, now_s, SILENT_S) == expected


def test_another_attempt_is_listened_to_from_its_beginning():
    first = sighted(None, (1, 1, 5.0), 0.0)
    assert sighted(first, (2, 1, 5.0), 10.0) == Sighting((2, 1, 5.0), 10.0)
    assert judge_by_heartbeat(sighted(first, (2, 2, 1.0), 70.0), 70.0, SILENT_S) == "unknown"


def test_nobody_is_silent_while_nobody_listens():
    clock = iter([0.0, 70.0, 75.0, 135.0])
    listener = Listener(lambda: next(clock))
    signs = Signs("unknown", (1, 1, 5.0))
    assert listener.judge("line", signs, SILENT_S) == "unknown"
    listener.forget("line")
    assert listener.judge("line", signs, SILENT_S) == "unknown", "the share was away for 70 s"
    assert listener.judge("line", signs, SILENT_S) == "unknown"
    assert listener.judge("line", signs, SILENT_S) == "dead"


def test_of_an_own_job_only_this_boot_counts():
    for known in ("alive", "dead", "unknown"):
        assert of_own_job(Signs(known, here=True)).known == known
        assert of_own_job(Signs(known, here=False)).known == "dead"


def test_the_driver_of_this_process_is_found_whatever_date_stands_in_the_state(run):
    attempt = run.begin_attempt()
    state = run.write_state(state="running", attempt=attempt)
    assert look_for_driver(run, state).known == "unknown", "it has not begun"
    write_driver(run, attempt)
    for date_s in (0.0, state.updated_s - 1e6, state.updated_s + 1e6):
        assert look_for_driver(run, state.model_copy(update={"updated_s": date_s})).known == "alive"
    with pytest.raises(RunExists, match="running already"):
        require_resumable(run, SILENT_S)

    file = run.attempt_folder(attempt) / "driver.json"
    note = json.loads(file.read_text())
    assert note == {
        "boot_id": boot_id(), "machine": machine_id(), "pid": os.getpid(), "start_ticks": start_ticks_of(os.getpid()),
    }  # fmt: skip
    ended = subprocess.Popen(["true"])
    ended.wait()
    for changes in ({"pid": ended.pid}, {"start_ticks": note["start_ticks"] - 1}):
        file.write_text(json.dumps(note | changes))
        assert look_for_driver(run, state).known == "dead"
        require_resumable(run, SILENT_S)
    assert look_for_driver(run, run.write_state(state="stopped")).known == "dead"


@pytest.mark.parametrize("text", ["{", "[]", '{"boot_id": 1}', '{"boot_id": "x", "pid": 1e999}', '{"pid": null}', ""])
def test_a_damaged_note_is_none(run, text):
    attempt = run.begin_attempt()
    (run.attempt_folder(attempt) / "driver.json").write_text(text)
    assert look_for_driver(run, run.write_state(state="running", attempt=attempt)).known == "unknown"


def test_a_run_that_nobody_has_begun_is_carried_by_nobody(run):
    assert look_for_driver(run, run.state()).known == "dead"
    require_resumable(run, SILENT_S)


@pytest.mark.parametrize("writes", [True, False])
def test_before_a_run_is_resumed_its_driver_elsewhere_is_listened_for(run, writes):
    record = Record(run, elsewhere(run), lambda state: None, Timings())
    record.write(state="running", attempt=1)
    clock = itertools.count(step=10.0)

    def meanwhile(seconds: float) -> None:
        if writes:
            record.write(step=1)
        else:
            run.write_state(why="somebody else has written")

    listener = Listener(lambda: next(clock), meanwhile)
    assert listener.until_known(run, SILENT_S) == ("alive" if writes else "dead")


def test_who_resumes_a_run_is_told_that_its_driver_is_listened_for(run, capsys):
    elsewhere(run)
    run.write_state(state="running", attempt=1)
    require_resumable(run, silent_s=0.01)
    assert "its driver is on another PC; listening for it, 0.01 s at most" in capsys.readouterr().err


def test_a_driver_of_an_earlier_version_counts_nothing_and_is_known_by_the_time_that_it_writes(run):
    attempt = elsewhere(run)
    listener = Listener(lambda: 0.0)
    state = run.write_state(state="running", attempt=attempt).model_copy(update={"updated_s": 1000.0})
    assert "beat" not in json.loads(run.state_file.read_text()), "its code would refuse it"
    assert listener.look(run, state, SILENT_S) == "unknown"
    earlier = state.model_copy(update={"updated_s": 900.0})
    assert listener.look(run, earlier, SILENT_S) == "alive", "also with its clock set back"


def test_a_driver_that_writes_nothing_for_long_beats_beside(run):
    run.begin_attempt()
    run.write_state(state="running", attempt=1)
    with beating(run, 0.01):
        until(lambda: run.state().beat >= 3)
    last = run.state().beat
    assert run.state().beat == last
    assert run.state().state == "running"


def test_a_pc_is_known_by_its_installation_and_its_cards(tmp_path):
    etc, cards = tmp_path / "etc", tmp_path / "net"
    etc.mkdir()
    for name, address, is_real in (("eth1", "aa:02", True), ("eth0", "aa:01", True), ("docker0", "02:42", False)):
        (cards / name).mkdir(parents=True)
        (cards / name / "address").write_text(f"{address}\n")
        if is_real:
            (cards / name / "device").touch()
    assert machine_id(etc, cards) == "", "it has no id of its installation"
    (etc / "machine-id").write_text("0123\n")
    machine_id.cache_clear()
    assert machine_id(etc, cards) == "0123/aa:01/aa:02"
    machine_id.cache_clear()


def test_a_driver_clears_what_a_killed_one_has_begun_and_nobody_elses(run):
    names = [".0123abcd.state.json", ".0123abcd.metrics.jsonl", ".0123abcd.notice.json"]
    for name in names:
        (run.path / name).touch()
    write_driver(run, run.begin_attempt())
    assert [name for name in names if (run.path / name).exists()] == names[2:], "the keeper may be writing that"
