"""Curricula and staged unfreezing: what a run trains on, and what of it, at which step."""

from typing import Any

import pytest

from jobs.recipe import Recipe
from jobs.steps.phases import phase_at, phases_of
from vr_core.config import validate
from vr_core.errors import ConfigError


def recipe(**changes: Any) -> Recipe:
    return validate(Recipe, {"name": "demo", "steps": 100, **changes}, "demo.yaml")


def test_a_recipe_without_either_has_one_phase_which_is_itself() -> None:
    [phase] = phases_of(recipe())
    assert (phase.first_step, phase.recipe) == (0, recipe())


def test_the_body_may_stay_for_the_first_steps_or_for_all() -> None:
    heads_first = phases_of(recipe(optim={"freeze": ["input.*"], "unfreeze": {"body": 40}}))
    assert [(p.first_step, p.recipe.optim.freeze) for p in heads_first] == [
        (0, ("input.*", "body")),
        (40, ("input.*",)),
    ]
    for_all = phases_of(recipe(optim={"freeze": "body", "unfreeze": {"output.*": 9}}))
    assert [p.recipe.optim.freeze for p in for_all] == [("body", "output.*"), ("body",)]


def test_phases_change_the_crop_and_what_is_frozen_at_their_steps() -> None:
    found = phases_of(
        recipe(
            batch={"crop_frames": 256},
            curriculum=[{"until_step": 10, "crop_frames": 64}, {"until_step": 40, "crop_frames": 128}],
            optim={"freeze": ["input.*"], "unfreeze": {"blocks.0.*": 40, "blocks.1.*": 20, "blocks.2.*": 99}},
        )
    )
    told = [(p.first_step, p.recipe.batch.crop_frames, p.recipe.optim.freeze) for p in found]
    assert told == [
        (0, 64, ("input.*", "blocks.0.*", "blocks.1.*", "blocks.2.*")),
        (10, 128, ("input.*", "blocks.0.*", "blocks.1.*", "blocks.2.*")),
        (20, 128, ("input.*", "blocks.0.*", "blocks.2.*")),
        (40, 256, ("input.*", "blocks.2.*")),
        (99, 256, ("input.*",)),
    ]
    assert all(not p.recipe.curriculum and not p.recipe.optim.unfreeze for p in found)
    assert [phase_at(found, step).first_step for step in (0, 9, 10, 39, 40, 99)] == [0, 0, 10, 20, 40, 99]


def test_what_would_never_be_trained_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"optim.unfreeze: 'blocks.\*' would never be trained in 100 steps; use freeze"
    ):
        recipe(optim={"unfreeze": {"blocks.*": 100}})


@pytest.mark.parametrize("ends", [[20, 10], [10, 10], [100]])
def test_a_curriculum_that_does_not_rise_or_never_ends_is_refused(ends: list[int]) -> None:
    with pytest.raises(ConfigError, match="until_step must rise from row to row and end before step 100"):
        recipe(curriculum=[{"until_step": end, "crop_frames": 8} for end in ends])


def test_both_are_part_of_what_a_run_is_and_absent_they_change_no_digest() -> None:
    base = recipe().digest()
    assert recipe(curriculum=[], optim={"unfreeze": {}}).digest() == base
    assert recipe(curriculum=[{"until_step": 5, "crop_frames": 8}]).digest() != base
    assert recipe(optim={"unfreeze": {"blocks.*": 5}}).digest() != base
