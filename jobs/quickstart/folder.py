"""The folder of a quickstart: of one, with the same settings, and worked in by one process at a time."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from filelock import FileLock, Timeout
from pydantic import Field

from jobs.errors import FolderTaken
from vr_core.config import Spec, plain, validate
from vr_core.errors import ConfigError
from vr_core.files import write_json
from vr_core.small_files import read_json

NOTE = "quickstart.json"
LOCK = ".lock"


class QuickstartSpec(Spec):
    """What a quickstart's folder is made with; kept in it."""

    songs: Annotated[int, Field(ge=3, le=999)] = 8
    """One at least for training, for validation and for the scores."""
    seconds: Annotated[float, Field(ge=5, le=600)] = 20.0
    """Length of each song."""
    seed: Annotated[int, Field(ge=0)] = 0


def take(folder: Path, spec: QuickstartSpec) -> None:
    """Make `folder`, or check that it is of a quickstart with the same `spec`.

    Raises:
        FolderTaken: it is something else, or cannot be written.
        ConfigError: it was made with another `spec`.
    """
    note = folder / NOTE
    if folder.exists() and not folder.is_dir():
        raise FolderTaken(f"{folder}: is a file; give a new folder")
    if note.is_file():
        try:
            earlier = validate(QuickstartSpec, read_json(note), str(note))
        except (OSError, ValueError, ConfigError):
            raise FolderTaken(f"{note}: damaged; delete {folder}, or give a new folder") from None
        if earlier != spec:
            raise ConfigError(
                f"{folder}: was made with --songs {earlier.songs} --seconds {earlier.seconds:g}; give the same, "
                "or a new folder"
            )
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise FolderTaken(f"{folder}: is not empty, and not from vr quickstart; give a new folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(note, plain(spec))
    except OSError as error:
        raise FolderTaken(f"{folder}: cannot be written ({error.strerror}); give another folder") from None


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """No other quickstart works in `folder` during the block.

    Raises:
        FolderTaken: one does.
    """
    try:
        with FileLock(folder / LOCK, timeout=0):
            yield
    except Timeout:
        raise FolderTaken(f"{folder}: another vr quickstart works in it; wait until it has ended") from None
