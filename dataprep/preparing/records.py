"""The files of a data set besides its shards: whether they are as they were written, and what mends them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from dataprep.errors import DataError
from dataprep.fingerprints.store import FOLDER as FINGERPRINTS
from dataprep.fingerprints.store import is_whole
from dataprep.preparing.group import JOURNALS, journal_entries
from dataprep.preparing.prepare import writing
from dataprep.shards.manifest import (
    FILE,
    MANIFEST_BYTES,
    SECOND,
    Manifest,
    read_kept,
    read_manifest,
    read_second,
    require_same,
    version_files,
    write_manifest,
)
from vr_core.small_files import DamagedFile, is_sealed, read_bytes, read_json


class DamagedRecord(NamedTuple):
    """A small file of a data set that is not as it was written."""

    path: Path
    reason: str
    derived: bool
    """It can be made anew of the rest."""


def examine_records(folder: Path) -> tuple[list[DamagedRecord], list[Path]]:
    """The files of a data set besides its shards: those that are damaged, and those that carry no digest of themselves.

    Files without a digest are of earlier versions: a changed byte in them may be seen by nobody.
    """
    damaged: list[DamagedRecord] = []
    plain_files: list[Path] = []

    def look(path: Path, derived: bool, read: Callable[[Path], object]) -> None:
        try:
            read(path)
            if not is_sealed(read_bytes(path, MANIFEST_BYTES)):
                plain_files.append(path)
        except (DataError, DamagedFile, FileNotFoundError) as error:
            damaged.append(DamagedRecord(path, str(error), derived))

    look(folder / FILE, False, lambda path: read_manifest(folder))
    if (folder / SECOND).exists():
        look(folder / SECOND, True, lambda path: read_second(folder) if damaged else require_same(folder))
    for path in version_files(folder):
        look(path, False, lambda path: read_kept(folder, path))
    entries = journal_entries(folder)
    for path in sorted((folder / JOURNALS).glob("[!.]*.json")):
        look(path, path not in entries, read_json)
    for path in sorted((folder / FINGERPRINTS).glob("[!.]*.npz")):
        if not is_whole(path):
            damaged.append(DamagedRecord(path, f"{path}: damaged", True))
    return damaged, plain_files


def restore_manifest(folder: Path) -> Manifest:
    """Put the second copy of the manifest in the place of a damaged one; returns it.

    Raises:
        ManifestError: the copy is missing, damaged, or carries no digest of itself.
    """
    with writing(folder):
        second = read_second(folder)
        write_manifest(folder, second)
    return second


def mend_records(folder: Path, damaged: Sequence[DamagedRecord]) -> list[DamagedRecord]:
    """Make what is derived anew: the second copy, and fingerprints at their next use; what is left is returned."""
    with writing(folder):
        for record in damaged:
            if record.derived and record.path.parent.name == FINGERPRINTS:
                record.path.unlink(missing_ok=True)
        if any(record.path.name == SECOND for record in damaged):
            write_manifest(folder, read_manifest(folder))
    return [r for r in damaged if not (r.derived and (r.path.parent.name == FINGERPRINTS or r.path.name == SECOND))]
