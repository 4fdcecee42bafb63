"""What a program reads of a command: whole lines in any width, any encoding, and of a data set that is read-only."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table

from jobs.commands import terminal
from jobs.commands.evaluate import _print_table
from jobs.runs.folder import RunFolder
from jobs.runs.state import RunState
from jobs.scoring.evaluate import SCORES
from tests.command_line import vr
from tests.jobs.music import SMALL, song
from vr_core.config import plain
from vr_core.files import write_json

ROOT = Path(__file__).parents[2]
LONG = "An_album_of_a_long_name_that_goes_on_and_on_and_is_no_mistake-{}_as_sung"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Two songs of long names, of which one is a copy of the other, and one in Japanese."""
    folder = tmp_path_factory.mktemp("programs")
    for number, name in enumerate([LONG.format("first"), LONG.format("second"), "音楽"]):
        song(folder / "music" / name, seconds=8, seed=number // 2)
    vr("data", "prepare", folder / "music", "--out", folder / "data", *SMALL, "--split", "valid=0.4")
    return folder / "data"


@pytest.fixture(autouse=True)
def narrow(monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def words_of(text: str) -> set[str]:
    return set(text.split())


def test_inspect_prints_ids_whole_and_a_line_for_each_song(data):
    lines = vr("data", "inspect", data).stdout.splitlines()
    for name in (LONG.format("first"), LONG.format("second"), "音楽"):
        [line] = [line for line in lines if line.strip().startswith(name)]
        assert re.search(r" (train|valid|test) +0:08\.0 ", line)
    assert [
        line for line in lines if line.startswith(f"{data}: polar8, mixtures magnitude8, 44100 Hz") and "digest" in line
    ]


def test_dedupe_prints_both_ids_in_one_line(data):
    lines = vr("data", "dedupe", data, code=None).stdout.splitlines()
    assert [line for line in lines if {LONG.format("first"), LONG.format("second")} <= words_of(line)]


def test_list_prints_names_and_reasons_whole(tmp_path):
    why = "the reason of a failure " * 20
    run = RunFolder(tmp_path / "runs" / (LONG.format("run").lower() + "-0123abcd-1"))
    run.path.mkdir(parents=True)
    run.recipe_file.write_text(json.dumps({"name": "demo", "steps": 9}))
    write_json(run.state_file, plain(RunState(state="failed", why=why.strip(), steps=9, updated_s=0.0)))
    [_, line] = vr("jobs", "list", "--out", tmp_path / "runs").stdout.splitlines()
    assert line.split()[0] == run.id
    assert why.strip() in line


def test_a_wide_cell_is_not_wrapped_and_a_line_break_stays(capsys):
    table = Table("state", box=None)
    table.columns[0].max_width = 5
    table.add_row("one two three\nfour five six seven")
    terminal.show_table(table)
    assert [line.strip() for line in capsys.readouterr().out.splitlines()] == [
        "state", "one two three", "four five six seven",
    ]  # fmt: skip


def test_a_terminal_is_not_overrun(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    table = Table("state", box=None)
    table.add_row("x" * 100)
    terminal.show_table(table)
    shown = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert max(map(len, shown.splitlines())) <= 40


def test_commands_have_no_console_of_their_own():
    """One that is made elsewhere cuts at 80 columns; vr quickstart draws lines across its own."""
    made = [
        file.name for file in (ROOT / "jobs" / "commands").rglob("*.py")
        if re.search(r"(?<!\w)Console\(", file.read_text(encoding="utf-8"))
    ]  # fmt: skip
    assert sorted(made) == ["quickstart.py", "terminal.py"]


LOCALES = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}


@pytest.mark.parametrize("name", LOCALES)
def test_letters_that_the_stream_has_not_are_written_out(name, data):
    words = [sys.executable, "-m", "jobs.cli", "data", "inspect", str(data)]
    environment = {key: value for key, value in os.environ.items() if key not in ("LC_ALL", "PYTHONUTF8")}
    done = subprocess.run(words, cwd=ROOT, env=environment | LOCALES[name], capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"\\u97f3\\u697d" in done.stdout
    assert b"?" not in done.stdout
    assert b"Traceback" not in done.stderr


READ_ONLY = """
mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && ! touch "$1/x" 2>/dev/null || exit 99
shift
exec "$@"
"""


CALLS = """
import json, sys
from tests.command_line import vr
print(json.dumps([[*vars(vr("data", words[0], sys.argv[1], *words[1:], code=None)).values()]
                  for words in json.loads(sys.argv[2])]))
"""
WORDS: dict[tuple[str, ...], tuple[int, str]] = {
    ("inspect",): (0, "digest"),
    ("verify",): (0, "as they were written"),
    ("verify", "--repair"): (0, "as they were written"),
    ("dedupe",): (0, "1 pairs of copies"),
    ("remove", "音楽"): (2, "change the data set where its folder can be written"),
    ("prune",): (2, "change the data set where its folder can be written"),
}


@pytest.mark.usefixtures("root")
def test_a_data_set_that_is_mounted_read_only_is_read_and_never_told_of_an_option_that_is_not_there(data):
    command = [sys.executable, "-c", CALLS, str(data), json.dumps([*WORDS])]
    argv = ["unshare", "--mount", "sh", "-c", READ_ONLY, "sh", str(data), *command]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    for (words, (code, expected)), (out, err, ended) in zip(WORDS.items(), json.loads(done.stdout), strict=True):
        assert ended == code, (words, out, err)
        assert expected in out + err, words
        assert "--out" not in out + err, words


def test_scores_are_printed_with_whole_names(capsys):
    row = dict.fromkeys(SCORES, 1.0)
    _print_table({"songs": [{"id": LONG.format("first"), **row}], "mean": row})
    assert [line for line in capsys.readouterr().out.splitlines() if LONG.format("first") in line and "1.00" in line]
