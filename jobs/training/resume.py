"""Where a run goes on from: weights of another run, or the newest good checkpoint, the same one on every rank."""

import contextlib
import pickle
from pathlib import Path

import torch

from dataprep.shards.manifest import read_manifest
from jobs.checkpoints.format import Checkpoint, mend_pointers, read_checkpoint, read_newest, step_folders
from jobs.checkpoints.local_copies import KEPT, copies_of
from jobs.errors import RunFailed
from jobs.recipe import Recipe
from jobs.runs.folder import RunFolder
from jobs.runs.note import note
from jobs.runs.starts import Start, begin_start
from jobs.steps.world import World
from vr_core.errors import StorageError, UserError, VrError
from vr_core.small_files import open_regular


def begin(run: RunFolder, start: Start | None, world: World) -> Start:
    """The start of the run's workers that begins now, the same on every rank; earlier ones are out from then on.

    Raises:
        NewerStart, StorageError: as `begin_start`.
    """
    if world.rank == 0:
        start = begin_start(run, start)
    numbers = [start.attempt, start.number] if start else [0, 0]
    attempt, number = world.of_first(torch.tensor(numbers, device=world.device)).tolist()
    return Start(attempt, number)


def newest_checkpoint(run: RunFolder, recipe: Recipe, world: World) -> Checkpoint | None:
    """Where the run goes on; None at its start.

    Where PCs keep copies on their own disks, the newest that all have is taken if it is newer, but not for a run whose
    checkpoints somebody has removed to start from nothing. Else rank 0 chooses and the others take the same step: a
    rank whose view of the shared folder lags would otherwise go on from another step, and nothing would say so.

    Raises:
        RunFailed: there are checkpoints and none is usable; to start again over them is not ours to decide.
        StorageError: the disk or the share failed, or a rank does not see what rank 0 sees.
    """
    checkpoint, problems = read_newest(run) if world.rank == 0 else (None, [])
    for line in problems:
        note(line)
    if problems and checkpoint is None:
        raise RunFailed(
            f"run {run.id}: no usable checkpoint ({problems[0]}); delete {run.checkpoints} to start from nothing"
        )
    if world.rank == 0 and checkpoint is not None:
        for line in mend_pointers(run, checkpoint):
            note(line)
    reported = [checkpoint.row.step if checkpoint else 0, run.checkpoints.is_dir()]
    chosen = world.of_first(torch.tensor(reported, device=world.device))
    shared_step, begun = int(chosen[0]), bool(chosen[1])
    if recipe.checkpoint.own_disk_every_s is not None and begun:  # all ask, also who has none
        copy = newest_of_all(copies_of(run), shared_step, world)
        if copy is not None:
            return copy
    if world.rank and shared_step:
        folder = run.checkpoints / f"step-{shared_step:08d}"
        try:
            checkpoint = read_checkpoint(folder, ("weights.safetensors", "training.pt"))
        except UserError as error:  # rank 0 has found it whole: this is another view of the same folder
            raise StorageError(f"{folder} is not what rank 0 sees: {error}") from None
    return checkpoint


def require_data_kept(run: RunFolder, recipe: Recipe) -> None:
    """Check that the version of the data set with which the run began is still there, before anything is started.

    Raises:
        ManifestError: the data set was changed since, and that version is not kept.
    """
    try:
        last = run.pointer("last")
        if last is None:
            return
        open_regular(last / "training.pt").close()
        # Mapped: of a file of gigabytes only the entry that is asked for is read.
        saved = torch.load(last / "training.pt", weights_only=True, mmap=True)
    except (OSError, VrError, RuntimeError, ValueError, pickle.UnpicklingError):
        return  # the start takes the checkpoint before, or says what is wrong
    version = saved.get("data") if isinstance(saved, dict) else None
    if recipe.data is not None and isinstance(version, str):
        read_manifest(recipe.data, version)


def newest_of_all(copies: Path | None, shared_step: int, world: World) -> Checkpoint | None:
    """The newest copy that every worker has, if it is newer than `shared_step`; asks all of them.

    A damaged copy counts as none.
    """
    ranks = copies.glob("rank-*") if copies is not None else ()
    here = [folder for rank in ranks for folder in step_folders(RunFolder(rank))]
    # Read before anything is agreed on: what one cannot read all go without.
    read: dict[int, Checkpoint] = {}
    for folder in sorted(here, key=lambda folder: folder.name, reverse=True):
        step = int(folder.name.removeprefix("step-"))
        with contextlib.suppress(UserError, OSError):
            if step > shared_step and step not in read and len(read) < KEPT:
                read[step] = read_checkpoint(folder)
    reported = torch.tensor(([*sorted(read)] + [-1] * KEPT)[:KEPT], device=world.device)
    common = set.intersection(*map(set, world.gather(reported).tolist())) - {-1}
    return read[max(common)] if common else None
