"""Checkpoints of a run: written whole or not at all, verified when read, the newest good one is where a run goes on.

checkpoints/step-00000200/weights.safetensors   what one uses: the moving average where it is on
                          training.pt           everything else; loaded with weights_only=True
                          checkpoint.json       step, position, hashes
checkpoints/last, checkpoints/best              text files naming a step folder
"""

import hashlib
import os
import pickle
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from jobs.errors import NotACheckpoint
from jobs.runs import RunFolder, read_json
from vr_core.config import Spec, plain, validate
from vr_core.errors import ConfigError, StorageError, UserError, VrError
from vr_core.files import storage_failure, whole_file, write_json
from vr_core.weights import WeightsMeta, load_weights, save_weights


class CheckpointRow(Spec):
    """`checkpoint.json`."""

    format: Annotated[int, Field(ge=1, le=1)] = 1
    step: Annotated[int, Field(ge=1)]
    position: Annotated[int, Field(ge=0)]
    """Items of the endless order that the run has consumed."""
    validation_loss: float | None = None
    sha256: dict[str, str]
    """Of the files beside this one."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read: what the loop needs to go on as if nothing had happened."""

    row: CheckpointRow
    weights: dict[str, Tensor]
    training: dict[str, Any]


def write_checkpoint(
    run: RunFolder,
    weights: dict[str, Tensor],
    training: dict[str, Any],
    meta: WeightsMeta,
    position: int,
    validation_loss: float | None,
    best: bool,
    keep: int,
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

    Raises:
        StorageError: it could not be written; earlier checkpoints are untouched.
    """
    folder = run.checkpoints / f"step-{meta.step:08d}"
    draft = run.checkpoints / f".{folder.name}.{os.getpid()}"
    try:
        for left in run.checkpoints.glob(".step-*"):  # of a process that was killed while it wrote
            shutil.rmtree(left, ignore_errors=True)
        draft.mkdir(parents=True)
        save_weights(draft / "weights.safetensors", weights, meta)
        with (draft / "training.pt").open("wb") as file:
            torch.save(training, file)
            file.flush()
            os.fsync(file.fileno())
        row = CheckpointRow(
            step=meta.step,
            position=position,
            validation_loss=validation_loss,
            sha256={name: _sha256(draft / name) for name in ("weights.safetensors", "training.pt")},
        )
        write_json(draft / "checkpoint.json", plain(row))
        if folder.exists():  # the same step again, after a resume from an earlier one
            shutil.rmtree(folder)
        draft.rename(folder)
        write_pointer(run.checkpoints / "last", folder.name)
        if best:
            write_pointer(run.checkpoints / "best", folder.name)
    except (OSError, RuntimeError) as error:  # torch.save turns a full disk into a RuntimeError
        shutil.rmtree(draft, ignore_errors=True)
        reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
        raise StorageError(
            f"checkpoint {folder}: cannot be written ({reason}); free some space, then `vr jobs resume {run.id}`"
        ) from error
    # Later folders are damaged ones that a resume passed over: they must not count as the newest.
    names = [p.name for p in step_folders(run) if p.name <= folder.name]
    for old in superseded(names, _named(run.checkpoints / "best"), keep):
        shutil.rmtree(run.checkpoints / old, ignore_errors=True)
    return folder


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


def read_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in a step folder.

    Raises:
        NotACheckpoint, ConfigError, WeightsError: a file is missing, damaged or not ours.
        StorageError: the disk or the share failed.
    """
    row = verify_checkpoint(folder, ("weights.safetensors", "training.pt"))
    weights, _ = load_weights(folder / "weights.safetensors")
    try:
        training = torch.load(folder / "training.pt", map_location="cpu", weights_only=True)
    except OSError as error:
        raise _unreadable(folder, error) from None
    except (pickle.UnpicklingError, RuntimeError) as error:  # code in it, or no archive of torch's
        reason = str(error).splitlines()[0]
        raise NotACheckpoint(f"{folder / 'training.pt'}: not ours ({reason}); use an earlier checkpoint") from None
    return Checkpoint(row, weights, training)


def verify_checkpoint(folder: Path, names: Collection[str]) -> CheckpointRow:
    """The row of a step folder, whose files `names` are as they were written.

    Raises:
        NotACheckpoint, ConfigError: a file is missing or differs from its hash.
        StorageError: the disk or the share failed.
    """
    try:
        row = validate(CheckpointRow, read_json(folder / "checkpoint.json"), str(folder / "checkpoint.json"))
        for name in names:
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
    if _named(run.checkpoints / "last") != name:
        write_pointer(run.checkpoints / "last", name)
    best = _named(run.checkpoints / "best")
    if best is None or best == name:
        return []
    rows: dict[str, CheckpointRow] = {}
    for folder in [run.checkpoints / best, *step_folders(run)]:
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
        return [f"best checkpoint {best} is damaged; the next validation decides anew"]
    chosen = min(losses, key=losses.__getitem__)
    write_pointer(run.checkpoints / "best", chosen)
    return [f"best checkpoint {best} is damaged; {chosen} is the best of the others"]


def step_folders(run: RunFolder) -> list[Path]:
    """Complete or damaged step folders of a run; drafts are not among them."""
    return sorted(run.checkpoints.glob("step-*")) if run.checkpoints.is_dir() else []


def write_pointer(path: Path, name: str) -> None:
    """A text file in one piece: links do not survive every home NAS."""
    with whole_file(path) as draft:
        draft.write_text(name + "\n", encoding="utf-8")


def best_loss(run: RunFolder) -> float:
    """Validation loss of the best checkpoint; infinity without one."""
    name = _named(run.checkpoints / "best")
    if name is None:
        return float("inf")
    try:
        row = validate(CheckpointRow, read_json(run.checkpoints / name / "checkpoint.json"), name)
    except (OSError, ValueError, ConfigError):
        return float("inf")
    return float("inf") if row.validation_loss is None else row.validation_loss


def _named(pointer: Path) -> str | None:
    return pointer.read_text(encoding="utf-8").strip() if pointer.is_file() else None


def _unreadable(folder: Path, error: Exception) -> VrError:
    """What to raise where reading a step folder ended in `error`."""
    failed = storage_failure(folder, error) if isinstance(error, OSError) else None
    return failed or NotACheckpoint(f"{folder}: incomplete checkpoint ({error}); use an earlier one")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
