"""The space of a search: the points that a recipe's `tune:` names, drawn and validated. Pure."""

import itertools
import math
import random
from collections.abc import Mapping
from typing import Literal

from jobs.recipe import Recipe, TuneSpec
from jobs.recipes.checks import require_effect
from vr_core.config import Spec, override, plain, validate
from vr_core.errors import ConfigError

Value = float | int | str | bool
Kind = Literal["uniform", "loguniform"]
Choices = tuple[Value, ...] | dict[Kind, tuple[float, float]]

_NOT_SEARCHED = ("batch.items", "data", "log", "name", "out", "steps", "tune", "validation", "workers")
"""What trials must share: their scores and steps could not be compared, or their folders found, otherwise."""


class TrialPlan(Spec):
    """One trial before it runs."""

    id: str
    values: dict[str, Value]
    recipe: Recipe


def shown_values(values: Mapping[str, Value]) -> str:
    """`optim.lr=0.001 model.blocks=2`."""
    return " ".join(f"{key}={value}" for key, value in values.items())


def sample(space: Mapping[str, Choices], trials: int, seed: int) -> list[dict[str, Value]]:
    """At most `trials` different points of `space`; the same ones for the same seed.

    Where every key has a list of choices, points are drawn from their product without repeats. Otherwise each key's
    range is cut into as many equal parts as there are trials and every part is used once (Latin hypercube sampling,
    McKay, Beckman and Conover 1979); choices are used equally often. Numbers drawn from a range have three significant
    digits.
    """
    draw = random.Random(seed)
    lists = {key: choices for key, choices in space.items() if isinstance(choices, tuple)}
    if len(lists) == len(space):
        size = math.prod(len(choices) for choices in lists.values())
        numbers = draw.sample(range(size), min(trials, size))
        return [_point_of_product(lists, number) for number in numbers]
    columns: dict[str, list[Value]] = {}
    for key, choices in space.items():
        parts = draw.sample(range(trials), trials)
        columns[key] = [
            choices[part % len(choices)]
            if isinstance(choices, tuple)
            else _at(choices, (part + draw.random()) / trials)
            for part in parts
        ]
    points = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return [point for i, point in enumerate(points) if point not in points[:i]]


def _point_of_product(lists: Mapping[str, tuple[Value, ...]], number: int) -> dict[str, Value]:
    point = {}
    for key, choices in lists.items():
        number, index = divmod(number, len(choices))
        point[key] = choices[index]
    return point


def _at(range_: Mapping[Kind, tuple[float, float]], share: float) -> float:
    """The number that lies `share`, in [0, 1), of the way through a range."""
    [(kind, (low, high))] = range_.items()
    value = low * (high / low) ** share if kind == "loguniform" else low + (high - low) * share
    return min(max(float(f"{value:.3g}"), low), high)


def plan_trials(recipe: Recipe) -> list[TrialPlan]:
    """The trials of a recipe's search, each validated as the command line's overrides are.

    Raises:
        ConfigError: no search, a space that makes no sense, or a trial whose recipe is invalid; the key is named.
    """
    spec = _checked(recipe)
    base = {**plain(recipe), "tune": None}
    plans = []
    for number, values in enumerate(sample(spec.space, spec.trials, recipe.seed)):
        origin = f"recipe {recipe.name}: tune.space: {shown_values(values)}"
        trial = validate(Recipe, override(base, values), origin)
        require_effect(trial, origin)
        plans.append(TrialPlan(id=f"{number:04}", values=values, recipe=trial))
    return plans


def _checked(recipe: Recipe) -> TuneSpec:
    """The recipe's search.

    Raises:
        ConfigError: there is none, or it makes no sense.
    """
    where, spec = f"recipe {recipe.name}: tune", recipe.tune
    if spec is None or not spec.space:
        raise ConfigError(f"{where}.space: missing; add for example tune.space='{{optim.lr: [3e-4, 1e-3, 3e-3]}}'")
    if recipe.workers.count != 1:
        raise ConfigError(f"{where}: each trial trains in one process; set workers.count=1")
    if spec.grace_steps > recipe.steps:
        raise ConfigError(f"{where}.grace_steps: {spec.grace_steps} is more than steps {recipe.steps}")
    if recipe.validation.every_steps >= recipe.steps > 1 and spec.grace_steps < recipe.steps:
        raise ConfigError(
            f"{where}: validation.every_steps {recipe.validation.every_steps} leaves no validation before step "
            f"{recipe.steps}, so that no bad trial could be stopped; set it to {spec.grace_steps} or so"
        )
    for key, choices in spec.space.items():
        fixed = next((f for f in _NOT_SEARCHED if key == f or key.startswith(f"{f}.")), None)
        problem = f"all trials share {fixed}" if fixed else _problem(choices)
        if problem is not None:
            raise ConfigError(f"{where}.space: {key}: {problem}")
    for outer, inner in itertools.permutations(spec.space, 2):
        if inner.startswith(f"{outer}."):
            raise ConfigError(f"{where}.space: {inner}: {outer} is searched as well; name one of them")
    return spec


def _problem(choices: Choices) -> str | None:
    """What is wrong with the choices of one key; None when nothing is."""
    if isinstance(choices, tuple):
        if not choices:
            return "the list of choices is empty"
        # 1 == 1.0 == True in Python, which would hide a choice of another type.
        return "a choice stands twice" if len({repr(choice) for choice in choices}) < len(choices) else None
    if len(choices) != 1:
        return "expected a list of choices, or one of {uniform: [low, high]} and {loguniform: [low, high]}"
    [(kind, (low, high))] = choices.items()
    if not low < high:
        return f"{kind} needs low < high, got [{low:g}, {high:g}]"
    return f"loguniform needs low > 0, got {low:g}" if kind == "loguniform" and low <= 0 else None
