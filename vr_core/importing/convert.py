"""A checkpoint of another program becomes a weights file of ours."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch

from vr_core.errors import WeightsError
from vr_core.importing.checkpoint import read_checkpoint
from vr_core.importing.recognise import Recognised, recognise
from vr_core.importing.said import Said
from vr_core.models.registry import build
from vr_core.small_files import open_regular
from vr_core.weights import Imported, WeightsMeta, require_finite, require_fit, save_weights

_PIECE_BYTES = 1 << 24


def convert(
    source: Path,
    said: Said,
    out: Path,
    *,
    licence: str | None,
    available_bytes: int,
    progress: Callable[[int], None],
) -> tuple[WeightsMeta, Recognised]:
    """Write `out` from the checkpoint `source`, whole or not at all; what it says of itself, and what was assumed.

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
        imported=Imported(file=source.name, sha256=_sha256(source, progress), licence=licence),
    )  # fmt: skip
    save_weights(out, state, meta)
    return meta, found


def _sha256(path: Path, progress: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    try:
        with open_regular(path) as file:
            while piece := file.read(_PIECE_BYTES):
                digest.update(piece)
                progress(len(piece))
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}); give a checkpoint file") from None
    return digest.hexdigest()
