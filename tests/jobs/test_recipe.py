"""The schema of a recipe: its identity, and what it refuses."""

from pathlib import Path
from typing import Any

import pytest

from dataprep.shards.manifest import Manifest
from jobs.recipe import ADDED_KEYS, REMOVED_KEYS, Recipe
from jobs.recipes.checks import require_hearable, require_startable
from jobs.recipes.shipped import read_recipe, shipped_recipes
from jobs.runs.folder import RunFolder
from vr_core.config import load, parse_overrides, plain, to_yaml, validate
from vr_core.errors import ConfigError
from vr_core.specs.stft import StftSpec
from vr_core.yaml12 import parse_yaml


def recipe(**changes: Any) -> Recipe:
    return validate(Recipe, {"name": "demo", "steps": 100, **changes}, "demo.yaml")


def test_identity_is_what_is_computed_and_not_where() -> None:
    base = recipe().digest()
    assert len(base) == 8
    assert recipe(data="/a", out="/b", init="/c", log={"tensorboard": False}).digest() == base
    # Written out or left to the default is the same recipe.
    assert recipe(seed=0, model={"name": "dense_frame_transformer"}).digest() == base
    for change in ({"seed": 1}, {"steps": 101}, {"optim": {"lr": 2e-3}}, {"model": {"name": "plain_stack"}}):
        assert recipe(**change).digest() != base


def test_the_tables_of_keys_speak_of_keys_that_are_there_and_of_keys_that_are_not() -> None:
    """A default in the table that is not the schema's would change every id."""
    resolved = plain(recipe())
    assert not set(ADDED_KEYS) & set(REMOVED_KEYS)
    for table, there in ((ADDED_KEYS, True), (REMOVED_KEYS, False)):
        for key, default in table.items():
            *parents, last = key.split(".")
            section: Any = resolved
            for parent in parents:
                name, _, kind = parent.partition(":")
                section = section[name] if not kind else plain(recipe(**{name: {"name": kind}}))[name]
            assert (last in section) is there, key
            assert not there or section[last] == default, key


