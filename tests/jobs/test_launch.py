import platform
import subprocess
import sys

import pytest

from jobs.errors import RunFailed
from jobs.execution.launch import raise_for
from jobs.execution.messages import carried, first_cause
from jobs.execution.retry import Failed
from jobs.execution.worker import require_folders
from jobs.recipe import Recipe
from jobs.runs.creation import create_run
from jobs.runs.folder import RunFolder
from jobs.runs.state import RunState
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
from jobs.execution.launch import stop_on_signals
from jobs.runs.folder import RunFolder
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
    ("gone", "trained_here", "expected", "says"),
    [
        ("runs", False, UserError, "put out= on storage that every PC mounts"),
        ("runs", True, StorageError, "is its share mounted"),
        ("data", True, StorageError, "is its share mounted"),
    ],
)
def test_a_share_that_this_pc_had_may_come_back_and_one_that_it_never_had_will_not(
    run, tmp_path, gone, trained_here, expected, says
):
    run.begin_attempt()
    attempt, data = run.attempt_folder(1), tmp_path / "data"
    require_folders(attempt, data, trained_here)
    (tmp_path / gone).rename(tmp_path / "away")
    with pytest.raises(expected, match=says):
        require_folders(attempt, data, trained_here)
