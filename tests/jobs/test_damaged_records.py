"""Records of a run that are derived: damage is said in a line, and the run and its neighbours go on."""

import json
import shutil

import pytest
import torch

from dataprep.preparing.change import prune, remove
from dataprep.preparing.prepare import prepare
from dataprep.shards.manifest import read_manifest
from jobs.recipe import Recipe
from jobs.reports.overview import overview
from jobs.runs.creation import create_run
from jobs.training.resume import require_data_kept
from tests.command_line import vr
from tests.dataprep.data import SETTINGS, labelled
from tests.jobs.checkpoints import write_example


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


def test_a_run_whose_version_of_the_data_is_gone_is_told_before_it_is_started(runs, tmp_path):
    run, data = runs[0], tmp_path / "data"
    shutil.rmtree(data)
    prepare([labelled(tmp_path / "music", "a", 2_000, 1), labelled(tmp_path / "music", "b", 2_000, 2)], data, SETTINGS)
    step = write_example(run, 4, 1.0)
    began = read_manifest(data).digest()
    torch.save({"data": began}, step / "training.pt")
    require_data_kept(run, run.recipe())
    remove(data, ["b"])
    require_data_kept(run, run.recipe())
    prune(data)
    said = vr("jobs", "resume", run.path, code=2)
    assert f"changed since (digest {began} then" in said.stderr
    assert run.newest_attempt() == 0
    (step / "training.pt").write_bytes(b"cut")
    require_data_kept(run, run.recipe())
