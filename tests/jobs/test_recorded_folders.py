"""Runs, a search, data and ids of the commit that `tests/recorded/kept` was recorded with are what they were."""

import json

import pytest
import torch
from safetensors.numpy import load_file

from dataprep.shards.manifest import read_manifest
from jobs.recipe import Recipe
from jobs.recipes.shipped import shipped_recipes
from jobs.runs.creation import create_run
from jobs.runs.lookup import resolve_weights
from jobs.training.speed.kept import keep_speed, key_of
from tests.command_line import vr
from tests.jobs.training import here
from tests.recorded.compare import BEFORE
from tests.recorded.folders import KEPT, contents, ids, lay_out, require_as_undisturbed, run_called, separated
from tests.recorded.runs import SPEEDS
from vr_core.config import load, plain, validate

CPU = torch.device("cpu")
WITHIN = 1e-12


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))  # other tests of this process submit runs
    return lay_out(tmp_path)


def test_runs_are_listed_as_they_were_left(runs):
    rows = {row["run"].rpartition("-")[0].rpartition("-")[0]: row for row in listed("jobs", "list", "--out", runs)}
    left = {name: (row["state"], row["driven"], row["steps"], row["attempt"]) for name, row in rows.items()}
    assert left == {
        "finished": ("finished", False, 6, 1), "killed": ("running", False, 12, 1), "local": ("running", False, 14, 1),
    }  # fmt: skip
    for name, last in (("finished", 6), ("killed", 5), ("local", 8)):
        run = run_called(name, runs)
        shown = listed("jobs", "show", run.path)
        assert shown["last"] == f"step-{last:08d}" in shown["checkpoints"]
        assert shown["recipe"]["data"] == str(runs.parent / "data")
        assert run.last_step() == last
    assert rows["finished"]["step"] == 6
    assert rows["finished"]["loss"] == pytest.approx(json.loads(last_line(run_called("finished", runs)))["loss"])


def listed(*words):
    return json.loads(vr(*words, "--json").stdout)


def last_line(run):
    return [line for line in run.metrics_file.read_text().splitlines() if '"kind": "step"' in line][-1]


def test_a_search_is_listed_with_what_its_trials_came_to(runs):
    told = listed("trials", run_called("searched", runs).path)
    rows = told["trials"]
    assert [(row["id"], row["state"]) for row in rows] == [
        ("0000", "finished"), ("0001", "running"), ("0002", "pending"),
    ]  # fmt: skip
    assert rows[0]["step"] == rows[0]["steps"] == 30
    assert 10 <= rows[1]["step"] < 30
    assert rows[0]["score"] > 0
    assert told["best"] == "0000"


@pytest.mark.parametrize(("name", "as_left"), [("killed", "killed"), ("local", "local-alone")])
def test_a_killed_run_goes_on_to_where_an_undisturbed_one_came(name, as_left, runs):
    """That of `diloco`, whose deltas are under way, with one worker in place of two: from the parts of both."""
    run = run_called(name, runs)
    recipe = run.recipe()
    keep_speed(key_of(recipe, read_manifest(recipe.data).stft.bins, CPU, False), SPEEDS[0])
    here(run)
    require_as_undisturbed(run, as_left, WITHIN)


def test_weights_separate_what_they_separated(runs, tmp_path):
    now = separated(resolve_weights(run_called("finished", runs).path), tmp_path)
    before = load_file(KEPT / "separated.safetensors")["instrumental"]
    assert now == pytest.approx(before, abs=1e-6)
    assert abs(before).max() > 0.01


def test_a_data_set_holds_what_it_held():
    assert contents(BEFORE / "data") == json.loads((KEPT / "data.json").read_text())


@pytest.mark.parametrize("key", ids())
def test_a_recipe_keeps_its_digest_and_its_runs_their_id(key, runs):
    """The resolved one, which holds all keys and defaults of then, and the shipped file of that name as it is now."""
    recipes = [load(Recipe, KEPT / "recipes" / f"{key}.yaml")]
    recipes += [load(Recipe, file) for name, file in shipped_recipes().items() if name == key]
    start = resolve_weights(run_called("finished", runs).path)
    for number, recipe in enumerate(recipes):
        assert recipe.digest() == ids()[key]["digest"]
        places = {"data": str(runs.parent / "data"), "out": str(runs / f"out-{number}"), "init": str(start)}
        assert create_run(validate(Recipe, {**plain(recipe), **places}, key)).id == ids()[key]["run"]


@pytest.mark.parametrize("name", ["finished", "killed", "local"])
def test_the_recipe_in_a_run_s_folder_keeps_the_digest_in_its_name(name, runs):
    run = run_called(name, runs)
    assert run.id == f"{name}-{run.recipe().digest()}-1"
