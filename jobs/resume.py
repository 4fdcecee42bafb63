"""Where a run goes on from: weights of another run, or the newest good checkpoint, the same one on every rank."""

import fnmatch
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from dataprep.shards.dataset import Dataset
from jobs.checkpoint import Checkpoint, mend_pointers, read_checkpoint, read_newest
from jobs.errors import RunFailed
from jobs.note import note
from jobs.own_disk import copies_of, newest_of_all
from jobs.recipe import Recipe
from jobs.runs import RunFolder
from jobs.starts import Start, begin_start
from jobs.training.world import World
from vr_core.errors import ConfigError, StorageError, UserError
from vr_core.weights import load_state, load_weights


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
    told = [checkpoint.row.step if checkpoint else 0, run.checkpoints.is_dir()]
    chosen = world.of_first(torch.tensor(told, device=world.device))
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


def start_from(model: nn.Module, init: Path, reset: Sequence[str], data: Dataset) -> None:
    """Take the weights of the file `init`, except those that a pattern of `reset` names.

    Raises:
        WeightsError: they do not fit the model.
        ManifestError: they were trained on other spectrograms than the data set's.
        ConfigError: a pattern of `init_reset` names nothing.
    """
    state, meta = load_weights(init)
    data.check(meta.stft)
    fresh = model.state_dict()
    for pattern in reset:
        named = [name for name in fresh if fnmatch.fnmatchcase(name, pattern)]
        if not named:
            raise ConfigError(f"init_reset: {pattern!r} names no parameter of the model")
        state |= {name: fresh[name] for name in named}
    load_state(model, state, origin=str(init))
