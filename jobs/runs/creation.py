"""A run's identity and the making of its folder, which appears whole or not at all."""

import contextlib
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from jobs.errors import RunExists
from jobs.recipe import Recipe
from jobs.recipes.checks import require_hearable, require_startable
from jobs.runs.folder import RunFolder
from jobs.runs.lookup import list_runs, resolve_run, resolve_weights
from jobs.runs.provenance import read_origin
from jobs.runs.state import LIVE, RunState
from vr_core.config import plain, to_yaml, validate
from vr_core.errors import ConfigError, StorageError, command
from vr_core.files import write_json
from vr_core.small_files import expanded


def resolve_paths(recipe: Recipe) -> Recipe:
    """`recipe` with absolute `data`, `out` and `init`; `init` becomes the weights file itself.

    Raises:
        ConfigError: no data set, or no `init` where the recipe needs one.
        NotACheckpoint: `init` is not a checkpoint of ours.
        UnknownRun: `init` names nothing.
    """
    require_startable(recipe)
    out = expanded(recipe.out).absolute()
    changes: dict[str, Any] = {**plain(recipe), "out": out, "data": expanded(Path(str(recipe.data))).absolute()}
    if recipe.init is not None:
        init = expanded(recipe.init)
        changes["init"] = resolve_weights(init if init.exists() else resolve_run(str(init), out).path)
    if not changes["data"].is_dir():
        raise ConfigError(f"data: {changes['data']} is not a folder; make a data set with `vr data prepare`")
    return validate(Recipe, changes, f"recipe {recipe.name}")


def require_data_set(recipe: Recipe) -> None:
    """Check that `data` of the resolved `recipe` is a data set that it can train on, before anything is made for it.

    Raises:
        ManifestError: it is none, or damaged.
        ConfigError: none of its songs is of the split train, or they are stored so that the model does not hear them.
    """
    from dataprep.shards.manifest import read_manifest  # numpy with it: who only asks for states does without

    folder = Path(str(recipe.data))
    manifest = read_manifest(folder)
    if not any(song.split == "train" for song in manifest.songs):
        raise ConfigError(f"data: {folder} has no song in its split train; add some with `vr data add`")
    require_hearable(recipe, manifest)


def repeats(recipe: Recipe) -> list[RunFolder]:
    """Earlier runs of the same recipe over the same data from the same start, oldest first."""
    stem = f"{recipe.name}-{recipe.digest()}-"
    found = [run for run in list_runs(recipe.out, stem) if run.id.removeprefix(stem).isdecimal()]
    same = []
    for run in sorted(found, key=lambda run: int(run.id.removeprefix(stem))):
        earlier = run.recipe()
        if (earlier.data, earlier.init) == (recipe.data, recipe.init):
            same.append(run)
    return same


def refusal(earlier: Iterable[tuple[str, RunState]], again: bool) -> str | None:
    """Why a run may not start beside `earlier` runs (name or folder, state) of the same recipe; None when it may."""
    for run, state in reversed(list(earlier)):
        at = f"step {state.step} of {state.steps}"
        if state.state in LIVE:
            return (
                f"{run} is {state.state} with the same recipe ({at}); watch it with `{command('jobs watch', run)}`, "
                f"stop it with `{command('jobs stop', run)}`, or, if its machine died, `{command('jobs resume', run)}`"
            )
        if not again and state.state == "finished":
            return f"{run} finished the same recipe over the same data; add --again to repeat it"
        if not again:
            return (
                f"{run} has the same recipe and is {state.state} at {at}; go on with `{command('jobs resume', run)}`, "
                "or add --again to start from nothing"
            )
    return None


def create_run(
    recipe: Recipe,
    again: bool = False,
    confirm: Callable[[Recipe], None] | None = None,
    reserved: Collection[str] = (),
) -> RunFolder:
    """A new run folder for `recipe`, which appears whole or not at all.

    Args:
        recipe: As the user gave it.
        again: Make another run of a recipe that has been run.
        confirm: Called with the resolved recipe when nothing stands against the run; raises to give it up.
        reserved: Ids of runs in any folder: the ledger and Ray know a run by its id alone.

    Raises:
        RunExists: the same recipe over the same data is running, or has been run and `again` is not given.
        ConfigError, NotACheckpoint, UnknownRun: as `resolve_paths`.
        StorageError: `out` cannot be written.
    """
    recipe = resolve_paths(recipe)
    refuse_repeat(recipe, again)
    if confirm is not None:
        confirm(recipe)
    with writable(recipe.out):
        return _create_run(recipe, again, reserved)


@contextlib.contextmanager
def writable(out: Path) -> Iterator[None]:
    """Make the folder `out` of run folders; in the block something is written there.

    Raises:
        StorageError: that failed.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise StorageError(
            f"out {out}: cannot be written ({error.strerror or error}); give another out=FOLDER or free some space"
        ) from None


def require_writable(out: Path) -> None:
    """Check, by making and removing a folder, that runs can be made in `out`.

    Raises:
        StorageError: they cannot.
    """
    with writable(out), drafted_in(out):
        pass


def _create_run(recipe: Recipe, again: bool, reserved: Collection[str]) -> RunFolder:
    with drafted_in(recipe.out) as draft:
        (draft / "recipe.yaml").write_text(to_yaml(recipe), encoding="utf-8")
        write_json(draft / "origin.json", {**read_origin(), "born": uuid.uuid4().hex[:12]})
        state = RunState(state="pending", steps=recipe.steps, updated_s=time.time())
        write_json(draft / "state.json", plain(state))
        return RunFolder(place(draft, recipe, reserved, lambda: refuse_repeat(recipe, again)))


@contextlib.contextmanager
def drafted_in(out: Path) -> Iterator[Path]:
    """A new hidden folder in `out`; what the block has not put in its place is gone after it."""
    draft = out / f".new-{uuid.uuid4().hex[:12]}"
    try:
        draft.mkdir()
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def place(
    draft: Path, recipe: Recipe, reserved: Collection[str] = (), check: Callable[[], None] = lambda: None
) -> Path:
    """Rename `draft` to the next number of its recipe, and return where it is.

    `check` is called when a number was chosen, and may raise: of one that another process made before, it hears, and a
    later one has that number.
    """
    stem = f"{recipe.name}-{recipe.digest()}-"
    while True:
        taken = [
            int(name.removeprefix(stem))
            for name in (*reserved, *(p.name for p in recipe.out.iterdir()))
            if name.startswith(stem) and name.removeprefix(stem).isdecimal()
        ]
        path = recipe.out / f"{stem}{max(taken, default=0) + 1}"
        check()
        try:
            # A rename onto a folder that is not empty fails, so that two at once never share a number.
            draft.rename(path)
        except OSError:
            if not path.exists():
                raise
        else:
            return path


def refuse_repeat(recipe: Recipe, again: bool) -> None:
    """Check that nothing stands against a run of the resolved `recipe`.

    Raises:
        RunExists: an earlier run does.
    """
    reason = refusal([(run.typed, run.state()) for run in repeats(recipe)], again)
    if reason is not None:
        raise RunExists(reason)