def test_the_resolved_recipe_reads_back_equal(tmp_path: Path) -> None:
    space = {"optim.lr": {"loguniform": [1e-4, 1e-2]}, "model.width": [64, 128]}
    before = recipe(data="/a", tune={"space": space}, workers={"count": 2, "labels": [{"vr/gpu": "x"}]})
    (tmp_path / "recipe.yaml").write_text(to_yaml(before))
    assert load(Recipe, tmp_path / "recipe.yaml") == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optim": {"lrr": 1e-3}}, r"demo\.yaml: optim\.lrr: unknown key \(did you mean optim\.lr\?\)"),
        ({"steps": "many"}, r"steps: should be a valid integer, got 'many'"),
        ({"optim": {"lr": 0}}, r"optim\.lr: should be greater than 0"),
        ({"workers": {"count": 99}}, r"workers\.count 99 is more than batch\.items 16"),
        (
            {"workers": {"count": 2, "labels": [{}, {}, {}]}},
            r"workers\.labels must hold one entry, or one for each of 2",
        ),
        ({"model": {"width": 100}}, r"model\.name: missing; say which"),
        (
            {"model": {"name": "dense_frame_transformer", "width": 100, "heads": 3}},
            r"width must be a multiple of heads",
        ),
        ({"objective": {"name": "masked_frames", "ones": 0.9, "noise": 0.3}}, r"ones \+ noise must be at most 1"),
        ({"name": "no spaces"}, r"name: .*should match pattern"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        recipe(**changes)
    assert "\n" not in str(caught.value)


COPIES = {"checkpoint": {"own_disk_every_s": 15}}


@pytest.mark.parametrize("sync", ["diloco", {"auto": ["diloco"]}])
def test_copies_on_own_disks_are_refused_where_no_disk_has_all_of_a_checkpoint(sync: Any, tmp_path: Path) -> None:
    """A run that began so, when it was passed over without a word, is still read."""
    begun = recipe(data="/a", sync=sync, **COPIES)
    (tmp_path / "recipe.yaml").write_text(to_yaml(begun))
    assert RunFolder(tmp_path).recipe() == begun
    says = r"checkpoint\.own_disk_every_s has no effect with sync diloco.*leave the key out"
    with pytest.raises(ConfigError, match=says):
        require_startable(begun)
    with pytest.raises(ConfigError, match=says):
        read_recipe(str(tmp_path / "recipe.yaml"))


@pytest.mark.parametrize("sync", ["plain", "bf16", "auto", {"auto": ["plain", "diloco"]}])
def test_copies_on_own_disks_go_with_every_other_sync(sync: Any) -> None:
    require_startable(recipe(data="/a", sync=sync, **COPIES))
    require_startable(recipe(data="/a", sync="diloco"))


@pytest.mark.parametrize("name", ["dense_frame_transformer", "frame_unet"])
def test_a_causal_model_is_not_asked_for_what_later_frames_tell(name: str) -> None:
    causal = {"name": name, "causal": True}
    with pytest.raises(ConfigError, match=r"model\.causal hears no later frame, and objective masked_frames hides"):
        require_startable(recipe(data="/a", model=causal, objective={"name": "masked_frames"}))
    require_startable(recipe(data="/a", model=causal, objective={"name": "separate"}))
    require_startable(recipe(data="/a", model={"name": name}, objective={"name": "masked_frames"}))


def test_amplitudes_want_a_scale() -> None:
    separate, unet = {"name": "separate", "mask": "amplitude"}, {"name": "unet"}
    says = r"objective\.mask amplitude trains to silence at model\.answer_scale 1, .* 4 / n_fft"
    for start in ({}, {"init": "/b"}):
        with pytest.raises(ConfigError, match=says):
            require_startable(recipe(data="/a", model=unet, objective=separate, **start))
    require_startable(recipe(data="/a", model={**unet, "answer_scale": 0.002}, objective=separate))
    require_startable(recipe(data="/a", model=unet))


def test_shipped_recipes_of_amplitudes_have_the_scale_of_their_spectrograms() -> None:
    """Within rounding: 4 / n_fft, of a data set's usual STFT where a model has none of its own."""
    shipped = [found for found in map(read_recipe, shipped_recipes()) if found.objective.head.kind == "amplitude"]
    assert len(shipped) >= 3
    for found in shipped:
        stft = found.model.front.stft or StftSpec()
        assert found.model.answer_scale == pytest.approx(4 / stft.n_fft, rel=0.05), found.name


def test_what_a_run_needs_before_it_starts() -> None:
    with pytest.raises(ConfigError, match=r"no data set; add data=FOLDER"):
        require_startable(recipe())
    with pytest.raises(ConfigError, match=r"add init=RUN_OR_CHECKPOINT"):
        require_startable(recipe(data="/a", needs_init=True))
    require_startable(recipe(data="/a", needs_init=True, init="/b"))


def test_powersgd_is_read_in_old_recipes_and_refused_where_a_run_would_take_it() -> None:
    """An unused section changes nothing, nor the digest that it had part in."""
    assert recipe(powersgd={"rank": 9, "start_step": 50}) == recipe()
    assert recipe().digest() == "4843f7db"
    with pytest.raises(
        ConfigError, match="recipe demo: sync: powersgd is no longer supported.*sync=diloco in a new run"
    ):
        require_startable(recipe(data="/a", sync="powersgd"))
    assert recipe(sync={"auto": ["bf16", "powersgd"]}).sync_choices == ("bf16",)


def test_crops_longer_than_a_model_can_hear_are_refused() -> None:
    raw = {"name": "a", "steps": 9, "model": {"name": "seed_frame_transformer", "crop_frames": 64}}
    with pytest.raises(ConfigError, match="batch.crop_frames 256: seed_frame_transformer hears at most .* 64"):
        validate(Recipe, raw, "x")
    validate(Recipe, raw | {"batch": {"crop_frames": 64}}, "x")


def test_the_command_line_says_the_same_as_the_file() -> None:
    given = parse_overrides(["optim.lr=1e-3", "name=no", "batch.items=4"])
    assert given == {"optim.lr": 1e-3, "name": "no", "batch.items": 4}
    assert parse_yaml("optim: {lr: 1e-3}", "x") == {"optim": {"lr": 1e-3}}


@pytest.mark.parametrize(
    ("model", "objective", "stored", "refused"),
    [
        ("bs_roformer", "masked_frames", {}, True),
        ("bs_roformer", "masked_frames", {"mixture_codec": "polar8"}, False),
        ("bs_roformer", "masked_frames", {"mixture_codec": "complex16"}, False),
        ("bs_roformer", "separate", {}, False),
        ("plain_stack", "masked_frames", {}, False),
    ],
)
def test_what_needs_phase_is_not_trained_on_mixtures_without(model, objective, stored, refused):
    raw = {"name": "a", "steps": 1, "data": "/d", "model": {"name": model}, "objective": {"name": objective}}
    recipe = validate(Recipe, raw, "x")
    manifest = Manifest(stft=StftSpec(), codec="polar8", **stored, shards={}, songs=())
    if not refused:
        require_hearable(recipe, manifest)
        return
    with pytest.raises(ConfigError, match="data: /d: stores the mixture without phase") as caught:
        require_hearable(recipe, manifest)
    assert "`vr data prepare SRC --out NEW --mixture-codec polar8`" in str(caught.value)


@pytest.mark.parametrize(
    ("stft", "crop", "words"),
    [({"sample_rate_hz": 48_000}, 128, "the data set has 44100"), ({}, 2, "give at least 3"), ({}, 3, None)],
)
def test_what_a_model_with_its_own_stft_cannot_hear_is_said(stft, crop, words):
    model = {"name": "bs_roformer", "stft": stft}
    raw = {"name": "a", "steps": 1, "model": model, "objective": {"name": "separate"}, "batch": {"crop_frames": crop}}
    recipe, stored = validate(Recipe, raw, "x"), Manifest(stft=StftSpec(), codec="polar8", shards={}, songs=())
    if words is None:
        require_hearable(recipe, stored)
    else:
        with pytest.raises(ConfigError, match=words):
            require_hearable(recipe, stored)
