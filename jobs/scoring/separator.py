"""The model of a checkpoint that is to separate."""

from collections.abc import Callable
from pathlib import Path

import torch

from jobs.runs.lookup import resolve_weights
from vr_core.loading import load_model
from vr_core.models.model import Model
from vr_core.weights import WeightsMeta, require_separation


def load_separator(
    checkpoint: Path, device: torch.device | str, note: Callable[[str], None]
) -> tuple[Model, WeightsMeta]:
    """The model of a run, a step folder or a weights file, and its description.

    Args:
        checkpoint: as the user gave it.
        device: where to compute.
        note: called with a line where the weights do not say what for they were trained.

    Raises:
        NotACheckpoint, WeightsError, StorageError: it cannot be read, or is of a pretraining run.
    """
    model, meta = load_model(resolve_weights(checkpoint), device)
    said = require_separation(meta, str(checkpoint))
    if said:
        note(said)
    return model, meta
