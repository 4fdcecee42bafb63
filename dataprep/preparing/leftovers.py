"""Which files of a folder a data set wrote itself, and which of those are left over.

A folder may hold files of others that are called as ours are: other Arrow files, a diary in `journal/`. So a shard is
written down in the journal before it is begun, and before a manifest stops to name it; what the journal does not name
is never removed.
"""

import contextlib
import sys
from collections.abc import Collection
from pathlib import Path

from dataprep.errors import ManifestError
from dataprep.fingerprints.store import FOLDER as FINGERPRINTS
from dataprep.fingerprints.store import forget, groups_of
from dataprep.preparing.group import JOURNALS, Announced, GroupJournal, group_of, journal_entries
from dataprep.shards.manifest import kept_versions, read_manifest, version_files
from dataprep.shards.writer import PARTIAL, SUFFIX
from vr_core.files import drafted


def remove_leftovers(folder: Path, named: Collection[str]) -> int:
    """Remove shards of this data set's own that neither `named` nor a kept version names; returns their bytes.

    They are of a stopped preparation, or of songs that were prepared again or removed. What was announced is settled
    then, and taken out of the journal; the groups that a preparation has finished stay in it.

    Raises:
        StorageError: a kept version or the journal cannot be read; nothing is removed.
    """
    versions, damaged = kept_versions(folder)
    for line in damaged:
        print(f"{line}; no shard is removed while it is there, since it may name it", file=sys.stderr, flush=True)
    if damaged:
        return 0
    entries = journal_entries(folder)
    ours = set[str]().union(*map(_shards_of, entries.values()))
    removed_bytes = _remove(folder, ours, set(named).union(*(version.shards for version in versions)))
    _drop(folder, {path.name for path, entry in entries.items() if isinstance(entry, Announced)})
    return removed_bytes


def remove_versions(folder: Path, named: Collection[str]) -> tuple[int, int]:
    """Remove the kept versions of the manifest, and the shards that only they name; returns how many, and the bytes.

    The shards go first: a version that is still there says what is left to remove. What a damaged one names is not
    known and stays.
    """
    versions = version_files(folder)
    dropped: set[str] = set()
    for path in versions:
        with contextlib.suppress(ManifestError):
            dropped |= set(read_manifest(folder, path.stem).shards)
    removed_bytes = _remove(folder, dropped, set(named))
    for path in versions:
        path.unlink()
    return len(versions), removed_bytes


def end_journal(folder: Path) -> None:
    """Forget the journal, once the manifest names what it named; what else lies in its folder stays there."""
    _drop(folder, {path.name for path in journal_entries(folder)})


def finished_shards(folder: Path) -> set[str]:
    """Shards of groups that a stopped preparation has finished: the next one goes on from them."""
    finished = (entry for entry in journal_entries(folder).values() if isinstance(entry, GroupJournal))
    return {name for entry in finished for name in entry.shards}


def named_shards(folder: Path, named: Collection[str]) -> set[str]:
    """Shards of its manifest (`named`) and of kept versions."""
    return set(named).union(*(version.shards for version in kept_versions(folder)[0]))


def own_shards(folder: Path, named: Collection[str]) -> set[str]:
    """Shards that this data set has written or begun: those of its manifest (`named`), kept versions and journal."""
    return named_shards(folder, named).union(*map(_shards_of, journal_entries(folder).values()))


def left_alone(folder: Path, named: Collection[str]) -> tuple[str, ...]:
    """Files that are called as a data set's own, and that this one did not write, relative to `folder`."""
    entries = journal_entries(folder)
    ours = own_shards(folder, named)
    groups = groups_of(ours)
    found = [path for path in folder.glob(f"*{SUFFIX}") if path.name not in ours]
    found += [path for path in folder.glob(f"*{SUFFIX}{PARTIAL}") if path.name.removesuffix(PARTIAL) not in ours]
    found += [path for path in (folder / FINGERPRINTS).glob("*.npz") if path.stem not in groups]
    found += [path for path in (folder / JOURNALS).glob("*") if path not in entries]
    return tuple(sorted(str(path.relative_to(folder)) for path in found))


def _remove(folder: Path, ours: set[str], staying: set[str]) -> int:
    """Remove those of our shards that do not stay, what was begun of any, and their fingerprints."""
    removed_bytes = 0
    for name in sorted(ours):
        for path in (folder / f"{name}{PARTIAL}", *([] if name in staying else [folder / name])):
            with contextlib.suppress(FileNotFoundError):
                removed_bytes += path.lstat().st_size
                path.unlink()
    forget(folder, ours - staying, staying)
    return removed_bytes


def _shards_of(entry: GroupJournal | Announced) -> set[str]:
    """Plain file names only: nothing outside of the folder is ever meant."""
    names = entry.announced if isinstance(entry, Announced) else tuple(entry.shards)
    return {name for name in names if Path(name).name == name and name.endswith(SUFFIX)}


def _drop(folder: Path, names: Collection[str]) -> None:
    """Take these out of the journal, and drafts of their groups' entries; the folder goes where it is empty then.

    A task that was ended while it wrote leaves a draft of an entry that never was, of a try that nobody names.
    """
    groups = {group_of(name) for name in names}
    for path in list((folder / JOURNALS).glob("*.json")):
        draft = drafted(path.name)
        if path.name in names or (draft is not None and group_of(draft) in groups):
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        (folder / JOURNALS).rmdir()
