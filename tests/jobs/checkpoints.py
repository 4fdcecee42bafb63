"""A model small enough for checkpoints of a few kilobytes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from jobs.checkpoints.writing import write_checkpoint
from jobs.runs.folder import RunFolder
from jobs.runs.starts import BEFORE, Start
from vr_core.models.registry import build
from vr_core.specs.models import PlainStackSpec
from vr_core.specs.stft import StftSpec
from vr_core.weights import WeightsMeta

SPEC = PlainStackSpec(width=4, blocks=1, expansion=1)
STFT = StftSpec(n_fft=64, hop=32)


def write_example(
    run: RunFolder,
    step: int,
    value: float,
    loss: float | None = None,
    best: bool = False,
    keep: int = 2,
    start: Start = BEFORE,
    while_written: Callable[[], object] | None = None,
) -> Path:
    """A checkpoint of which every weight is `value`; something may happen while it is written."""
    weights = {name: torch.full_like(p, value) for name, p in build(SPEC, STFT.bins).state_dict().items()}
    meta = WeightsMeta(model=SPEC, stft=STFT, step=step, run=run.id)
    training: dict[str, Any] = {"step": step, "model": weights, "moments": torch.arange(3)}
    if while_written is not None:
        training |= {"late": _Late(while_written)}
    return write_checkpoint(run, weights, training, meta, step * 8, loss, best, keep, start)


class _Late:
    """A number that takes its time to be written."""

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        self._meanwhile = meanwhile

    def __reduce__(self) -> tuple[object, tuple[int]]:
        self._meanwhile()
        return (int, (0,))
