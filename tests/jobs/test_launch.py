import json
import platform
import subprocess
import sys
import threading

import pytest

from cluster.drain import Drained, change_drained, put
from cluster.timings import Timings
from jobs.errors import RunFailed
from jobs.fit import Fits, carried, first_cause
from jobs.launch import raise_for
from jobs.placement import Node, Placement
from jobs.recipe import Recipe
from jobs.record import read_events
from jobs.retry import Failed
from jobs.runs import RunFolder, RunState, create_run
from jobs.seats import ClusterView
from jobs.supervisor import Superseded, Supervisor
from jobs.worker import require_folders
from vr_core.config import validate
from vr_core.errors import StorageError, UserError


@pytest.fixture
def run(tmp_path) -> RunFolder:
    (tmp_path / "data").mkdir()
    return create_run(Recipe(name="line", data=tmp_path / "data", out=tmp_path / "runs", steps=100))


def told(rank: int, message: str, time_s: float, final: bool = False, user_error: bool = False) -> dict:
    said = {"rank": rank, "message": message, "time_s": time_s, "final": final, "user_error": user_error}
    return {**said, "host": platform.node()}


@pytest.mark.parametrize(
    ("words", "silent", "expected"),
    [
        # A lost connection is what the others notice of a death.
        (
            [told(0, "Connection reset by peer", 1.0)],
            {1},
            Failed(5, "worker 1 died: its machine, its network or its memory"),
        ),
        (
            [told(0, "Connection reset by peer", 1.0), told(1, "no shard", 2.0, True, True)],
            set(),
            Failed(5, "no shard", True, True),
        ),
        (
            [told(0, "diverged", 1.0, True), told(1, "no shard", 2.0, True, True)],
            set(),
            Failed(5, "no shard", True, True),
        ),
        ([told(0, "second", 2.0), told(1, "first\nand more", 1.0)], set(), Failed(5, "first")),
        ([], set(), Failed(5, "what Ray says")),
    ],
)
def test_the_failure_that_made_the_others_is_told(words, silent, expected):
    assert first_cause(words, silent, 5, "what Ray says") == expected


def test_another_pc_is_named_and_the_words_that_it_could_not_write_are_taken_from_ray():
    elsewhere = {**told(1, "data: not there", 1.0, True, True), "host": "cellar"}
    assert first_cause([elsewhere], set(), 5, "") == Failed(5, "cellar: data: not there", True, True)

    missing = UserError("cellar: /runs is not there")
    found = carried({0: missing, 1: missing, 2: RuntimeError("the actor died")}, [told(0, "written", 1.0)])
    assert [(t["rank"], t["message"], t["user_error"], t["final"]) for t in found] == [
        (1, "cellar: /runs is not there", True, True)
    ]


def test_a_driver_lets_go_of_a_run_that_a_newer_attempt_has_taken(run):
    supervisor = Supervisor(run, run.recipe(), run.begin_attempt(), "", True, lambda state: None)
    supervisor._beat(now=True)
    before = run.state_file.read_text()
    run.begin_attempt()
    with pytest.raises(Superseded, match="attempt 2 has taken over from attempt 1"):
        supervisor._beat(now=True)
    assert run.state_file.read_text() == before


def test_workers_are_noted_once_they_run(run):
    attempt = run.begin_attempt()
    shown: list[RunState] = []
    supervisor = Supervisor(run, run.recipe(), attempt, "", True, shown.append)
    supervisor._number = 1
    (run.attempt_folder(attempt) / "machines-1.json").write_text(json.dumps({"machines": [{"rank": 0}]}))
    run.metrics_file.write_text('{"kind": "step", "step": 7, "loss": 1.0}\n{"kind": "st')
    supervisor._beat(now=True)
    assert (shown[-1].state, shown[-1].step) == ("running", 7)
    assert json.loads(run.origin_file.read_text())["machines"] == {"1.1": [{"rank": 0}]}


def test_a_wish_to_stop_reaches_the_supervisor_from_the_folder(run):
    supervisor = Supervisor(run, run.recipe(), run.begin_attempt(), "", True, lambda state: None)
    assert not supervisor._stopping()
    run.stop_file.touch()
    supervisor._pause(60)  # returns at once
    assert supervisor._stopping()


