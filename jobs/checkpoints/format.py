"""Checkpoints of a run: written whole or not at all, verified when read, the newest good one is where a run goes on.

checkpoints/step-00000200/weights.safetensors   what one uses: the moving average where it is on
                          training.pt           everything else; loaded with weights_only=True
                          worker-1.pt ...       what the other workers have of their own, where `sync` gives them such
                          checkpoint.json       step, position, hashes
checkpoints/last, checkpoints/best              text files naming a step folder
"""

import contextlib
import errno
import hashlib
import os
import pickle
import shutil
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from jobs.errors import NotACheckpoint
from jobs.runs.folder import PointerName, RunFolder
from jobs.runs.starts import BEFORE, Start, read_start, require_newest
from vr_core.config import Spec, plain, validate
from vr_core.errors import ConfigError, StorageError, UserError, VrError, command
from vr_core.files import require_no_links, storage_failure, whole_file, write_json
from vr_core.small_files import open_regular, read_json, read_text
from vr_core.weights import WeightsMeta, load_weights, save_weights

PARTS_S = 900.0
"""For so long rank 0 waits for what the others write."""
_POLL_S = 0.1


PartName = Annotated[str, Field(pattern=r"^(weights\.safetensors|training\.pt|worker-[0-9]+\.pt)$")]
"""Of the files beside `checkpoint.json`."""


class CheckpointRow(Spec):
    """`checkpoint.json`."""

    format: Annotated[int, Field(ge=1, le=1)] = 1
    step: Annotated[int, Field(ge=1)]
    position: Annotated[int, Field(ge=0)]
    """Items of the endless order that the run has consumed."""
    validation_loss: float | None = None
    sha256: dict[PartName, str]
    """Of the files beside this one."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read: what the loop needs to go on as if nothing had happened."""

    row: CheckpointRow
    weights: dict[str, Tensor]
    training: dict[str, Any]
    folder: Path


def write_checkpoint(
    run: RunFolder,
    weights: dict[str, Tensor],
    training: dict[str, Any],
    meta: WeightsMeta,
    position: int,
    validation_loss: float | None,
    best: bool,
    keep: int,
    start: Start = BEFORE,
    parts: int = 0,
) -> Path:
    """Write one checkpoint, point `last` (and `best`) at it and remove what retention lets go.

    Args:
        run: its folder.
        weights: what one uses.
        training: tensors, numbers and text only, so that it loads without unpickling code.
        meta: description of the weights; its `step` names the folder.
        position: items consumed.
        validation_loss: of these weights, where it is known.
        best: point `best` here too.
        keep: newest ones kept; the best stays besides.
        start: of the run's workers: what earlier ones have left is removed.
        parts: other workers of this start that write one (`write_part`).

    Raises:
        StorageError: it could not be written, or a part has not come; earlier checkpoints are untouched.
        NewerStart: one has begun, whose checkpoints and drafts are untouched.
    """
    folder = run.checkpoints / f"step-{meta.step:08d}"
    draft = _draft(run, meta.step, start)
    hashes: dict[str, str] = {}
    try:
        require_newest(run, start)
        for left in run.checkpoints.glob(".step-*"):  # of processes that were killed while they wrote
            whose = _start_of(left)
            if whose is None or whose < start:
                shutil.rmtree(left, ignore_errors=True)
        _make(draft, run)
        save_weights(draft / "weights.safetensors", weights, meta)
        _save(draft / "training.pt", training)
        for rank in range(1, parts + 1):
            hashes[f"worker-{rank}.pt"] = _await_part(draft, rank)
        row = CheckpointRow(
            step=meta.step,
            position=position,
            validation_loss=validation_loss,
            sha256=hashes | {name: _sha256(draft / name) for name in ("weights.safetensors", "training.pt")},
        )
        write_json(draft / "checkpoint.json", plain(row), seal=True)
        require_newest(run, start)  # from here on it is about what all starts share
        if folder.exists():  # the same step again, after a resume from an earlier one
            shutil.rmtree(folder)
        draft.rename(folder)
        write_pointer(run.checkpoints / "last", folder.name)
        if best:
            write_pointer(run.checkpoints / "best", folder.name)
    except (OSError, RuntimeError, StorageError) as error:  # torch.save turns a full disk into a RuntimeError
        for name in ("weights.safetensors", "training.pt"):
            with contextlib.suppress(OSError):
                (draft / name).unlink(missing_ok=True)
        if not parts:  # those would not be written again
            shutil.rmtree(draft, ignore_errors=True)
        cause = error.__cause__ if isinstance(error, StorageError) else error
        reason = cause.strerror if isinstance(cause, OSError) else str(error).splitlines()[0]
        raise StorageError(
            f"checkpoint {folder}: cannot be written ({reason}); free some space, then "
            f"`{command('jobs resume', run.typed)}`"
        ) from error
    named = _named(run, "best")
    if (run.checkpoints / "best").exists() and (named is None or not (run.checkpoints / named).is_dir()):
        return folder  # any of them may be the best one: the next start, or validation, decides
    # Later folders are damaged ones that a resume passed over: they must not count as the newest.
    names = [p.name for p in step_folders(run) if p.name <= folder.name]
    for old in superseded(names, named, keep):
        shutil.rmtree(run.checkpoints / old, ignore_errors=True)
    return folder


