import json
import os
import signal

import pytest
from filelock import FileLock, Timeout
from rich.console import Console

from cluster.errors import NoHead
from cluster.node.head import state_folder
from jobs.errors import FolderTaken
from jobs.quickstart.folder import LOCK, NOTE, QuickstartSpec, take
from jobs.quickstart.head import running_head
from jobs.quickstart.quickstart import make_songs, next_step, quickstart
from jobs.quickstart.signals import signals_as_interrupts, signals_ignored
from jobs.quickstart.stages import Stages
from jobs.recipe import Recipe
from jobs.recipes.shipped import recipe_file
from jobs.runs.state import RunState
from jobs.scoring.evaluate import no_bar
from vr_core.config import load, plain, validate
from vr_core.errors import ConfigError

SPEC = QuickstartSpec(songs=3, seconds=5)
STAGES = Stages(Console(stderr=True))


def test_a_new_or_empty_folder_is_taken_and_the_same_call_takes_it_again(tmp_path):
    for folder in (tmp_path / "new" / "deep", tmp_path / "empty"):
        if folder.name == "empty":
            folder.mkdir()
        take(folder, SPEC)
        note = (folder / NOTE).read_bytes()
        assert json.loads(note) == plain(SPEC)
        take(folder, SPEC)
        assert (folder / NOTE).read_bytes() == note


def test_what_is_not_ours_is_refused_and_left_as_it_is(tmp_path):
    file = tmp_path / "song.wav"
    file.write_bytes(b"mine")
    with pytest.raises(FolderTaken, match=r"song\.wav: is a file; give a new folder"):
        take(file, SPEC)
    with pytest.raises(FolderTaken, match="is not empty, and not from vr quickstart"):
        take(tmp_path, SPEC)
    with pytest.raises(FolderTaken, match=r"cannot be written \(Not a directory\)"):
        take(file / "deeper", SPEC)
    assert [path.name for path in tmp_path.iterdir()] == ["song.wav"]
    assert file.read_bytes() == b"mine"


def test_a_folder_of_other_songs_or_with_a_damaged_note_is_refused(tmp_path):
    take(tmp_path, SPEC)
    with pytest.raises(ConfigError, match="was made with --songs 3 --seconds 5; give the same, or a new folder"):
        take(tmp_path, QuickstartSpec())
    for damaged in ("", '{"songs": 2}', "[]", '{"unknown": 1}'):
        (tmp_path / NOTE).write_text(damaged)
        with pytest.raises(FolderTaken, match=r"quickstart\.json: damaged"):
            take(tmp_path, SPEC)
        assert (tmp_path / NOTE).read_text() == damaged


def test_two_at_once_in_one_folder_are_refused(tmp_path):
    take(tmp_path, SPEC)
    with FileLock(tmp_path / LOCK), pytest.raises(FolderTaken, match="another vr quickstart works in it"):
        quickstart(tmp_path, SPEC, keep=False, console=Console(stderr=True), bar=no_bar)


@pytest.mark.parametrize("wrong", [{"songs": 2}, {"seconds": 4.9}, {"seconds": 1e9}, {"songs": 10_000}])
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match=f"vr quickstart: {next(iter(wrong))}"):
        validate(QuickstartSpec, wrong, "vr quickstart")


def state(name: str) -> RunState:
    return RunState(state=name, steps=10)


@pytest.mark.parametrize(
    ("earlier", "step"),
    [
        ([], "new"),
        (["finished"], "use"),
        (["failed", "finished"], "use"),
        (["finished", "stopped"], "go on"),
        (["pending"], "go on"),
        (["running"], "go on"),
        (["failed"], "go on"),
    ],
)
def test_what_is_finished_is_used_and_what_is_not_goes_on(earlier, step):
    assert next_step([state(name) for name in earlier]) == step


def test_finished_songs_are_not_written_again_and_a_missing_one_is(tmp_path):
    make_songs(tmp_path / "songs", SPEC, STAGES)
    files = sorted((tmp_path / "songs").rglob("*.wav"))
    assert len(files) == 6
    before = {path: path.stat().st_mtime_ns for path in files}
    make_songs(tmp_path / "songs", SPEC, STAGES)
    assert {path: path.stat().st_mtime_ns for path in files} == before
    content = files[0].read_bytes()
    files[0].unlink()
    make_songs(tmp_path / "songs", SPEC, STAGES)
    assert files[0].read_bytes() == content


def test_the_second_recipe_starts_from_what_the_first_makes():
    first, second = (load(Recipe, recipe_file(f"quickstart-{name}")) for name in ("pretrain", "finetune"))
    assert second.needs_init
    assert first.model == second.model
    assert first.batch.crop_frames <= QuickstartSpec.model_fields["seconds"].metadata[0].ge * 44_100 / 1024


def test_a_head_is_looked_for_when_no_other_process_is_starting_or_ending_one():
    others_may = []

    def find_head():
        try:
            with FileLock(state_folder() / "lock", timeout=0):
                others_may.append(True)
        except Timeout:
            others_may.append(False)
        raise NoHead("none")

    assert running_head(find_head) is None
    assert others_may == [False]


def test_a_stage_says_when_it_begins_and_ends(capsys):
    stages = Stages(Console(stderr=True, width=20))
    with stages.stage("data set", "their [spectrograms], in /a/long/folder/that/is/not/folded"):
        assert capsys.readouterr().err == "[2/6] data set: their [spectrograms], in /a/long/folder/that/is/not/folded\n"
    assert capsys.readouterr().err == "      done in 0 s\n"
    assert list(stages.seconds) == ["data set"]
    with pytest.raises(OSError, match="full"), stages.stage("songs", "x"):
        raise OSError("full")
    assert list(stages.seconds) == ["data set"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_termination_ends_the_work_as_ctrl_c_does_unless_it_is_ignored(number):
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), signals_as_interrupts():
        os.kill(os.getpid(), number)
    with signals_as_interrupts(), signals_ignored():
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) == before
