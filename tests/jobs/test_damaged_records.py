"""Records of a run that are derived: damage is said in a line, and the run and its neighbours go on."""

import json
import shutil

import pytest

from jobs.recipe import Recipe
from jobs.reports.overview import overview
from jobs.runs.creation import create_run
from tests.command_line import vr


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two runs, of which the first is to be damaged."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "data").mkdir()
    made = Recipe(name="demo", data=tmp_path / "data", out=tmp_path / "runs", steps=9)
    return [create_run(made.model_copy(update={"seed": seed})) for seed in (1, 2)]


ORIGINS = [
    b"", b"\xff", b"[]", b"{}", b'{"machines": 3}', b'{"machines": {"1.1": 3}}', b'{"machines": {"1.1": [3]}}',
    b'{"machines": {"1.1": [{"labels": {}}]}}', b'{"machines": {"1.1": [{"host": 1, "labels": {}, "device": "cpu"}]}}',
    b"[" * 100_000, None,
]  # fmt: skip


@pytest.mark.parametrize("content", ORIGINS, ids=lambda content: str(content)[:40])
def test_a_run_is_shown_whatever_its_origin_says(runs, content):
    file = runs[0].origin_file
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    said = vr("jobs", "show", runs[0].path)
    assert f"folder: {runs[0].path}\n" in said.stdout
    assert f"damage: {file}" in said.stdout or content is None and "damage: " in said.stdout
    assert json.loads(vr("jobs", "show", runs[0].path, "--json").stdout)["damage"]


@pytest.mark.parametrize("name", ["attempts", "metrics", "checkpoints", "state.json", "summary.json", "notice.json"])
@pytest.mark.parametrize("kind", ["file", "folder", "deep"])
def test_one_damaged_run_hides_no_other(runs, name, kind):
    place = runs[0].path / name
    if place.is_dir():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    if kind == "folder":
        place.mkdir()
    else:
        place.write_text("[" * 100_000 if kind == "deep" else "{")
    listed = {row.run: row.state for row in overview(runs[0].path.parent, None).rows}
    assert listed[runs[1].id] == "pending"
    if runs[0].id in listed:
        assert listed[runs[0].id] in ("pending", "damaged")
    vr("jobs", "show", runs[0].path, code=None)
