"""A checkpoint is written whole or not at all: into a draft, which gets its name when all of it is there."""

import contextlib
import errno
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jobs.checkpoints.format import CheckpointRow, named_by, step_folders, write_pointer
from jobs.runs.folder import RunFolder
from jobs.runs.starts import BEFORE, Start, read_start, require_newest
from vr_core.config import plain
from vr_core.errors import StorageError, command
from vr_core.files import require_no_links, whole_file, write_json
from vr_core.small_files import read_text, sha256_of
from vr_core.weights import WeightsMeta, save_weights

PARTS_S = 900.0
"""For so long rank 0 waits for what the others write."""
_POLL_S = 0.1


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
            sha256=hashes | {name: sha256_of(draft / name) for name in ("weights.safetensors", "training.pt")},
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
    named = named_by(run, "best")
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
            hash_file.write_text(sha256_of(draft / f"worker-{rank}.pt"), encoding="utf-8")
    except (OSError, RuntimeError) as error:
        raise StorageError(
            f"checkpoint of step {step}: a worker's part cannot be written ({error}); free some space, "
            f"then `{command('jobs resume', run.typed)}`"
        ) from error


def superseded(names: list[str], best: str | None, keep: int) -> list[str]:
    """Step folders that retention lets go: all but the `keep` newest and the best."""
    return [name for name in sorted(names)[:-keep] if name != best]


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


def _await_part(draft: Path, rank: int) -> str:
    """The hash of a worker's part, once it is there."""
    hash_file, until_s = draft / f"worker-{rank}.sha256", time.monotonic() + PARTS_S
    while not hash_file.exists():
        if time.monotonic() > until_s:
            raise OSError(errno.ETIMEDOUT, f"the part of worker {rank} has not come")
        time.sleep(_POLL_S)
    return read_text(hash_file)
