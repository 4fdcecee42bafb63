"""Where a run goes on from: weights of another run, or the newest good checkpoint, the same one on every rank."""

import fnmatch
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dataprep.dataset import Dataset
from jobs.checkpoint import Checkpoint, mend_pointers, read_checkpoint, read_newest, read_part
from jobs.errors import RunFailed
from jobs.local_steps import LocalSteps
from jobs.own_disk import newest_of_all
from jobs.runs import RunFolder
from vr_core.errors import ConfigError, StorageError, UserError
from vr_core.optim import WeightAverage
from vr_core.weights import load_state, load_weights


def newest_checkpoint(
    run: RunFolder,
    rank: int,
    world: int,
    device: torch.device,
    note: Callable[[str], None],
    own_disks: bool,
    copies: Path | None,
) -> Checkpoint | None:
    """Where the run goes on; None at its start.

    With `own_disks` what all have there (`copies`; None: this one has nothing) is taken where it is newer; of a run
    whose checkpoints somebody has removed, to start from nothing, it is not. Else rank 0 chooses and the others take
    the same step: a rank whose view of the shared folder lags would otherwise go on from another step, and nothing
    would say so.

    Raises:
        RunFailed: there are checkpoints and none is usable; to start again over them is not ours to decide.
        StorageError: the disk or the share failed, or a rank does not see what rank 0 sees.
    """
    checkpoint, problems = read_newest(run) if rank == 0 else (None, [])
    for line in problems:
        note(line)
    if problems and checkpoint is None:
        raise RunFailed(
            f"run {run.id}: no usable checkpoint ({problems[0]}); delete {run.checkpoints} to start from nothing"
        )
    if rank == 0 and checkpoint is not None:
        for line in mend_pointers(run, checkpoint):
            note(line)
    chosen = torch.tensor([checkpoint.row.step if checkpoint else 0, run.checkpoints.is_dir()], device=device)
    if world > 1:
        dist.broadcast(chosen, src=0)
    shared_step, begun = int(chosen[0]), bool(chosen[1])
    if own_disks and begun:  # all ask, also who has none
        copy = newest_of_all(copies, shared_step, world, device)
        if copy is not None:
            return copy
    if rank and shared_step:
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


def restore(
    checkpoint: Checkpoint,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    average: WeightAverage | None,
) -> tuple[int, int]:
    """Put a checkpoint's state back; returns its step and the count of skipped steps."""
    training = checkpoint.training
    load_state(model, training["model"], origin=f"checkpoint of step {checkpoint.row.step}")
    optimiser.load_state_dict(training["optimiser"])
    if average is not None:
        for name, value in average.weights.items():
            value.copy_(checkpoint.weights[name])
    return int(training["step"]), int(training["skipped_in_a_row"])


def restore_own(
    checkpoint: Checkpoint,
    rank: int,
    world: int,
    optimiser: torch.optim.Optimizer,
    model: nn.Module,
    local: LocalSteps | None,
) -> None:
    """Put back what a way of `sync` keeps for each worker: exactly, where their number is what it was.

    With another number DiLoCo takes the outer step that was due from the weights of all who were there, and workers that
    were not begin with the first one's optimiser.

    Raises:
        NotACheckpoint: a worker's part is damaged.
        StorageError: the disk or the share failed.
    """
    training = checkpoint.training
    workers = int(training.get("world", 1))
    if local is not None and training.get("diloco"):
        if 0 < rank < workers:
            part = read_part(checkpoint.folder, rank)
            load_state(model, part["model"], origin=f"checkpoint of step {checkpoint.row.step}")
            optimiser.load_state_dict(part["optimiser"])
        others: list[dict[str, Tensor]] = []
        if world != workers:
            others = [training["model"], *(read_part(checkpoint.folder, other)["model"] for other in range(1, workers))]
        local.restore(training["diloco"], checkpoint.row.step, others)
