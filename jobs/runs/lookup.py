"""Runs and weights by name or path."""

from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

from jobs.errors import NotACheckpoint, UnknownRun
from jobs.recipe import RUNS
from jobs.runs.folder import STEP_FOLDER, RunFolder
from vr_core.errors import command
from vr_core.small_files import expanded


def list_runs(out: Path, stem: str = "") -> Iterator[RunFolder]:
    """Runs in the folder `out` whose ids begin with `stem`, by name; folders that are not runs are passed over."""
    if out.is_dir():
        for path in sorted(path for path in out.iterdir() if path.name.startswith(stem)):
            if (path / "recipe.yaml").is_file() and (path / "state.json").is_file():
                yield RunFolder(path)


def resolve_run(name_or_path: str, out: Path) -> RunFolder:
    """The run of that folder, or of that name under `out`.

    Raises:
        UnknownRun: neither; near names are given.
    """
    for path in (expanded(Path(name_or_path)), expanded(out) / name_or_path):
        if (path / "recipe.yaml").is_file():
            return RunFolder(path)
    near = get_close_matches(name_or_path, [run.id for run in list_runs(expanded(out))], n=1)
    hint = f"did you mean {near[0]}?" if near else "`vr jobs list` shows the runs; --out names their folder"
    raise UnknownRun(f"{name_or_path}: no such run in {expanded(out).absolute()}; {hint}")


def resolve_weights(path: Path, out: Path = RUNS) -> Path:
    """The weights file of a run (its best checkpoint, else its last), a step folder or such a file itself.

    Args:
        path: of the run's folder, the step folder or the file; or the run's name under `out`.
        out: folder of run folders.

    Raises:
        NotACheckpoint: `path` is none of these, or what it names is incomplete.
    """
    path = given = expanded(path)
    if not path.exists() and (out / path / "recipe.yaml").is_file():
        path = out / path
    path = path.absolute()
    expected = "expected a run's name or folder, a checkpoint folder (step-…) or a weights.safetensors file"
    if path.is_file():
        if path.suffix != ".safetensors":
            raise NotACheckpoint(f"{path}: not a checkpoint of ours; {expected}")
        return path
    if not path.is_dir():
        named = "" if len(given.parts) > 1 else f", and no run in {out.absolute()} is called so"
        raise NotACheckpoint(f"{path}: does not exist{named}; {expected}")
    if (path / "recipe.yaml").is_file():
        run = RunFolder(path)
        step = run.pointer("best") or run.pointer("last")
        if step is None:
            raise NotACheckpoint(f"{path}: this run has no checkpoint yet; see `{command('jobs show', run.typed)}`")
        return _weights_of_step(step)
    if STEP_FOLDER.fullmatch(path.name):
        return _weights_of_step(path)
    raise NotACheckpoint(f"{path}: not a checkpoint of ours; {expected}")


def _weights_of_step(step: Path) -> Path:
    # checkpoint.json is written last, so that a folder without it was cut short.
    for name in ("checkpoint.json", "weights.safetensors"):
        if not (step / name).is_file():
            raise NotACheckpoint(f"{step}: incomplete checkpoint, {name} is missing; use another step of that run")
    return step / "weights.safetensors"
