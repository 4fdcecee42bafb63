"""A model small enough for checkpoints of a few kilobytes."""

from pathlib import Path

import torch

from jobs.checkpoint import write_checkpoint
from jobs.runs import RunFolder
from vr_core.models import build
from vr_core.specs import PlainStackSpec, StftSpec
from vr_core.weights import WeightsMeta

SPEC = PlainStackSpec(width=4, blocks=1, expansion=1)
STFT = StftSpec(n_fft=64, hop=32)


def write_example(
    run: RunFolder, step: int, value: float, loss: float | None = None, best: bool = False, keep: int = 2
) -> Path:
    """A checkpoint of which every weight is `value`."""
    weights = {name: torch.full_like(p, value) for name, p in build(SPEC, STFT.bins).state_dict().items()}
    meta = WeightsMeta(model=SPEC, stft=STFT, step=step, run=run.id)
    training = {"step": step, "model": weights, "moments": torch.arange(3)}
    return write_checkpoint(run, weights, training, meta, step * 8, loss, best, keep)
