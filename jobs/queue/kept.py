"""What the head keeps of a run that it submits: its code and its recipe, in the state folder, its owner's alone.

The run's folder lies on storage that others may write to. What is executed on the cluster, and with which settings,
never comes from there: a changed `source/` or `recipe.yaml` in it changes nothing. The copies in the run's folder are
for people.

    STATE/runs/<run>-<8 hex of its folder's path>/
        recipe.yaml     as it was submitted
        code            name of the folder beside it that holds the code; written last
        source-<hex>/   a copy that is never changed
"""

import contextlib
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from cluster.node.head import state_folder
from jobs.errors import NothingKept
from jobs.recipe import Recipe
from jobs.runs.folder import RunFolder
from jobs.runs.provenance import copy_source
from vr_core.config import digest, load, to_yaml
from vr_core.errors import ConfigError, command
from vr_core.files import whole_file
from vr_core.small_files import DamagedFile, read_text

_SOURCE = re.compile(r"source-[0-9a-f]{8}")


@dataclass(frozen=True)
class Kept:
    """Of one run, on the head's own disk."""

    source: Path
    recipe_file: Path
    recipe: Recipe
    """As it was submitted."""


@contextlib.contextmanager
def changing(run: RunFolder) -> Iterator[None]:
    """From the copy of its code to its row in the table a run is taken up by one process, and not tidied by another."""
    folder = _folder(run)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock", timeout=60):
        yield


def keep(run: RunFolder, recipe: Recipe) -> None:
    """Keep the code of this process and `recipe` as what `run` is from now on; an earlier copy is let go."""
    keep_recipe(run, recipe)
    folder = _folder(run)
    made = folder / f"source-{uuid.uuid4().hex[:8]}"
    copy_source(made)
    with whole_file(folder / "code") as draft:
        draft.write_text(made.name + "\n", encoding="utf-8")
    _forget_all_but(folder, made.name)


def keep_recipe(run: RunFolder, recipe: Recipe) -> None:
    """As `keep`, without the code: for what is carried from this process and goes on from here."""
    folder = _folder(run)
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / "recipe.yaml") as draft:
        draft.write_text(to_yaml(recipe), encoding="utf-8")


def kept_recipe(run: RunFolder) -> Recipe | None:
    """The recipe that is kept of `run`; None where none is, or it is damaged."""
    try:
        return load(Recipe, _folder(run) / "recipe.yaml")
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
    folder, recipe = _folder(run), kept_recipe(run)
    source = folder / _code(folder)
    if recipe is None or not source.is_dir() or source == folder:
        raise NothingKept(
            f"run {run.id}: this PC keeps no code of it, and code from the run's folder is not executed, since others "
            f"may write there; go on with: {command('jobs resume', run.typed)}"
        )
    return Kept(source, folder / "recipe.yaml", recipe)


def forget_code(run: RunFolder) -> None:
    """Of a run that has ended the recipe is enough: who goes on with it takes the code of then."""
    folder = _folder(run)
    if folder.is_dir():
        (folder / "code").unlink(missing_ok=True)
        _forget_all_but(folder, "")


def _code(folder: Path) -> str:
    with contextlib.suppress(OSError, DamagedFile):
        name = read_text(folder / "code").strip()
        if _SOURCE.fullmatch(name):
            return name
    return ""


def _forget_all_but(folder: Path, staying: str) -> None:
    for path in folder.glob("source-*"):
        if path.name != staying:
            shutil.rmtree(path, ignore_errors=True)


def _folder(run: RunFolder) -> Path:
    # By the run's place as well: two of one name may lie in two folders.
    name = re.sub(r"[^\w.-]", "_", run.id)[:80]
    return state_folder() / "runs" / f"{name}-{digest(str(run.path.resolve()))}"