@pytest.mark.parametrize(
    ("drained", "can_wait", "leaves"),
    [("cellar", True, True), ("loft", True, False), ("cellar", False, False)],
)
def test_the_loop_is_asked_to_leave_when_one_of_its_machines_is_drained(
    run, tmp_path, monkeypatch, drained, can_wait, leaves
):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    attempt = run.begin_attempt()
    supervisor = Supervisor(run, run.recipe(), attempt, "", can_wait, lambda state: None)
    supervisor._number = 1
    machines = [{"rank": rank, "labels": {"vr/node": name}} for rank, name in enumerate(("attic", "cellar"))]
    (run.attempt_folder(attempt) / "machines-1.json").write_text(json.dumps({"machines": machines}))
    supervisor._beat(now=True)
    assert not run.leave_file.exists()
    change_drained(lambda record: put(record, Drained(name=drained, by="user", since_s=0, leaves_s=1)))
    supervisor._beat(now=True)
    assert run.leave_file.exists() == leaves
    assert run.state().why.startswith("leaves: cellar is drained") == leaves
    run.begin_attempt()
    assert not run.leave_file.exists(), "the next attempt knows by itself"


@pytest.mark.parametrize(
    ("error", "leaving", "kind"),
    [
        (RuntimeError("the raylet died"), True, "left"),
        (RuntimeError("the raylet died"), False, "failed"),
        ({"ended": "left"}, True, "left"),
        ({"ended": "finished"}, True, "finished"),
    ],
)
def test_a_machine_that_is_gone_before_the_loop_could_leave_it_counts_as_no_failure(
    run, monkeypatch, error, leaving, kind
):
    def fit(*arguments):
        if leaving:
            run.leave_file.touch()
        if isinstance(error, Exception):
            raise error
        return error

    fits = Fits(fit)
    supervisor = Supervisor(run, run.recipe(), run.begin_attempt(), "", False, lambda state: None, fits)
    run.leave_file.touch()  # of an earlier fit
    assert supervisor._one_fit(Placement(False, {}, [])).kind == kind


def test_a_machine_that_makes_steps_longer_is_left_out_and_said(run, monkeypatch):
    def fit(*arguments):
        machines = [{"rank": rank, "host": name, "labels": {"vr/node": name}} for rank, name in enumerate("ab")]
        (run.attempt_folder(1) / "machines-1.json").write_text(json.dumps({"machines": machines}))
        return {"ended": "left_out", "ranks": [1], "with_s": 0.93, "without_s": 0.41}

    fits = Fits(fit)
    nodes = [Node(name, {"vr/node": name}, 4, 0, name) for name in "ab"]
    view = ClusterView(lambda: nodes)
    supervisor = Supervisor(run, run.recipe(), run.begin_attempt(), "", False, lambda state: None, fits, view)
    assert supervisor._one_fit(Placement(False, {}, [])).kind == "left"
    said = "b is left out: with it a step takes 0.93 s, without 0.41 s (predicted)"
    assert read_events(run)[-1]["said"] == said
    supervisor._seats._recipe = validate(Recipe, {"name": "x", "steps": 1, "nodes": {}}, "test")
    assert supervisor._seats.place(None).names == ("a",)


def test_a_fit_that_takes_no_step_is_ended(run, monkeypatch):
    ended = threading.Event()

    def fit(*arguments):
        folder = run.attempt_folder(1)
        (folder / "machines-1.json").write_text(json.dumps({"machines": [{"rank": 0, "host": "attic"}]}))
        assert ended.wait(60)
        raise RuntimeError("the controller died")

    fits = Fits(fit, ended.set)
    recipe = validate(Recipe, {"name": "x", "steps": 1, "workers": {"hung_after_s": 0.3}}, "test")
    supervisor = Supervisor(run, recipe, run.begin_attempt(), "", False, lambda state: None, fits)
    outcome = supervisor._one_fit(Placement(False, {}, []))
    assert (outcome.kind, outcome.failed.final) == ("failed", False)
    assert outcome.failed.why == "no step for 0.3 s"


def test_a_folder_that_is_away_is_waited_for_and_costs_no_attempt(run, capsys):
    soon = Timings(storage_again_s=0.05)
    supervisor = Supervisor(run, run.recipe(), run.begin_attempt(), "", False, lambda state: None, timings=soon)
    away = run.path.rename(run.path.with_name("away"))
    back = threading.Timer(0.3, lambda: away.rename(run.path))
    back.start()
    supervisor._record.await_folder(threading.Event())
    back.join()
    assert run.recipe_file.is_file()
    assert capsys.readouterr().err.count("is away; waiting for it") == 1


