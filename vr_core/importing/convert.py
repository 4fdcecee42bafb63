"""A checkpoint of another program becomes a weights file of ours."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from vr_core.errors import StorageError
from vr_core.importing.checkpoint import read_checkpoint
from vr_core.importing.recognise import recognise
from vr_core.importing.said import Said
from vr_core.loading import require_finite, require_fit
from vr_core.models.figures import count_parameters
from vr_core.models.registry import build
from vr_core.small_files import sha256_of
from vr_core.weights import Imported, WeightsMeta, save_weights


@dataclass(frozen=True)
class Converted:
    """What was written."""

    meta: WeightsMeta
    parameters: int
    """As published, with the fixed numbers among them."""
    assumed: tuple[str, ...]
    """A line for each thing that neither the file nor the user says."""


def convert(
    source: Path,
    said: Said,
    out: Path,
    *,
    licence: str | None,
    available_bytes: int,
    progress: Callable[[int], None],
) -> Converted:
    """Write `out` from the checkpoint `source`, whole or not at all.

    The tensors keep their names, values and types. Needs memory of three times the file's size.

    Args:
        source: of torch or safetensors; nothing in it is executed.
        said: of it by its YAML and the command line.
        out: a weights file; replaced if it is there.
        licence: as the user states it.
        available_bytes: memory that may be used.
        progress: called with bytes that have been read since.

    Raises:
        WeightsError: `source` is no checkpoint, of a model that vr has not, or holds values that are not finite.
        ConfigError: `said` contradicts it, or says too little.
        StorageError: `source` cannot be read, or `out` not be written.
    """
    state = read_checkpoint(source, available_bytes)
    found = recognise({name: tuple(tensor.shape) for name, tensor in state.items()}, said, str(source))
    with torch.device("meta"):
        model = build(found.model, found.model.front.bins_on(found.stft), found.head)
    require_fit(model, state, origin=str(source))
    require_finite(state, origin=str(source))
    meta = WeightsMeta(
        model=found.model, head=found.head, stft=found.stft, crop_frames=found.crop_frames, step=0, run=out.stem,
        purpose="separation",
        imported=Imported(file=source.name, sha256=_digest(source, progress), licence=licence),
    )  # fmt: skip
    save_weights(out, state, meta)
    return Converted(meta, count_parameters(model), found.notes)


def _digest(path: Path, progress: Callable[[int], None]) -> str:
    """Of a file that was read a moment ago."""
    try:
        return sha256_of(path, progress)
    except OSError as error:
        raise StorageError(f"{path}: cannot be read any more ({error.strerror}); check its disk") from None
