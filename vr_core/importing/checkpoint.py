"""Checkpoints of other programs as tensors by name. Nothing in them is executed, and none is larger than memory.

A `.ckpt`, `.pth` or `.pt` is a pickle, which can call any function when it is loaded. torch's own reader takes tensors
and plain values alone; a few names of numpy, which trainers leave in their files, are allowed besides.
"""

import contextlib
import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from vr_core.errors import WeightsError
from vr_core.files import storage_failure
from vr_core.small_files import DamagedFile, open_regular

WRAPPERS = ("state_dict", "model_state_dict", "state")
"""Keys under which trainers put the weights, beside optimisers and counters."""
PREFIXES = ("module.", "model.", "_orig_mod.")
"""Before each name in files of a model that was wrapped in training, once or more."""
COPIES = 3
"""Of a file's tensors in memory, most: those that were read, as bytes, and the file that is written."""
_SCALAR = np.float64(0).__reduce__()[0]
"""What a number of numpy is made by; its module has had two names."""
_SCALARS: tuple[Any, ...] = (
    np.dtype, (_SCALAR, "numpy.core.multiarray.scalar"), (_SCALAR, "numpy._core.multiarray.scalar"),
    *(getattr(np.dtypes, name) for name in ("Float32DType", "Float64DType", "Int64DType", "Int32DType", "BoolDType")),
)  # fmt: skip


_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.bool)


def read_checkpoint(path: Path, available_bytes: int) -> dict[str, Tensor]:
    """Tensors by name of a model's checkpoint, in the types of the file; large files are mapped, not copied.

    Args:
        path: of torch (zip or the format before it) or safetensors.
        available_bytes: memory that may be used.

    Raises:
        WeightsError: not such a file, cut short, larger than memory, or one that would run code.
        StorageError: its storage failed.
    """
    try:
        with open_regular(path) as file:
            start = file.read(9)
            _require_room(path, _unpacked_bytes(file, path), available_bytes)
        with _as_weights_error(path):
            raw = (
                safetensors.torch.load_file(path)
                if start[8:9] == b"{"
                else _unpickled(path, mapped=start.startswith(b"PK"))
            )
    except DamagedFile as error:
        raise WeightsError(f"{error}; give a checkpoint file") from None
    except OSError as error:
        if failed := storage_failure(path, error):
            raise failed from None
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error}); give a checkpoint file") from None
    return _named_tensors(raw, path)


def _unpickled(path: Path, *, mapped: bool) -> Any:
    with torch.serialization.safe_globals(list(_SCALARS)), warnings.catch_warnings(action="ignore"):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)


@contextlib.contextmanager
def _as_weights_error(path: Path) -> Iterator[None]:
    try:
        yield
    except pickle.UnpicklingError:  # torch has one error for both, and only words to tell them apart
        raise WeightsError(
            f"{path}: damaged, or holds more than tensors and plain values, which can run code when loaded; nothing of "
            "it was run; download it again, or ask its author for a safetensors file or the state dict alone"
        ) from None
    except (RuntimeError, safetensors.SafetensorError, EOFError, ValueError, KeyError, UnicodeDecodeError) as error:
        raise WeightsError(
            f"{path}: damaged, cut short or no checkpoint ({_line(error)}); copy or download it again"
        ) from None


def _unpacked_bytes(file: BinaryIO, path: Path) -> int:
    """How much memory the file's tensors take; torch stores them as they are, and so must a zip."""
    file.seek(0)
    if file.read(2) != b"PK":
        return file.seek(0, 2)
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError) as error:
        raise WeightsError(
            f"{path}: damaged, cut short or no checkpoint ({_line(error)}); copy or download it again"
        ) from None
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise WeightsError(f"{path}: a compressed archive, no checkpoint; unpack it first")
    return sum(entry.file_size for entry in entries)


def _require_room(path: Path, size_bytes: int, available_bytes: int) -> None:
    if COPIES * size_bytes > available_bytes:
        raise WeightsError(
            f"{path}: holds {size_bytes / 1e9:.1f} GB, and this PC has {available_bytes / 1e9:.1f} GB of memory free; "
            f"importing takes {COPIES} times the file; import it on another PC, or in half precision"
        )


def _named_tensors(raw: Any, path: Path) -> dict[str, Tensor]:
    for wrapper in WRAPPERS:
        if isinstance(raw, Mapping) and isinstance(raw.get(wrapper), Mapping):
            raw = raw[wrapper]
    tensors = {k: v for k, v in raw.items() if isinstance(v, Tensor)} if isinstance(raw, Mapping) else {}
    if not tensors:
        raise WeightsError(f"{path}: holds no tensors by name; give the checkpoint of a model")
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in tensors)), None):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    odd = next((name for name, tensor in tensors.items() if tensor.dtype not in _DTYPES), None)
    if odd is not None:
        raise WeightsError(
            f"{path}: {odd} holds {str(tensors[odd].dtype).removeprefix('torch.')}, which vr does not compute in; "
            "give a file in float32 or half precision"
        )
    return tensors


def _line(error: object) -> str:
    return " ".join(str(error).split())[:120]
