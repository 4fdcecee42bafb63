"""What the system refuses a command is one line and exit code 1, whatever it was doing: real processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_line import vr

ROOT = Path(__file__).parents[2]
LISTED = ["jobs", "list", "--json"]


def started(arguments, environment=None, **streams):
    words = [sys.executable, "-m", "jobs.cli", *map(str, arguments)]
    given = {**os.environ, **(environment or {})}
    return subprocess.Popen(words, cwd=ROOT, env=given, **streams)


def ended(arguments, environment=None, **streams):
    given = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    process = started(arguments, environment, **given)
    out, err = process.communicate(timeout=60)
    return process.returncode, (out or b"").decode("latin-1"), (err or b"").decode("latin-1")


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["data", "--help"], LISTED])
def test_a_full_disk_behind_stdout_is_one_line(arguments, tmp_path):
    with open("/dev/full", "w") as full:
        code, _, said = ended([*arguments, *(["--out", tmp_path] if arguments is LISTED else [])], stdout=full)
    assert code == 1
    assert said.startswith("vr: ")
    assert said.endswith("No space left on device; free some space\n")
    assert "Traceback" not in said
    assert "Exception ignored" not in said


def test_a_full_disk_behind_both_streams_is_an_exit_code():
    with open("/dev/full", "w") as full:
        assert ended(["jobs", "show", "nobody"], stdout=full, stderr=full)[0] == 2


def test_who_stops_reading_has_no_complaint():
    read, write = os.pipe()
    os.close(read)
    code, _, said = ended(["--help"], stdout=write)
    os.close(write)
    assert (code, said) == (1, "")


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_streams_that_are_closed_go_nowhere(closed, tmp_path):
    """A file that is opened does not take the place of one of them."""
    line = f'"{sys.executable}" -m jobs.cli data synth "{tmp_path}/songs" --songs 1 --seconds 1 {closed}'
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done
    assert "Traceback" not in done.stderr
    written = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.wav"))
    assert written == ["songs/song001/instrumental.wav", "songs/song001/vocals.wav"]
    assert all(path.read_bytes().startswith(b"RIFF") for path in tmp_path.rglob("*.wav"))


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_an_encoding_without_the_letters_prints_what_it_can(encoding, tmp_path):
    folder = tmp_path / "Sigur Rós – Ágætis"
    folder.mkdir()
    code, _, said = ended(["data", "inspect", folder], {"PYTHONIOENCODING": encoding})
    assert code == 2
    assert said.count("\n") == 1
    assert "Sigur R" in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_a_command_as_ctrl_c_does(number, tmp_path):
    """`vr data prepare` waits for a folder's lock, or works: either way it ends and leaves no draft."""
    synth = started(["data", "synth", tmp_path / "songs", "--songs", "9999", "--seconds", "20"], stderr=subprocess.PIPE)
    while not any(tmp_path.rglob("*.wav")):
        assert synth.poll() is None
    synth.send_signal(number)
    _, said = synth.communicate(timeout=60)
    assert synth.returncode == 130
    assert said.decode().splitlines()[-1] == "vr: interrupted"
    assert not [path for path in tmp_path.rglob(".*")], "no draft is left"


def test_a_signal_that_is_ignored_stays_ignored(tmp_path):
    line = f'trap "" HUP; exec "{sys.executable}" -m jobs.cli data synth "{tmp_path}/songs" --songs 9999 --seconds 20'
    with subprocess.Popen(["bash", "-c", line], cwd=ROOT, stderr=subprocess.PIPE) as synth:
        while not any(tmp_path.rglob("*.wav")):
            assert synth.poll() is None
        synth.send_signal(signal.SIGHUP)
        seen = len([*tmp_path.rglob("*.wav")])
        while len([*tmp_path.rglob("*.wav")]) == seen:
            assert synth.poll() is None, "nohup keeps it going"
        synth.send_signal(signal.SIGTERM)
        synth.communicate(timeout=60)
        assert synth.returncode == 130


@pytest.mark.parametrize(
    "words",
    [
        ["cluster", "drain", "study", "--for", "9" * 40 + "h"],
        ["cluster", "drain", "study", "--for", "9" * 5000 + "h"],
        ["data", "stage", "data", "--cache", "cache", "--quota", "9" * 400 + "GB"],
        ["data", "inspect", "x" * 5000],
        ["jobs", "show", "x" * 5000],
        ["eval", "x" * 5000, "y" * 5000],
        ["separate", "x" * 5000 + ".wav", "-m", "y" * 5000, "-o", "out"],
        ["train", "songs-pretrain", "data=" + "x" * 5000],
        ["train", "songs-pretrain", "steps=" + "9" * 5000],
        ["train", "songs-pretrain", "data=~nosuchuser/x"],
        ["train", "x" * 5000],
        ["plan", "home-pretrain", "-i", "x" * 5000],
        ["plan", "home-pretrain", "-i", "/dev/zero"],
        ["cluster", "join", "x" * 5000],
    ],
    ids=lambda words: " ".join(word[:12] for word in words),
)
def test_absurd_words_are_one_line(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = vr(*words, code=None)
    assert said.code in (1, 2), said
    assert said.stderr.startswith(("vr: ", "Usage: ")), said.stderr[:200]
    assert "Traceback" not in said.stderr
    assert [path.name for path in tmp_path.iterdir() if path.name != "state"] == [], "nothing was made"


@pytest.mark.parametrize(
    "words", [LISTED, ["jobs", "show", "r"], ["cluster", "status"], ["trials", "s"], ["cluster", "down"]]
)
def test_a_state_folder_that_cannot_be_made_is_one_line(words, tmp_path, monkeypatch):
    (tmp_path / "state").write_text("a file in its place")
    said = vr(*words, code=None)
    assert "Traceback" not in said.stderr
    assert said.stderr.count("\n") <= 2, said
