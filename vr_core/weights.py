"""Weights files: safetensors whose header says what they are, so that one file is enough to separate a song.

The header's one metadata key `vr` holds the JSON of `WeightsMeta` and a SHA-256 of the tensors. One key only:
safetensors writes several in random order, and equal weights must give equal files. Nothing here unpickles.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import safetensors
import safetensors.torch
import torch
from pydantic import Field
from torch import Tensor

from vr_core.config import Spec, plain, validate
from vr_core.errors import ConfigError, StorageError, WeightsError, command
from vr_core.files import storage_failure, whole_file
from vr_core.small_files import DamagedFile, open_regular, parse_json
from vr_core.specs.bounds import Count
from vr_core.specs.heads import MASK, HeadSpec
from vr_core.specs.lora import LoraSpec
from vr_core.specs.models import ModelSpec
from vr_core.specs.objectives import Purpose
from vr_core.specs.stft import StftSpec

FORMAT: Literal[1] = 1
_KEY = "vr"
BASE = "base.safetensors"
"""In the folder of a run with LoRA: the weights that stayed."""

DIGEST_DIGITS = 16
"""Of the SHA-256 of a stem's samples: so many hex digits tell all stems apart, and a file stays small."""
StemDigest = Annotated[str, Field(pattern=rf"^[0-9a-f]{{{DIGEST_DIGITS}}}$")]


class Parent(Spec):
    """Weights that a run began with."""

    run: str
    step: Annotated[int, Field(ge=0)]
    purpose: Purpose | None = None
    """None: the file did not say."""
    data: str | None = None
    """Digest of the data set that they were trained on."""


class Imported(Spec):
    """The file of another program that weights were made from."""

    file: str
    """Its name, without folders."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    licence: str | None = None
    """As the user said; None: nobody said."""


class Adapter(Spec):
    """That a file holds only what was trained beside weights that stayed."""

    lora: LoraSpec
    base: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of the tensors of the weights that stayed."""


class WeightsMeta(Spec):
    """What a weights file says about itself."""

    format: Literal[1] = FORMAT
    model: ModelSpec
    head: HeadSpec = MASK
    """What the model answers."""
    stft: StftSpec
    """The spectrogram that the model was trained on; audio and data sets of other settings are refused."""
    crop_frames: Count = 256
    """Length of the crops of training: the window that separation uses."""
    step: Annotated[int, Field(ge=0)]
    run: str
    """Id of the run that made them."""
    purpose: Purpose | None = None
    """What they are good for; None in files of earlier versions."""
    data: str | None = None
    """Digest of the data set that they were trained on."""
    parents: tuple[Parent, ...] = ()
    """What the run began with, and what that began with; the nearest first."""
    trained_on: tuple[StemDigest, ...] = ()
    """Of the stems that the run and its parents were trained on, as far as these say it; sorted. No titles."""
    imported: Imported | None = None
    """None: of a run of vr."""
    adapter: Adapter | None = None
    """None: the file holds all weights of its model."""


class _Header(WeightsMeta):
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def save_weights(path: Path, state: Mapping[str, Tensor], meta: WeightsMeta) -> None:
    """Write `path` whole or not at all; equal arguments give equal bytes.

    Args:
        path: the file, usually `weights.safetensors`; replaced if it is there.
        state: a state dict, any device.
        meta: what the weights are.

    Raises:
        StorageError: the file could not be written; what was at `path` is still there.
    """
    tensors = _untied({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()})
    said = plain(meta)
    # As in all files of before, which have no such keys.
    for key, usual in (("head", MASK), ("imported", None), ("adapter", None)):
        if getattr(meta, key) == usual:
            del said[key]
    header = json.dumps({**said, "sha256": tensors_digest(tensors)}, sort_keys=True)
    data = safetensors.torch.save(tensors, {_KEY: header})
    try:
        with whole_file(path) as draft:
            draft.write_bytes(data)
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be written ({error.strerror}); free some space or choose another place"
        ) from error


def _untied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """With a copy of each that shares memory with one before it: safetensors refuses tied parameters."""
    seen: set[int] = set()
    for name, tensor in tensors.items():
        if tensor.untyped_storage().data_ptr() in seen:
            tensors[name] = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
    return tensors