@pytest.mark.parametrize("state", ["pending", "finished"])
def test_a_full_disk_ends_no_supervisor_and_an_end_is_told_in_the_end(run, monkeypatch, capsys, state):
    shown, full = [], [3]
    supervisor = Supervisor(
        run, run.recipe(), run.begin_attempt(), "", False, shown.append, timings=Timings(storage_again_s=0.01)
    )
    supervisor._record.write(state="running", step=5)
    honest = RunFolder.write_state

    def write_state(self, **changes):
        full[0] -= 1
        if full[0] >= 0:
            raise OSError(28, "No space left on device")
        return honest(self, **changes)

    monkeypatch.setattr(RunFolder, "write_state", write_state)
    told = supervisor._record.write(state=state, why="because")
    assert (told.state, told.step, told.why) == (state, 5, "because")
    assert shown[-1] == told
    assert run.state().state == ("finished" if state == "finished" else "running")
    full[0] = 0
    supervisor._record.write(step=6)
    assert (run.state().state, run.state().why, run.state().step) == (state, "because", 6), "told later"
    assert capsys.readouterr().err.count("state not written") == 1


def test_a_disk_that_failed_is_the_cause_and_not_the_lost_connections():
    words = [told(0, "Connection reset by peer", 1.0), {**told(1, "share: cannot be read", 2.0), "storage": True}]
    assert first_cause(words, {2}, 5, "") == Failed(5, "share: cannot be read", storage=True)


@pytest.mark.parametrize(("user_error", "kind"), [(True, UserError), (False, RunFailed)])
def test_a_failed_run_raises_what_the_command_line_prints(run, user_error, kind):
    state = RunState(state="failed", steps=9, step=3, why="no shard", user_error=user_error)
    with pytest.raises(kind, match=f"{run.id} failed at step 3 of 9: no shard"):
        raise_for(run, state)
    raise_for(run, RunState(state="stopped", steps=9))


SIGNALLED = """
import os, signal, sys, time
from pathlib import Path
from jobs.launch import stop_on_signals
from jobs.runs import RunFolder
run, asked = RunFolder(Path(sys.argv[1])), []
with stop_on_signals(lambda: asked.append(1), run if sys.argv[2] == "job" else None):
    os.kill(os.getpid(), signal.SIGTERM)
    while not asked:
        time.sleep(0.01)
print("asked to stop")
"""


@pytest.mark.parametrize(("kind", "wanted", "code"), [("job", False, 143), ("job", True, 0), ("here", False, 0)])
def test_a_job_that_is_ended_with_its_head_is_not_taken_for_one_that_the_user_stops(kind, wanted, code, tmp_path):
    if wanted:
        RunFolder(tmp_path).stop_file.touch()
    argv = [sys.executable, "-c", SIGNALLED, str(tmp_path), kind]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (code, "" if code else "asked to stop\n")


@pytest.mark.parametrize(
    ("gone", "been", "expected", "says"),
    [
        ("runs", False, UserError, "put out= on storage that every PC mounts"),
        ("runs", True, StorageError, "is its share mounted"),
        ("data", True, StorageError, "is its share mounted"),
    ],
)
def test_a_share_that_this_pc_had_may_come_back_and_one_that_it_never_had_will_not(
    run, tmp_path, gone, been, expected, says
):
    run.begin_attempt()
    attempt, data = run.attempt_folder(1), tmp_path / "data"
    require_folders(attempt, data, been)
    (tmp_path / gone).rename(tmp_path / "away")
    with pytest.raises(expected, match=says):
        require_folders(attempt, data, been)


def test_a_start_is_told_which_pcs_have_trained_before(run, monkeypatch):
    told = []
    fits = Fits(lambda *arguments: told.append(arguments[-1]) or {"ended": "finished"})
    starts = {"1.1": [{"host": "attic"}, {"host": "den"}], "1.2": [{"host": "attic"}]}
    run.origin_file.write_text(json.dumps({"machines": starts}))
    Supervisor(run, run.recipe(), run.begin_attempt(), "", False, lambda state: None, fits)._one_fit(
        Placement(False, {}, [])
    )
    assert told == [{"attic", "den"}]
