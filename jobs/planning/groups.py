"""What of a recipe's model is trained, at which rate and from when on: counted without memory, told before a run.

Counting takes torch. A command that goes on to carry a run for hours must not hold its 500 MB meanwhile, so it has the
rows from a process of its own: `python -m jobs.planning.groups` reads a recipe as JSON and prints them.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from dataprep.shards.manifest import read_manifest
from jobs.recipe import Recipe
from vr_core.config import plain, validate
from vr_core.errors import ConfigError, Failure, UserError
from vr_core.small_files import expanded
from vr_core.specs.optim import GroupRow
from vr_core.specs.stft import StftSpec

if TYPE_CHECKING:
    from vr_core.weights import WeightsMeta

MOST_NAMED = 3
"""Layers of a row that are named; of more the first and the last."""


def groups_of(recipe: Recipe, init: "WeightsMeta | None" = None) -> list[GroupRow]:
    """The rows of a recipe, from the input to the output.

    With LoRA and `init`, a description of the weights that it begins with, what starts fresh is looked for as well.

    The number of bins is the data set's, or the usual one where there is none to be read.

    Raises:
        ConfigError: a pattern names nothing, nothing is trained, or the model cannot be built.
        ModelError: the model cannot be trained.
    """
    import torch

    from jobs.steps.initial_weights import starts_fresh
    from vr_core.lora import adapt
    from vr_core.models.registry import build
    from vr_core.optim import group_rows

    with torch.device("meta"):
        try:
            model = build(recipe.model, recipe.model.front.bins_on(_stft_of(recipe)), recipe.objective.head)
        except (RuntimeError, TypeError, ValueError, OverflowError) as error:
            raise ConfigError(f"model {recipe.model.name}: cannot be built: {error}") from None
        if recipe.lora is not None:
            theirs = None
            if init is not None and recipe.init_part == "body":
                theirs = build(init.model, init.model.front.bins_on(init.stft), init.head)
            adapt(model, recipe.lora, starts_fresh(model, theirs, recipe.init_reset))
    return group_rows(model, recipe.optim)


def groups_apart(recipe: Recipe) -> list[GroupRow]:
    """As `groups_of`, by a process of its own.

    Raises:
        UserError: as `groups_of`, in its words.
        Failure: the process ended without an answer.
    """
    # -P: nothing is imported from the folder in which the command was called.
    words = [sys.executable, "-P", "-m", "jobs.planning.groups"]
    done = subprocess.run(words, input=json.dumps(plain(recipe)), capture_output=True, text=True, check=False)
    try:
        told = json.loads(done.stdout)
        if "error" not in told:
            return [GroupRow(**{**row, "layers": tuple(row["layers"])}) for row in told["rows"]]
    except (ValueError, KeyError, TypeError):
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise Failure(f"the model's parameters could not be counted (exit code {done.returncode}): {last}") from None
    raise UserError(told["error"])


def lines_of(rows: Sequence[GroupRow]) -> list[str]:
    """The table, a heading and a line each."""
    cells = [("layers", "parameters", "peak rate", "trained")]
    cells += [(_named(row.layers), f"{row.parameters:,}", f"{row.lr:.3g}", _when(row)) for row in rows]
    width, numbers, rates = (max(len(line[column]) for line in cells) for column in range(3))
    return [f"{a:<{width}}  {b:>{numbers}}  {c:>{rates}}  {d}" for a, b, c, d in cells]


def _named(layers: Sequence[str]) -> str:
    if len(layers) <= MOST_NAMED:
        return ", ".join(layers)
    return f"{layers[0]} to {layers[-1]} ({len(layers)} layers)"


def _when(row: GroupRow) -> str:
    if row.trained_from_step is None:
        return "no, frozen"
    return f"after step {row.trained_from_step}" if row.trained_from_step else "yes"


def _stft_of(recipe: Recipe) -> StftSpec:
    try:
        return read_manifest(expanded(recipe.data)).stft if recipe.data is not None else StftSpec()
    except (UserError, Failure, OSError, ValueError):
        return StftSpec()


def main() -> None:
    """Answer for the recipe on stdin."""
    from jobs.training.base import require_plain
    from vr_core.weights import read_meta

    recipe = validate(Recipe, json.load(sys.stdin), "recipe")
    try:
        require_plain(recipe)
        init = read_meta(recipe.init) if recipe.lora is not None and recipe.init is not None else None
        print(json.dumps({"rows": [asdict(row) for row in groups_of(recipe, init)]}))
    except UserError as error:
        print(json.dumps({"error": str(error)}))


if __name__ == "__main__":
    main()
