"""The files of a data set besides its shards: whether they are as they were written, and what mends them."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from dataprep.errors import DamagedManifest
from dataprep.fingerprints.store import FOLDER as FINGERPRINTS
from dataprep.fingerprints.store import is_whole
from dataprep.preparing.folder import writing
from dataprep.preparing.group import JOURNALS, journal_entries
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
from vr_core.errors import command
from vr_core.small_files import DamagedFile, is_sealed, read_bytes

OWN_ENTRY = re.compile(r"([0-9a-f]{12}(-[0-9a-f]{6})?(\.shards)?|replaced\.shards)\.json")
"""What a preparation writes into the journal; other files there are none of ours."""


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

    def look(path: Path, derived: bool, read: Callable[[Path], object], remedy: str = "") -> None:
        try:
            read(path)
            if not is_sealed(read_bytes(path, MANIFEST_BYTES)):
                plain_files.append(path)
        except (DamagedManifest, DamagedFile) as error:
            damaged.append(DamagedRecord(path, f"{error}{remedy}", derived))

    if (folder / FILE).exists() or not (folder / SECOND).exists():
        look(folder / FILE, False, lambda path: read_manifest(folder))
    else:
        damaged.append(DamagedRecord(folder / FILE, f"{folder / FILE}: missing", False))
    if (folder / SECOND).exists():
        look(folder / SECOND, True, lambda path: read_second(folder) if damaged else require_same(folder))
    elif not damaged and not plain_files:
        damaged.append(DamagedRecord(folder / SECOND, f"{folder / SECOND}: missing", True))
    prune = f"; only runs that began with it need it, and {command('data prune', folder)} drops it"
    for path in version_files(folder):
        look(path, False, lambda path: read_kept(folder, path), prune)
    entries = journal_entries(folder)
    for path in sorted((folder / JOURNALS).glob("[!.]*.json")):
        if path not in entries and OWN_ENTRY.fullmatch(path.name):
            damaged.append(DamagedRecord(path, f"{path}: damaged", True))
    for path in sorted((folder / FINGERPRINTS).glob("[!.]*.npz")):
        if not is_whole(path):
            damaged.append(DamagedRecord(path, f"{path}: damaged", True))
    return damaged, plain_files


def restore_manifest(folder: Path, accept: Callable[[Manifest, bool], None]) -> Manifest:
    """Put the second copy of the manifest in the place of a damaged one; returns it.

    Args:
        folder: of the data set.
        accept: called with the copy, and whether it is of an earlier version than the manifest was: a kill between the
            writing of the two leaves it so. Raises to leave all as it is.

    Raises:
        ManifestError: the copy is missing, damaged, or carries no digest of itself.
    """
    second = read_second(folder)
    accept(second, any(path.stem == second.digest() for path in version_files(folder)))
    with writing(folder):
        write_manifest(folder, second)
    return second


def mend_records(folder: Path, damaged: Sequence[DamagedRecord]) -> list[DamagedRecord]:
    """Make what is derived anew: the second copy, and fingerprints at their next use; what is left is returned."""
    with writing(folder):
        for record in damaged:
            if record.derived and record.path.parent.name == FINGERPRINTS:
                record.path.unlink(missing_ok=True)
            elif record.derived and record.path.parent.name == JOURNALS:
                record.path.rename(record.path.with_name(f"{record.path.name}.damaged"))
        write_manifest(folder, read_manifest(folder))  # with its digest and its second copy, as today's are
    return [record for record in damaged if not record.derived]
