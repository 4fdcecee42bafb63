"""Files that appear whole or not at all, also when the power goes."""

import contextlib
import errno
import json
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vr_core.errors import StorageError
from vr_core.small_files import sealed

_DRAFT = re.compile(r"\.[0-9a-f]{8}\.(.+)", re.DOTALL)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A draft beside `path` to be written in the block; it takes the name when the block ends without an exception.

    The draft is on the disk before it gets the name, and a reader sees the old file or the new one.

    Raises:
        OSError: the draft could not be written; what was at `path` is untouched and the draft is gone.
    """
    # The ending stays: soundfile and numpy tell a format by it.
    draft = path.with_name(f".{uuid.uuid4().hex[:8]}.{path.name}")
    try:
        yield draft
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(draft, path)
        sync_folder(path.parent)
    finally:
        # A disk that went away cannot be tidied, and that must not hide why.
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def drafted(name: str) -> str | None:
    """Name of the file that a draft called `name` was to become (`whole_file`); None where it is no draft."""
    found = _DRAFT.fullmatch(name)
    return found[1] if found else None


def write_json(path: Path, value: Any, *, seal: bool = False) -> None:
    """`value` as indented JSON at `path`; with `seal`, a mapping with a digest of the file as its last entry.

    Raises:
        OSError: as `whole_file`.
        ValueError: a number that is not finite.
    """
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    with whole_file(path) as draft:
        draft.write_bytes(sealed(text.encode()) if seal else text.encode())


ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR})
"""What the system says where a file is not there: its folder was read, and the answer can be relied on."""


def storage_failure(path: Path, error: OSError) -> StorageError | None:
    """Whether reading `path` failed for its storage's sake (a disk's error, a share that went away, no right).

    Such a file may be whole, so it must neither be passed over nor be replaced: reading it again later can succeed.

    Returns:
        The error to raise; None where the file is absent or what was read does not make sense.
    """
    if error.errno is None or error.errno in ABSENT:
        return None
    return StorageError(f"{path}: cannot be read ({os.strerror(error.errno)}); check its disk or network share")


def sync_folder(folder: Path) -> None:
    """Put a folder's entries on the disk, so that a renamed file outlives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:  # network file systems that have no such call say EINVAL
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(handle)
