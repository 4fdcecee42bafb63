"""Copies of shards on a machine's own disk: by content, checked, within a quota, for any number of processes at once.

    FOLDER/<sha256>.arrow            a whole copy, compared with the manifest when it was made
    FOLDER/<sha256>.<bytes>.partial  one that is being made, or was stopped: it goes on where it was
    FOLDER/*.lock                    held by who makes that copy, or decides about room

By content, so that data sets with a shard in common share its copy, and one that was prepared anew never finds an old
one. A file's time is that of its last use. What is removed while somebody reads it stays until that process lets go.
"""

import hashlib
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from dataprep.errors import DataError, NoSpaceError
from dataprep.shards.writer import PARTIAL, SUFFIX, ShardRow, damaged, no_space_as_error, unreadable
from vr_core.errors import StorageError
from vr_core.files import sync_folder
from vr_core.small_files import DamagedFile, open_regular

_COPY = re.compile(rf"[0-9a-f]{{64}}{re.escape(SUFFIX)}")
_PARTIAL_COPY = re.compile(rf"[0-9a-f]{{64}}\.(\d+){re.escape(PARTIAL)}")
_BLOCK_BYTES = 8 * 2**20
_UNITS = {"": 1, "B": 1} | {
    f"{prefix}{kind}": base ** (i + 1)
    for kind, base in (("B", 1000), ("iB", 1024))
    for i, prefix in enumerate(("K" if base == 1024 else "k", "M", "G", "T"))
}
_UNITS["KB"] = 1000


def parse_bytes(text: str) -> int:
    """Bytes of `200GB`, `1.5 TB`, `512MiB` or a plain number.

    Raises:
        DataError: it is none of these.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) *([A-Za-z]*)", text.strip())
    if match is None or match[2] not in _UNITS or not 0 < float(match[1]) < 1e15:
        raise DataError(f"{text[:40]!r}: not a size; give for example 200GB, 1.5TB or 512MiB")
    return round(float(match[1]) * int(_UNITS[match[2]]))


@dataclass(frozen=True)
class Held:
    """A file of the cache."""

    path: Path
    bytes: int
    """That it takes, or will take when it is whole."""
    used_s: float
    """When it was last used."""


def evicted(held: Collection[Held], needed_bytes: int, quota_bytes: int, keep: Collection[str]) -> list[Held] | None:
    """Files to remove for room of `needed_bytes`, the least recently used first; pure.

    Args:
        held: What is there.
        needed_bytes: More than is there now.
        quota_bytes: Most that all may take together.
        keep: Digests of shards that stay.

    Returns:
        None where there is no room even without all that may go.
    """
    free = quota_bytes - sum(file.bytes for file in held)
    gone = []
    for file in sorted(held, key=lambda file: file.used_s):
        if free >= needed_bytes:
            break
        if _digest_of(file.path) not in keep:
            gone.append(file)
            free += file.bytes
    return gone if free >= needed_bytes else None


class ShardCache:
    """A folder of copies."""

    def __init__(self, folder: Path, quota_bytes: int) -> None:
        """Copies in `folder`, which is made where it is missing, of `quota_bytes` together at most.

        Raises:
            StorageError: the folder cannot be made.
        """
        self.folder = folder
        self.quota_bytes = quota_bytes
        try:
            with no_space_as_error(folder):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                found = folder.stat()
                if found.st_mode & 0o022 or found.st_uid not in (0, os.getuid()):
                    # It may be the user's for other things too, so it stays as it is.
                    print(
                        f"{folder}: others may write there, and so choose what is trained on; a folder of your own is "
                        f"safe: chmod go-w {folder}",
                        file=sys.stderr,
                        flush=True,
                    )
        except OSError as error:
            raise StorageError(
                f"{folder}: cannot be made ({error.strerror}); give a folder on a disk of this PC"
            ) from None

    def find(self, row: ShardRow) -> Path | None:
        """The whole copy of a shard, which counts as used now; None where there is none."""
        path = self._path(row)
        try:
            if not self.has(row):
                return None
            os.utime(path)
        except OSError:
            return None
        return path

    def has(self, row: ShardRow) -> bool:
        """Whether there is a whole copy; to ask is not to use it."""
        try:
            return self._path(row).stat().st_size == row.bytes
        except OSError:
            return False

    def drop(self, row: ShardRow) -> None:
        """Remove a copy that turned out to be damaged."""
        with suppress(OSError):
            self._path(row).unlink()

    def held(self) -> list[Held]:
        """What takes room, copies that are being made with what they will take; files of others count for nothing."""
        found = []
        for path in self.folder.iterdir():
            with suppress(OSError):  # removed meanwhile
                if _COPY.fullmatch(path.name):
                    found.append(Held(path, path.stat().st_size, path.stat().st_mtime))
                elif partial := _PARTIAL_COPY.fullmatch(path.name):
                    found.append(Held(path, int(partial[1]), path.stat().st_mtime))
        return found

    def stage(
        self, source: Path, row: ShardRow, keep: Collection[str] = (), on_bytes: Callable[[int], None] = lambda n: None
    ) -> Path | None:
        """Copy the shard `source`, or find its copy; one that another process is making is waited for.

        Args:
            source: The shard on shared storage.
            row: Of its manifest.
            keep: Digests of shards that are not removed for its sake.
            on_bytes: Called with each number of bytes that is there, and now and then while another copies; what it
                raises ends this.

        Returns:
            The copy; None where the quota leaves no room.

        Raises:
            ShardError: the source is missing or is not what its manifest says.
            StorageError: the disk or the share failed.
            NoSpaceError: the cache's disk is full; nothing of the copy is left on it.
        """
        with self._turn(row.sha256, on_bytes):
            found = self.find(row)
            if found is None:
                partial = self._reserve(row, {*keep, row.sha256})
                if partial is None:
                    return None
                self._copy(source, partial, row, on_bytes)
                found = self._path(row)
                partial.replace(found)
                sync_folder(self.folder)
            else:
                on_bytes(row.bytes)
            return found

    def _path(self, row: ShardRow) -> Path:
        return self.folder / f"{row.sha256}{SUFFIX}"

    def _lock(self, name: str, timeout_s: float = -1) -> FileLock:
        return FileLock(self.folder / f"{name}.lock", timeout=timeout_s)

    @contextmanager
    def _turn(self, name: str, on_bytes: Callable[[int], None]) -> Iterator[None]:
        """The lock, waited for in such a way that who waits can be stopped."""
        lock = self._lock(name)
        while True:
            try:
                lock.acquire(timeout=0.2)
                break
            except Timeout:
                on_bytes(0)
        try:
            yield
        finally:
            lock.release()

    def _reserve(self, row: ShardRow, keep: Collection[str]) -> Path | None:
        """The file to copy into, for which there is room now; it counts with its whole size from here on."""
        partial = self.folder / f"{row.sha256}.{row.bytes}{PARTIAL}"
        with self._lock("room"):
            if not partial.exists():
                gone = evicted(self.held(), row.bytes, self.quota_bytes, keep)
                if gone is None or not all(self._remove(file.path) for file in gone):
                    return None
                with no_space_as_error(partial):
                    partial.touch()
        return partial

    def _remove(self, path: Path) -> bool:
        """Whether the file is gone; one that is being copied into stays."""
        if path.suffix == SUFFIX:
            path.unlink(missing_ok=True)
            return True
        try:
            with self._lock(_digest_of(path), timeout_s=0):
                path.unlink(missing_ok=True)
                return True
        except Timeout:
            return False

    def _copy(self, source: Path, partial: Path, row: ShardRow, on_bytes: Callable[[int], None]) -> None:
        resumed = partial.stat().st_size > 0
        try:
            with no_space_as_error(partial):
                whole = _copied(source, partial, row, on_bytes)
                if not whole and resumed:  # what a power cut left may be anything
                    partial.write_bytes(b"")
                    whole = _copied(source, partial, row, lambda n: None)
        except NoSpaceError:
            partial.unlink(missing_ok=True)
            raise
        except DamagedFile:
            raise damaged(source, "no regular file") from None
        except OSError as error:  # what is there stays for the next time, as after Ctrl-C
            raise unreadable(source, error) from None
        if not whole:
            partial.unlink(missing_ok=True)
            raise damaged(source, "its bytes are not those of its manifest")


@dataclass(frozen=True)
class Staged:
    """What came of a data set's shards."""

    copied: tuple[str, ...]
    there: tuple[str, ...]
    """Copies that had been made before."""
    no_room: tuple[str, ...]
    """Left where they are: the quota is used up."""


