"""What the head keeps of a run that it submits: its code and its recipe, in the state folder, its owner's alone.

The run's folder lies on storage that others may write to. What is executed on the cluster, and with which settings,
never comes from there: a changed `source/` or `recipe.yaml` in it changes nothing. The copies in the run's folder are
for people.
"""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cluster.node.head import state_folder
from jobs.errors import NothingKept
from jobs.recipe import Recipe
from jobs.runs.folder import RunFolder
from jobs.runs.provenance import copy_source
from vr_core.config import load, to_yaml
from vr_core.errors import ConfigError
from vr_core.files import whole_file

_RUN = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True)
class Kept:
    """Of one run, on the head's own disk."""

    source: Path
    recipe_file: Path
    recipe: Recipe
    """As it was submitted."""


def keep(run: RunFolder, recipe: Recipe) -> None:
    """Keep the code of this process and `recipe` as what `run` is from now on."""
    keep_recipe(run, recipe)
    copy_source(_folder(run.id) / "source")


def keep_recipe(run: RunFolder, recipe: Recipe) -> None:
    """As `keep`, without the code: for what is carried from this process and goes on from here."""
    folder = _folder(run.id)
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / "recipe.yaml") as draft:
        draft.write_text(to_yaml(recipe), encoding="utf-8")


def kept_recipe(run: RunFolder) -> Recipe | None:
    """The recipe that is kept of `run`; None where none is, or it is damaged."""
    try:
        return load(Recipe, _folder(run.id) / "recipe.yaml")
    except ConfigError:
        return None


def recipe_of(run: RunFolder, written: Callable[[], Recipe], show: Callable[[str], None]) -> Recipe:
    """The recipe that is kept of `run`; else what `written` finds in its folder, which `show` lets the user see."""
    recipe = kept_recipe(run)
    if recipe is None:
        recipe = written()
        show(f"{run.id}: no recipe of it is kept on this PC; what is in its folder says:")
        show("\n".join(f"  {line}" for line in to_yaml(recipe).splitlines()))
    return recipe


def require_kept(run: RunFolder) -> Kept:
    """What is kept of `run`.

    Raises:
        NothingKept: it was submitted by an earlier version, or from another PC, or the copy is damaged.
    """
    folder, recipe = _folder(run.id), kept_recipe(run)
    if recipe is None or not (folder / "source").is_dir():
        raise NothingKept(
            f"run {run.id}: this PC keeps no code of it, and code from the run's folder is not executed, since others "
            f"may write there; go on with: vr jobs resume {run.id}"
        )
    return Kept(folder / "source", folder / "recipe.yaml", recipe)


def forget_code(run: RunFolder) -> None:
    """Of a run that has ended the recipe is enough: who goes on with it takes the code of then."""
    shutil.rmtree(_folder(run.id) / "source", ignore_errors=True)


def _folder(run: str) -> Path:
    if not _RUN.fullmatch(run):
        raise NothingKept(f"{run!r}: no run's name; expected letters, digits, '-', '_', '.'")
    return state_folder() / "runs" / run