def write_part(run: RunFolder, step: int, start: Start, rank: int, own: dict[str, Any]) -> None:
    """Write what a worker has of its own beside the checkpoint that rank 0 is about to write.

    Raises:
        StorageError: it could not be written.
    """
    draft = _draft(run, step, start)
    try:
        _make(draft, run)
        _save(draft / f"worker-{rank}.pt", own)
        with whole_file(draft / f"worker-{rank}.sha256") as hash_file:
            hash_file.write_text(_sha256(draft / f"worker-{rank}.pt"), encoding="utf-8")
    except (OSError, RuntimeError) as error:
        raise StorageError(
            f"checkpoint of step {step}: a worker's part cannot be written ({error}); free some space, "
            f"then `{command('jobs resume', run.typed)}`"
        ) from error


def read_part(folder: Path, rank: int) -> dict[str, Any]:
    """What the worker of that rank had of its own; a step folder that `read_checkpoint` has found whole.

    Raises:
        NotACheckpoint: it is damaged, or there is none.
        StorageError: the disk or the share failed.
    """
    verify_checkpoint(folder, (f"worker-{rank}.pt",))
    return _load(folder / f"worker-{rank}.pt")


def superseded(names: list[str], best: str | None, keep: int) -> list[str]:
    """Step folders that retention lets go: all but the `keep` newest and the best."""
    return [name for name in sorted(names)[:-keep] if name != best]


