"""Which files of a folder a data set wrote itself, and which of those are left over.

A folder may hold files of others that are called as ours are: other Arrow files, a diary in `journal/`. So a shard is
written down in the journal before it is begun, and before a manifest stops to name it; what the journal does not name
is never removed.
"""

import contextlib
from collections.abc import Collection
from pathlib import Path

from dataprep.group import JOURNALS, Announced, GroupJournal
from dataprep.heard import FOLDER as FINGERPRINTS
from dataprep.heard import forget, groups_of
from dataprep.manifest import FILE, kept_versions
from dataprep.shards import PARTIAL, SUFFIX
from vr_core.files import drafted, storage_failure


def remove_leftovers(folder: Path, named: Collection[str]) -> int:
    """Remove shards of this data set's own that neither `named` nor a kept version names; returns their bytes.

    They are of a stopped preparation, or of songs that were prepared again or removed. What was announced is settled
    then, and taken out of the journal; the groups that a preparation has finished stay in it.

    Raises:
        ManifestError, StorageError: a kept version or the journal cannot be read; nothing is removed.
    """
    entries = _entries(folder)
    staying = _staying(folder, named)
    ours = {name for entry in entries.values() for name in _shards_of(entry)}
    removed_bytes = 0
    for name in sorted(ours):
        for path in (folder / f"{name}{PARTIAL}", *([] if name in staying else [folder / name])):
            with contextlib.suppress(FileNotFoundError):
                removed_bytes += path.lstat().st_size
                path.unlink()
    forget(folder, ours - staying, staying)
    for path in list(folder.glob(f".*.{FILE}")):
        if drafted(path.name) == FILE:
            path.unlink(missing_ok=True)
    _drop(folder, {path.name for path, entry in entries.items() if isinstance(entry, Announced)})
    return removed_bytes


def end_journal(folder: Path) -> None:
    """Forget the journal, once the manifest names what it named; what else lies in its folder stays there."""
    _drop(folder, {path.name for path in _entries(folder)})


def finished_shards(folder: Path) -> set[str]:
    """Shards of groups that a stopped preparation has finished: the next one goes on from them."""
    finished = (entry for entry in _entries(folder).values() if isinstance(entry, GroupJournal))
    return {name for entry in finished for name in entry.shards}


def own_shards(folder: Path, named: Collection[str]) -> set[str]:
    """Shards that this data set has written or begun: those of its manifest (`named`), kept versions and journal."""
    return _staying(folder, named).union(*map(_shards_of, _entries(folder).values()))


def left_alone(folder: Path, named: Collection[str]) -> tuple[str, ...]:
    """Files that are called as a data set's own, and that this one did not write, relative to `folder`."""
    entries = _entries(folder)
    ours = own_shards(folder, named)
    groups = groups_of(ours)
    found = [path for path in folder.glob(f"*{SUFFIX}") if path.name not in ours]
    found += [path for path in folder.glob(f"*{SUFFIX}{PARTIAL}") if path.name.removesuffix(PARTIAL) not in ours]
    found += [path for path in (folder / FINGERPRINTS).glob("*.npz") if path.stem not in groups]
    found += [path for path in (folder / JOURNALS).glob("*") if path not in entries]
    return tuple(sorted(str(path.relative_to(folder)) for path in found))


def _staying(folder: Path, named: Collection[str]) -> set[str]:
    return set(named).union(*(version.shards for version in kept_versions(folder)))


def _entries(folder: Path) -> dict[Path, GroupJournal | Announced]:
    """The files of the journal that are ours, by what is in them."""
    found: dict[Path, GroupJournal | Announced] = {}
    for path in sorted((folder / JOURNALS).glob("[!.]*.json")):
        try:
            text = path.read_bytes()
        except OSError as error:
            if failed := storage_failure(path, error):
                raise failed from None
            continue
        for kind in (Announced, GroupJournal):
            with contextlib.suppress(ValueError):
                found[path] = kind.model_validate_json(text)
    return found


def _shards_of(entry: GroupJournal | Announced) -> set[str]:
    """Plain file names only: nothing outside of the folder is ever meant."""
    names = entry.announced if isinstance(entry, Announced) else tuple(entry.shards)
    return {name for name in names if Path(name).name == name and name.endswith(SUFFIX)}


def _drop(folder: Path, names: Collection[str]) -> None:
    """Take these out of the journal, and drafts of them; the folder goes where it is empty then."""
    for path in list((folder / JOURNALS).glob("*.json")):
        if path.name in names or drafted(path.name) in names:
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        (folder / JOURNALS).rmdir()