def stage(
    shards: Mapping[Path, ShardRow],
    cache: ShardCache,
    on_bytes: Callable[[int], None],
    on_copy: Callable[[str], None],
) -> Staged:
    """Copy the shards of a data set one after the other, and remove none of them for another.

    Args:
        shards: Where each is, and its row.
        cache: Where to.
        on_bytes: As of `ShardCache.stage`.
        on_copy: Called with the name of each shard whose copy is there.

    Raises:
        ShardError, StorageError, NoSpaceError: as `ShardCache.stage`; what is copied stays.
    """
    keep = {row.sha256 for row in shards.values()}
    copied, there, no_room = [], [], []
    for path, row in shards.items():
        if cache.find(row) is not None:
            there.append(path.name)
            on_bytes(row.bytes)
        elif cache.stage(path, row, keep, on_bytes) is not None:
            copied.append(path.name)
        else:
            no_room.append(path.name)
            continue
        on_copy(path.name)
    return Staged(tuple(copied), tuple(there), tuple(no_room))


def _copied(source: Path, partial: Path, row: ShardRow, on_bytes: Callable[[int], None]) -> bool:
    """Bring the copy to its end; whether it is what the manifest says."""
    hashed, done = hashlib.sha256(), 0
    with open_regular(source) as given, partial.open("r+b", buffering=0) as copy:
        while block := copy.read(_BLOCK_BYTES):
            hashed.update(block)
            done += len(block)
            on_bytes(len(block))
        given.seek(done)
        while block := given.read(_BLOCK_BYTES):
            view = memoryview(block)
            while view:
                view = view[copy.write(view) :]
            hashed.update(block)
            done += len(block)
            on_bytes(len(block))
        os.fsync(copy.fileno())
    return done == row.bytes and hashed.hexdigest() == row.sha256


def _digest_of(path: Path) -> str:
    return path.name.split(".")[0]