def read_newest(run: RunFolder) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole, and a line for each newer one that is not.

    A missing, cut short or altered file makes a checkpoint unusable; the one before it is taken then.

    Raises:
        StorageError: the disk or the share failed: what it holds may be whole, so nothing older is taken for it.
    """
    problems: list[str] = []
    for folder in sorted(step_folders(run), reverse=True):
        try:
            return read_checkpoint(folder), problems
        except UserError as error:
            problems.append(f"checkpoint {folder.name} passed over: {error}")
    return None, problems


def read_checkpoint(folder: Path, verified: Collection[str] | None = None) -> Checkpoint:
    """The checkpoint in a step folder, of which the files `verified` (or all) are as they were written.

    Raises:
        NotACheckpoint, ConfigError, WeightsError: a file is missing, damaged or not ours.
        StorageError: the disk or the share failed.
    """
    row = verify_checkpoint(folder, verified)
    weights, _ = load_weights(folder / "weights.safetensors")
    return Checkpoint(row, weights, _load(folder / "training.pt"), folder)


def verify_checkpoint(folder: Path, names: Collection[str] | None = None) -> CheckpointRow:
    """The row of a step folder, whose files (`names`, or all) are as they were written.

    Raises:
        NotACheckpoint, ConfigError: a file is missing or differs from its hash.
        StorageError: the disk or the share failed.
    """
    try:
        row = validate(CheckpointRow, read_json(folder / "checkpoint.json"), str(folder / "checkpoint.json"))
        for name in names if names is not None else {"weights.safetensors", "training.pt", *row.sha256}:
            if _sha256(folder / name) != row.sha256.get(name):
                raise NotACheckpoint(f"{folder / name}: damaged or cut short; use an earlier checkpoint")
    except (OSError, ValueError) as error:
        raise _unreadable(folder, error) from None
    return row


def mend_pointers(run: RunFolder, newest: Checkpoint) -> list[str]:
    """Point `last` at `newest`, and `best` at the whole checkpoint of least validation loss where it names none.

    Whoever takes the run's folder for its weights takes what `best` names, and a later validation has to beat it: a
    pointer to a damaged checkpoint would make the run useless until then.

    Returns:
        A line for what was changed about `best`.

    Raises:
        StorageError: the disk or the share failed.
    """
    name = f"step-{newest.row.step:08d}"
    if _named(run, "last") != name:
        write_pointer(run.checkpoints / "last", name)
    if not (run.checkpoints / "best").is_file():
        return []
    best = _named(run, "best")
    if best == name:
        return []
    what = f"best checkpoint {best} is damaged" if best else "the name of the best checkpoint is damaged"
    rows: dict[str, CheckpointRow] = {}
    for folder in [*([run.checkpoints / best] if best else []), *step_folders(run)]:
        try:
            # The weights alone are what one takes from it; the rest would be three times the bytes at every resume.
            rows[folder.name] = verify_checkpoint(folder, ("weights.safetensors",))
        except UserError:
            continue
        if folder.name == best:
            return []
    losses = {n: row.validation_loss for n, row in rows.items() if row.validation_loss is not None}
    if not losses:
        (run.checkpoints / "best").unlink()
        return [f"{what}; the next validation decides anew"]
    chosen = min(losses, key=losses.__getitem__)
    write_pointer(run.checkpoints / "best", chosen)
    return [f"{what}; {chosen} is the best of the others"]


def step_folders(run: RunFolder) -> list[Path]:
    """Complete or damaged step folders of a run; drafts are not among them."""
    return sorted(run.checkpoints.glob("step-*")) if run.checkpoints.is_dir() else []


def write_pointer(path: Path, name: str) -> None:
    """A text file in one piece: links do not survive every home NAS."""
    with whole_file(path, path.parents[2]) as draft:
        draft.write_text(name + "\n", encoding="utf-8")


def best_loss(run: RunFolder) -> float:
    """Validation loss of the best checkpoint; infinity without one."""
    name = _named(run, "best")
    if name is None:
        return float("inf")
    try:
        row = validate(CheckpointRow, read_json(run.checkpoints / name / "checkpoint.json"), name)
    except (OSError, ValueError, ConfigError):
        return float("inf")
    return float("inf") if row.validation_loss is None else row.validation_loss


def _named(run: RunFolder, pointer: PointerName) -> str | None:
    """Name of the folder that a pointer names; None where there is none, or it is damaged: a start mends it."""
    try:
        named = run.pointer(pointer)
    except NotACheckpoint:
        return None
    return named.name if named else None


def _draft(run: RunFolder, step: int, start: Start) -> Path:
    return run.checkpoints / f".step-{step:08d}.{start}"


def _start_of(draft: Path) -> Start | None:
    """Whose draft it is; None for one of an earlier version, which was older than every start."""
    _, _, name = draft.name.removeprefix(".").partition(".")
    return read_start(name)


def _make(draft: Path, run: RunFolder) -> None:
    """Make the draft's folder; never the run's own, which is there unless the share with it is away."""
    require_no_links(run.root, draft)
    run.checkpoints.mkdir(exist_ok=True)
    draft.mkdir(exist_ok=True)


def _save(file: Path, value: dict[str, Any]) -> None:
    # Made anew: somebody else may have laid a link in its place.
    file.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(file, flags, 0o666), "wb") as target:
        torch.save(value, target)
        target.flush()
        os.fsync(target.fileno())


def _load(file: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise _unreadable(file.parent, error) from None
    except (pickle.UnpicklingError, RuntimeError, ValueError, KeyError, EOFError) as error:  # code in it, or no archive
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise NotACheckpoint(f"{file}: not ours ({reason}); use an earlier checkpoint") from None
    return value


def _await_part(draft: Path, rank: int) -> str:
    """The hash of a worker's part, once it is there."""
    hash_file, until_s = draft / f"worker-{rank}.sha256", time.monotonic() + PARTS_S
    while not hash_file.exists():
        if time.monotonic() > until_s:
            raise OSError(errno.ETIMEDOUT, f"the part of worker {rank} has not come")
        time.sleep(_POLL_S)
    return read_text(hash_file)


def _unreadable(folder: Path, error: Exception) -> VrError:
    """What to raise where reading a step folder ended in `error`."""
    failed = storage_failure(folder, error) if isinstance(error, OSError) else None
    return failed or NotACheckpoint(f"{folder}: incomplete checkpoint ({error}); use an earlier one")


def _sha256(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
