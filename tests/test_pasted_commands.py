"""Commands in messages can be pasted into a shell, whatever a folder is called."""

import ast
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataprep.errors import ManifestError
from dataprep.shards.manifest import read_manifest
from jobs.errors import RunExists
from jobs.recipe import Recipe
from jobs.reports.overview import find_run
from jobs.runs.creation import create_run
from jobs.search.folder import create_search
from tests.command_line import vr
from tests.shown_commands import check
from vr_core.config import validate
from vr_core.errors import command

ROOT = Path(__file__).parents[1]
ODD = "My 'odd' #2 $HOME"
COMMANDS = "quickstart|data|cluster|plan|submit|train|jobs|trace|eval|separate|tune|trials"
SHOWN = re.compile(rf"\bvr (?:{COMMANDS})\b[^`;:·]*$")


@given(st.lists(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0"), max_size=12), max_size=4))
def test_a_shell_gives_the_words_back(words):
    assert shlex.split(command("data verify", *words)) == ["vr", "data", "verify", *words]


def test_a_real_shell_does_too():
    words = [ODD, "it's", "a\nb", "*", "~", "", "größe"]
    line = command("data verify", *words).replace("vr ", "printf '%s\\0' ", 1)
    said = subprocess.run(["bash", "-c", line], capture_output=True, check=True)
    assert said.stdout.decode().split("\0")[:-1] == ["data", "verify", *words]


def unquoted(tree: ast.AST) -> list[int]:
    """Lines of f-strings in which a value stands behind `vr COMMAND` without `command`."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            before = ""
            for part in node.values:
                if isinstance(part, ast.Constant):
                    before += str(part.value)
                else:
                    if SHOWN.search(before):
                        found.append(part.lineno)
                    before += "{}" if not SHOWN.search(before) else ""
    return found


def test_no_message_builds_a_command_by_hand():
    assert unquoted(ast.parse('f"see `vr jobs show {run.id}`"')) == [1]
    assert unquoted(ast.parse('f"vr data verify {folder} --repair"')) == [1]
    assert unquoted(ast.parse("f\"see `{command('jobs show', x)}` of {run}\"")) == []
    assert unquoted(ast.parse('f"see `vr jobs list`; {hint}"')) == []
    files = [file for room in ("cluster", "dataprep", "jobs", "vr_core") for file in (ROOT / room).rglob("*.py")]
    assert len(files) > 200
    lines = {str(file.relative_to(ROOT)): unquoted(ast.parse(file.read_text(encoding="utf-8"))) for file in files}
    assert {name: found for name, found in lines.items() if found} == {}


def pasted(text: str) -> list[str]:
    """The words of the one command that `text` shows; it is one that `vr` takes."""
    [line] = re.findall(r"`(vr [^`]*)`", text) or re.findall(r": (vr .*)$", text, re.MULTILINE)
    check(line)
    return shlex.split(line)


def test_a_folder_with_a_space_a_quote_and_a_hash_is_pasted_whole(tmp_path):
    folder = tmp_path / ODD
    with pytest.raises(ManifestError) as told:
        read_manifest(folder)
    assert pasted(str(told.value)) == ["vr", "data", "prepare", "SRC", "--out", str(folder)]
    said = vr("data", "synth", folder, "--songs", "1", "--seconds", "1")
    assert pasted(said.stdout + said.stderr) == ["vr", "data", "prepare", str(folder), "--out", "data"]


def test_a_search_in_such_a_folder_is_pasted_whole(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    tune = {"space": {"optim.lr": [0.1, 0.2]}, "trials": 2, "grace_steps": 1}
    values = {"name": "odd", "data": str(data), "out": str(tmp_path / ODD), "steps": 9, "tune": tune}
    recipe = validate(Recipe, {**values, "validation": {"every_steps": 2}}, "test")
    search = create_search(recipe)
    with pytest.raises(RunExists) as told:
        create_search(recipe)
    assert pasted(str(told.value)) == ["vr", "tune", "--resume", str(search.path)]


@pytest.mark.parametrize("where", ["runs", ODD])
def test_a_run_that_is_elsewhere_is_named_by_its_folder(tmp_path, monkeypatch, where):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "data").mkdir()
    recipe = validate(Recipe, {"name": "odd", "data": str(tmp_path / "data"), "out": where, "steps": 9}, "test")
    run = create_run(recipe)
    with pytest.raises(RunExists) as told:
        create_run(recipe)
    lines = re.findall(r"`(vr [^`]*)`", str(told.value))
    assert len(lines) == 3
    for line in lines:
        check(line)
        assert find_run(shlex.split(line)[-1], Path("runs")).path == run.path, "it is found as it is pasted"
