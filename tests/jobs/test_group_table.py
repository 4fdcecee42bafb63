"""The table of what is trained at which rate, before a run starts: counted, and where it is shown."""

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.planning.groups import groups_apart, groups_of, lines_of
from jobs.recipe import Recipe
from tests.command_line import vr
from tests.jobs.training import recipe_of
from vr_core.config import parse_overrides, validate
from vr_core.errors import ConfigError, UserError
from vr_core.models.registry import build
from vr_core.specs.models import PlainStackSpec
from vr_core.specs.optim import GroupRow
from vr_core.yaml12 import parse_yaml

STACK = {"name": "plain_stack", "width": 16, "blocks": 1}


def recipe(**changes: Any) -> Recipe:
    return validate(Recipe, {"name": "demo", "steps": 100, "model": STACK, **changes}, "demo.yaml")


def test_the_numbers_are_those_of_the_model_that_is_trained(tiny_data: Path) -> None:
    """Bins are the data set's; a process of its own says the same."""
    spec = recipe_of(tiny_data, **{"model": STACK, "optim.freeze": "body", "optim.lr": 0.02})
    assert spec.data is not None
    bins = json.loads((spec.data / "manifest.json").read_text())["stft"]["n_fft"] // 2
    model = build(PlainStackSpec(width=16, blocks=1), bins)
    count = {
        layer: sum(p.numel() for name, p in model.named_parameters() if name.startswith(layer))
        for layer in ("input", "blocks", "output")
    }
    rows = groups_of(spec)
    assert rows == [
        GroupRow(("input", "blocks.0"), count["input"] + count["blocks"], 0.0, None),
        GroupRow(("output",), count["output"], 0.02, 0),
    ]
    assert groups_apart(spec) == rows


def test_what_cannot_be_trained_is_said_in_the_same_words_from_apart() -> None:
    wrong = recipe(optim={"freeze": ["nothing.*"]})
    with pytest.raises(ConfigError) as here:
        groups_of(wrong)
    with pytest.raises(UserError) as apart:
        groups_apart(wrong)
    assert str(apart.value) == str(here.value)
    assert "'nothing.*' names no parameter" in str(here.value)


def test_a_data_set_that_is_not_there_has_the_usual_bins(tmp_path: Path) -> None:
    assert groups_of(recipe(data=str(tmp_path / "none"))) == groups_of(recipe())


def test_the_table_says_layers_parameters_rates_and_when() -> None:
    rows = [
        GroupRow(("input",), 12, 0.0, None),
        GroupRow(tuple(f"blocks.{i}" for i in range(12)), 1_234_567, 0.0005, 500),
        GroupRow(("norm", "output"), 99, 0.001, 0),
    ]
    assert lines_of(rows) == [
        "layers                             parameters  peak rate  trained",
        "input                                      12          0  no, frozen",
        "blocks.0 to blocks.11 (12 layers)   1,234,567     0.0005  after step 500",
        "norm, output                               99      0.001  yes",
    ]


def test_a_dry_run_shows_it_and_stays_a_recipe() -> None:
    words = ["songs-pretrain", "--dry-run", "optim.freeze=body"]
    for command in ("submit", "train"):
        text = vr(command, *words).stdout
        spec = validate(Recipe, parse_yaml(text, "x"), "x")
        assert spec.optim.freeze == ("body",)
        assert [line.removeprefix("# ") for line in text.splitlines() if line.startswith("#")] == lines_of(
            groups_of(spec)
        )
        told = json.loads(vr(command, *words, "--json").stdout)
        assert validate(Recipe, told["recipe"], "x") == spec
        assert [row["trained_from_step"] for row in told["groups"]] == [None, 0]
    assert parse_overrides(["optim.freeze=body"], Recipe) == {"optim.freeze": "body"}
    assert "names no parameter" in vr("train", "songs-pretrain", "--dry-run", "optim.freeze=[x]", code=2).stderr
