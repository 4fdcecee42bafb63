"""Weights files: safetensors whose header says what they are, so that one file is enough to separate a song.

The header's one metadata key `vr` holds the JSON of `WeightsMeta` and a SHA-256 of the tensors. One key only:
safetensors writes several in random order, and equal weights must give equal files. Nothing here unpickles.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import safetensors
import safetensors.torch
import torch
from pydantic import Field
from torch import Tensor, nn

from vr_core.config import Spec, plain, validate
from vr_core.errors import ConfigError, StorageError, WeightsError, command
from vr_core.files import storage_failure, whole_file
from vr_core.lora import merged
from vr_core.models.model import Model
from vr_core.models.registry import build
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
    state, header = _load(path)
    return state, _meta(header)


def load_merged(path: Path) -> tuple[dict[str, Tensor], WeightsMeta]:
    """All weights of the model in the weights file `path`, low-rank factors added to what they belong to.

    Raises:
        WeightsError, StorageError: as `load_weights`; or the weights that stayed are not there.
    """
    part, meta = load_weights(path)
    if meta.adapter is None:
        return part, meta
    for file in (folder / BASE for folder in base_folders(path)):
        if os.path.lexists(file):
            base, header = _load(file)
            if header.sha256 != meta.adapter.base or header.head != meta.head:
                continue
            try:
                return merged(base, part, meta.adapter.lora), meta.model_copy(update={"adapter": None})
            except ConfigError as error:
                raise WeightsError(f"{path}: {error}") from None
    raise WeightsError(
        f"{path}: holds only what was trained by LoRA, and the weights that it belongs to are not in {BASE} beside it "
        f"or in its run's folder; give the run, or a file that `{command('export', 'RUN', '-o', 'FILE')}` wrote"
    )


def base_folders(path: Path) -> tuple[Path, ...]:
    """Where weights are looked for that belong to the factors in `path`: beside it, and in the folder of its run."""
    return (path.parent, *path.parents[2:3])


def digest_of(path: Path) -> str:
    """SHA-256 of the tensors in the weights file `path`, as its header says it.

    Raises:
        WeightsError, StorageError: as `read_meta`.
    """
    with _opened(path) as file:
        return _header((file.metadata() or {}).get(_KEY), path).sha256


def _load(path: Path) -> "tuple[dict[str, Tensor], _Header]":
    with _opened(path) as file:
        header = _header((file.metadata() or {}).get(_KEY), path)
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    if tensors_digest(state) != header.sha256:
        raise WeightsError(f"{path}: damaged (its tensors differ from its checksum); take another or copy it again")
    return state, header


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


def load_model(path: Path, device: torch.device | str = "cpu") -> tuple[Model, WeightsMeta]:
    """The model in the weights file `path`, in evaluation mode on `device`, and its description.

    Raises:
        WeightsError, StorageError: as `load_merged` and `load_state`.
    """
    state, meta = load_merged(path)
    with torch.device("meta"):  # what the header says may be more than any memory holds
        require_fit(build(meta.model, meta.model.front.bins_on(meta.stft), meta.head), state, origin=str(path))
    model = build(meta.model, meta.model.front.bins_on(meta.stft), meta.head)
    load_state(model, state, origin=str(path))
    return model.to(device).eval(), meta


def load_state(
    model: nn.Module, state: Mapping[str, Tensor], origin: str, names: Collection[str] | None = None
) -> None:
    """Copy `state` into `model`, every tensor of it and nothing else.

    Args:
        model: changed in place, or not at all.
        state: as from `load_weights`.
        origin: what the message calls the weights.
        names: of the model's weights that `state` must have; all, unless given.

    Raises:
        WeightsError: names or shapes differ from the model's, or a value is not finite.
    """
    require_fit(model, state, origin, names)
    require_finite(state, origin)
    model.load_state_dict(state, strict=names is None)


def require_finite(state: Mapping[str, Tensor], origin: str) -> None:
    """Check that every value is a number.

    Raises:
        WeightsError: one is not.
    """
    broken = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise WeightsError(f"{origin}: {broken[0]} holds values that are not finite; take an earlier checkpoint")


def require_fit(
    model: nn.Module, state: Mapping[str, Tensor], origin: str, names: Collection[str] | None = None
) -> None:
    """Compare the names and shapes of `state` with the model's, which may be on the `meta` device.

    Of the model's weights those with these `names` are wanted, or all.

    Raises:
        WeightsError: they differ.
    """
    own = {name: value for name, value in model.state_dict().items() if names is None or name in names}
    problems = [f"{name} is missing" for name in own if name not in state]
    problems += [f"{name} is unknown" for name in state if name not in own]
    problems += [
        f"{name} is {list(state[name].shape)}, the model has {list(own[name].shape)}"
        for name in own if name in state and state[name].shape != own[name].shape
    ]  # fmt: skip
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise WeightsError(
            f"{origin}: does not fit the model: {'; '.join(problems[:3])}{more}; "
            "use the checkpoint of a recipe with the same `model`"
        )


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