def load_weights(path: Path) -> tuple[dict[str, Tensor], WeightsMeta]:
    """State dict (on the CPU) and description in the weights file `path`: of a run with LoRA its factors alone.

    Raises:
        WeightsError: missing, not ours, damaged, or of another format version.
        StorageError: its storage failed.
    """
    with _opened(path) as file:
        header = _header((file.metadata() or {}).get(_KEY), path)
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    if tensors_digest(state) != header.sha256:
        raise WeightsError(f"{path}: damaged (its tensors differ from its checksum); take another or copy it again")
    return state, _meta(header)


def digest_of(path: Path) -> str:
    """SHA-256 of the tensors in the weights file `path`, as its header says it.

    Raises:
        WeightsError, StorageError: as `read_meta`.
    """
    with _opened(path) as file:
        return _header((file.metadata() or {}).get(_KEY), path).sha256


def read_meta(path: Path) -> WeightsMeta:
    """Description in the weights file `path`; its tensors are not read.

    Raises:
        WeightsError, StorageError: as `load_weights`, but for damaged tensors.
    """
    with _opened(path) as file:
        return _meta(_header((file.metadata() or {}).get(_KEY), path))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    _require_safetensors(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            yield file
    except (safetensors.SafetensorError, OSError) as error:
        if isinstance(error, OSError) and (failed := storage_failure(path, error)):
            raise failed from None
        reason = " ".join(str(error).split())
        raise WeightsError(f"{path}: damaged or cut short ({reason}); take another or copy it again") from None


def _meta(header: "_Header") -> WeightsMeta:
    return WeightsMeta.model_validate(header.model_dump(exclude={"sha256"}))


def require_separation(meta: WeightsMeta, origin: str) -> str | None:
    """Check that weights were trained to separate; a note where they do not say what for.

    Args:
        meta: as they say of themselves.
        origin: what the message calls them.

    Raises:
        WeightsError: they are only where another training begins.
    """
    if meta.purpose is None:
        return f"{origin}: does not say what it was trained for (earlier versions did not write that); it is used"
    if meta.purpose != "separation":
        train = command("submit", "songs-finetune", "data=DATA", f"init={origin}")
        raise WeightsError(
            f"{origin}: is of the {meta.purpose} run {meta.run}, which separates nothing by itself; train it further "
            f"(`{train}`), and give that run"
        )
    return None


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and values, whatever their order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _require_safetensors(path: Path) -> None:
    """Refuse by its first bytes what is plainly something else: safetensors' own message would not say what."""
    try:
        with open_regular(path) as file:
            start = file.read(9)
    except DamagedFile as error:
        raise WeightsError(f"{error}; give a weights.safetensors file") from None
    except OSError as error:
        if failed := storage_failure(path, error):
            raise failed from None
        reason = {"FileNotFoundError": "no such file", "IsADirectoryError": "a folder"}.get(
            type(error).__name__, error.strerror
        )
        raise WeightsError(f"{path}: cannot be read ({reason}); give a weights.safetensors file") from None
    if start[8:9] in (b"{", b""):  # before anything else: the length in front of it may begin with any byte
        return
    if start[:2] in (b"PK", b"\x80\x02", b"\x80\x04"):
        raise WeightsError(f"{path}: a pickled file, which can run code when loaded; give a weights.safetensors")
    raise WeightsError(f"{path}: not a safetensors file; give the weights.safetensors of a checkpoint")


def _header(text: str | None, path: Path) -> _Header:
    if text is None:
        raise WeightsError(f"{path}: a safetensors file of another program (no `{_KEY}` in its header)")
    try:
        raw = parse_json(text, str(path))
    except DamagedFile:
        raise WeightsError(
            f"{path}: damaged (its header is not readable); take another checkpoint or copy it again"
        ) from None
    if raw.get("format") != FORMAT:
        raise WeightsError(
            f"{path}: format {raw.get('format')}, this version of vr reads {FORMAT}; use the version that wrote it"
        )
    try:
        return validate(_Header, raw, str(path))
    except ConfigError as error:
        raise WeightsError(f"{error}; use the version of vr that wrote it") from None
