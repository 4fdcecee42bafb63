"""Checkpoints of a run: verified when read, the newest good one is where a run goes on.

checkpoints/step-00000200/weights.safetensors   what one uses: the moving average where it is on
                          training.pt           everything else; loaded with weights_only=True
                          worker-1.pt ...       what the other workers have of their own, where `sync` gives them such
                          checkpoint.json       step, position, hashes
checkpoints/last, checkpoints/best              text files naming a step folder
"""

import pickle
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from jobs.errors import NotACheckpoint
from jobs.runs.folder import PointerName, RunFolder
from vr_core.config import Spec, validate
from vr_core.errors import ConfigError, UserError, VrError
from vr_core.files import storage_failure, whole_file
from vr_core.small_files import read_json, sha256_of
from vr_core.weights import load_weights

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


def read_part(folder: Path, rank: int) -> dict[str, Any]:
    """What the worker of that rank had of its own; a step folder that `read_checkpoint` has found whole.

    Raises:
        NotACheckpoint: it is damaged, or there is none.
        StorageError: the disk or the share failed.
    """
    verify_checkpoint(folder, (f"worker-{rank}.pt",))
    return _load(folder / f"worker-{rank}.pt")


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
            if sha256_of(folder / name) != row.sha256.get(name):
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
    if named_by(run, "last") != name:
        write_pointer(run.checkpoints / "last", name)
    if not (run.checkpoints / "best").is_file():
        return []
    best = named_by(run, "best")
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
    name = named_by(run, "best")
    if name is None:
        return float("inf")
    try:
        row = validate(CheckpointRow, read_json(run.checkpoints / name / "checkpoint.json"), name)
    except (OSError, ValueError, ConfigError):
        return float("inf")
    return float("inf") if row.validation_loss is None else row.validation_loss


def named_by(run: RunFolder, pointer: PointerName) -> str | None:
    """Name of the folder that a pointer names; None where there is none, or it is damaged: a start mends it."""
    try:
        named = run.pointer(pointer)
    except NotACheckpoint:
        return None
    return named.name if named else None


def _load(file: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise _unreadable(file.parent, error) from None
    except (pickle.UnpicklingError, RuntimeError, ValueError, KeyError, EOFError) as error:  # code in it, or no archive
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise NotACheckpoint(f"{file}: not ours ({reason}); use an earlier checkpoint") from None
    return value


def _unreadable(folder: Path, error: Exception) -> VrError:
    """What to raise where reading a step folder ended in `error`."""
    failed = storage_failure(folder, error) if isinstance(error, OSError) else None
    return failed or NotACheckpoint(f"{folder}: incomplete checkpoint ({error}); use an earlier one")
