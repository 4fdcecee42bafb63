from pathlib import Path

import pytest

import cluster
import jobs
from cluster.inventory import Inventory
from jobs.recipe import Recipe
from vr_core.config import load, plain, to_yaml, validate
from vr_core.yaml12 import parse_yaml

RECIPES = sorted((Path(jobs.__path__[0]) / "recipes").glob("*.yaml"))
INVENTORIES = sorted(Path(cluster.__path__[0]).glob("*.yaml"))


def name(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_every_shipped_recipe_loads_and_is_called_as_its_file(path):
    recipe = load(Recipe, path)
    assert recipe.name == path.stem
    assert recipe.data is None, "a shipped recipe names no folder of somebody's machine"
    assert validate(Recipe, parse_yaml(to_yaml(recipe), "text"), "text") == recipe


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_the_space_of_every_shipped_search_fits_its_recipe(path):
    recipe = load(Recipe, path)
    for key, choices in recipe.tune.space.items() if recipe.tune else ():
        values = choices if isinstance(choices, tuple) else next(iter(choices.values()))
        for value in values:
            load(Recipe, path, [f"{key}={value}"])


def test_inventories_are_shipped():
    assert {path.name for path in INVENTORIES} >= {"example.yaml", "localhost.yaml"}


@pytest.mark.parametrize("path", INVENTORIES, ids=name)
def test_every_shipped_inventory_loads(path):
    inventory = load(Inventory, path)
    assert inventory.head in inventory.nodes
    assert validate(Inventory, parse_yaml(to_yaml(inventory), "text"), "text") == inventory


def test_a_runs_identity_leaves_out_paths_and_logging_and_nothing_else():
    recipe = Recipe(name="a", steps=100)
    for same in ({"data": "x"}, {"out": "y"}, {"init": "z"}, {"log": {"tensorboard": False}}):
        assert validate(Recipe, {**plain(recipe), **same}, "test").digest() == recipe.digest()
    changes = {"name": "b", "steps": 101, "seed": 1, "needs_init": True, "precision": "float32", "nonfinite_limit": 1}
    nested = {"batch": {"items": 8}, "optim": {"lr": 1.0}, "validation": {"items": 1}, "model": {"name": "plain_stack"}}
    for key, value in {**changes, **nested}.items():
        assert validate(Recipe, {**plain(recipe), key: value}, "test").digest() != recipe.digest(), key
