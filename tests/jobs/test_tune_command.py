"""`vr tune` and `vr trials` without Ray: what is refused, planned and shown."""

import json
import re

from jobs.recipes.shipped import recipe_file
from jobs.search.folder import create_search
from jobs.search.space import plan_trials
from tests.command_line import vr
from vr_core.config import load
from vr_core.yaml12 import parse_yaml


def recipe(*overrides):
    from jobs.recipe import Recipe

    return load(Recipe, recipe_file("tune-smoke"), list(overrides))


def test_a_dry_run_prints_the_recipe_and_its_trials_and_makes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    planned = [plan.values for plan in plan_trials(recipe("tune.trials=4"))]
    text = vr("tune", "tune-smoke", "--trials", "4", "--dry-run").stdout
    assert parse_yaml(text, "stdout")["tune"]["trials"] == 4
    assert text.count("# trial ") == 4
    told = json.loads(vr("tune", "tune-smoke", "--trials", "4", "--dry-run", "--json").stdout)
    assert [trial["values"] for trial in told["trials"]] == planned
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_space_is_refused_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused = vr("tune", "tune-smoke", f"data={tmp_path}", "tune.space={optim.lrr: [1, 2]}", code=2)
    assert "optim.lrr: unknown key" in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_trials_of_a_search_are_shown_and_it_is_resumed_as_it_was(tmp_path):
    (tmp_path / "data").mkdir()
    search = create_search(recipe(f"data={tmp_path / 'data'}", f"out={tmp_path / 'runs'}"))
    told = json.loads(vr("trials", search.id, "--out", str(tmp_path / "runs"), "--json").stdout)
    assert (told["state"], told["best"], told["best_recipe"]) == ("pending", None, None)
    assert [trial["id"] for trial in told["trials"]] == [row.id for row in search.rows()]
    done = vr("trials", str(search.path))
    for row in search.rows():
        [line] = [line for line in done.stdout.splitlines() if line.startswith(f" {row.id} ")]
        assert line.split() == [row.id, *map(str, row.values.values()), "0/60", "pending"]
    assert f"vr tune --resume {search.path}" in done.stderr
    for extra in (["tune-smoke", "optim.lr=1e-3"], ["songs-pretrain"], ["--trials", "9"], ["--again"]):
        assert re.search("goes on with .* as it was", vr("tune", *extra, "--resume", search.path, code=2).stderr)
    assert "expected a recipe, or --resume" in vr("tune", code=2).stderr
