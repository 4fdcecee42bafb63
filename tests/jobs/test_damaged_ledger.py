"""The table of submitted runs is no treasure: a damaged one is put aside, and runs are found by their folders."""

import contextlib
import json
import sqlite3

import pytest

from cluster.node.head import state_folder
from jobs.queue.table import Ledger
from jobs.recipe import Recipe
from jobs.runs.creation import create_run
from tests.command_line import vr
from vr_core.config import validate
from vr_core.errors import StorageError


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "data").mkdir()
    raw = {"name": "demo", "steps": 9, "data": str(tmp_path / "data"), "out": str(tmp_path / "runs")}
    made = create_run(validate(Recipe, raw, "demo"))
    Ledger(state_folder()).open(made)
    return made


def garbage(file):
    file.write_bytes(b"no database at all, " * 100)


def middle(file):
    """Past its header: only a look at its pages shows it."""
    rows = [(f"r{n}",) for n in range(999)]
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.executemany("insert into runs values (?, '', 0, '', 0, 0, 'running', 1, 0, 0, 0, '', 0)", rows)
        connection.commit()
        connection.execute("pragma wal_checkpoint(truncate)")
    content = bytearray(file.read_bytes())
    content[4096:12288] = b"\xff" * 8192
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [garbage, middle])
def test_a_damaged_table_is_put_aside_and_said(run, damage):
    damage(state_folder() / "runs.sqlite")
    said = vr("jobs", "list", "--out", run.path.parent, "--json")
    assert [row["run"] for row in json.loads(said.stdout)] == [run.id]
    assert "runs.sqlite: damaged, kept as runs.sqlite.damaged" in said.stderr
    assert "vr jobs resume RUN" in said.stderr
    assert (state_folder() / "runs.sqlite.damaged").is_file()
    assert "damaged" not in vr("jobs", "list", "--out", run.path.parent).stderr
    assert Ledger(state_folder()).open(run).version == 1, "it can be submitted again"


def test_a_table_that_cannot_be_opened_is_one_line(run):
    file = state_folder() / "runs.sqlite"
    file.unlink()
    file.mkdir()
    with pytest.raises(StorageError, match="check that its folder can be written"):
        Ledger(state_folder())
