"""Files that appear whole or not at all, also when the power goes."""

import contextlib
import errno
import json
import os
import re
import stat
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from vr_core.errors import LinkRefused, StorageError
from vr_core.small_files import sealed

_DRAFT = re.compile(r"\.[0-9a-f]{8}\.(.+)", re.DOTALL)


@contextlib.contextmanager
def below(root: Path, path: Path) -> Iterator[Path]:
    """`path`, by way of a descriptor of its folder that was opened step by step from `root` down, in the block.

    Links above `root` are the user's. Below it somebody else may write, and a link in the place of a folder would lead
    what is written here to another place.

    Raises:
        LinkRefused: a folder between them is a link.
        OSError: one is not there.
    """
    parts = path.relative_to(root).parts[:-1]
    handle = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for depth, part in enumerate(parts):
            try:
                inner = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=handle)
            except OSError as error:
                place = root.joinpath(*parts[: depth + 1])
                if place.is_symlink():
                    raise _refused(place) from None
                raise OSError(error.errno, os.strerror(error.errno or 0), str(place)) from None
            os.close(handle)
            handle = inner
        yield Path(f"/proc/self/fd/{handle}") / path.name
    finally:
        os.close(handle)


def require_no_links(root: Path, *paths: Path) -> None:
    """Check that nothing from `root` down to each of the paths is a link, for libraries that open files themselves.

    Raises:
        LinkRefused: something is.
    """
    for path in paths:
        for place in (path, *path.parents):
            if place == root:
                break
            if place.is_symlink():
                raise _refused(place)


def _refused(link: Path) -> LinkRefused:
    return LinkRefused(f"{link}: is a link, and is not followed; move what it leads to there")


@contextlib.contextmanager
def open_below(root: Path, path: Path, flags: int) -> Iterator[BinaryIO]:
    """The regular file `path`, opened for writing with `flags` in the block; neither it nor a folder below is a link.

    Raises:
        LinkRefused, OSError: as `below`; also where it is a pipe or a device.
    """
    with below(root, path) as place:
        try:
            handle = os.open(place, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise _refused(path) from None
            raise OSError(error.errno, os.strerror(error.errno or 0), str(path)) from None
        with open(handle, "wb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise LinkRefused(f"{path}: is no regular file; move it away")
            yield file


@contextlib.contextmanager
def whole_file(path: Path, root: Path | None = None) -> Iterator[Path]:
    """A draft beside `path` to be written in the block; it takes the name when the block ends without an exception.

    The draft is on the disk before it gets the name, and a reader sees the old file or the new one. A link in the place
    of `path` is replaced, and with `root` no folder below it is followed where it is one (`below`).

    Raises:
        OSError: the draft could not be written; what was at `path` is untouched and the draft is gone.
        LinkRefused: as `below`.
    """
    with below(root, path) if root is not None else contextlib.nullcontext(path) as place:
        # The ending stays: soundfile and numpy tell a format by it.
        draft = place.with_name(f".{uuid.uuid4().hex[:8]}.{place.name}")
        try:
            yield draft
            with draft.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(draft, place)
            sync_folder(place.parent)
        except OSError as error:  # who reads of it knows the path, not the descriptor
            if root is not None and error.filename is not None:
                raise OSError(error.errno, error.strerror, str(path.with_name(Path(error.filename).name))) from None
            raise
        finally:
            # A disk that went away cannot be tidied, and that must not hide why.
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)


def touch_below(root: Path, path: Path) -> None:
    """Make the empty file `path` where it is not there; no link is followed.

    Raises:
        LinkRefused, OSError: as `open_below`.
    """
    with open_below(root, path, os.O_WRONLY | os.O_CREAT):
        pass


def drafted(name: str) -> str | None:
    """Name of the file that a draft called `name` was to become (`whole_file`); None where it is no draft."""
    found = _DRAFT.fullmatch(name)
    return found[1] if found else None


def clear_drafts(folder: Path, names: Collection[str] | None = None) -> None:
    """Remove what killed processes have begun of files in `folder`, called `names` or in any way.

    To be called where nobody else writes them: by whoever holds the folder's lock, or is their one writer.
    """
    with contextlib.suppress(OSError):  # it will be tried again
        for path in list(folder.iterdir()):
            name = drafted(path.name)
            if name is not None and (names is None or name in names):
                path.unlink(missing_ok=True)


def write_json(path: Path, value: Any, *, seal: bool = False, root: Path | None = None) -> None:
    """`value` as indented JSON at `path`; with `seal`, a mapping with a digest of the file as its last entry.

    Raises:
        OSError, LinkRefused: as `whole_file`.
        ValueError: a number that is not finite.
    """
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    with whole_file(path, root) as draft:
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
