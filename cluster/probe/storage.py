"""What a folder can do: rates, and whether several PCs see one folder and not each its own."""

from __future__ import annotations

import fcntl
import os
import random
import stat
import time
from pathlib import Path

from cluster.probe.readings import Rates, Share

CROP_BYTES = 2**20
"""512 frames of 1,024 bins in two channels of one byte: a crop of `home-pretrain`."""
_BLOCK_BYTES = 4 * 2**20
LARGE, MARK, LOCK = "large.bin", "mark", "lock"


def make_folder(folder: Path, mark: str) -> None:
    """The first node's part: the folder with what the others look for. Raises OSError."""
    folder.mkdir(mode=0o755)
    write_renamed(folder / MARK, mark.encode())
    write_renamed(folder / LOCK, b"")


def check_share(folder: Path, mark: str, node: str, held: bool) -> Share:
    """Go through what runs need of a shared folder.

    Args:
        folder: Made by `make_folder` on the first node, as this node sees it.
        mark: What the first node wrote.
        node: Name of this node; no other node writes its files.
        held: The first node holds the lock while this is measured.
    """
    done = {"same_file": False, "renamed": False, "locked": False}
    mode = 0o700
    try:
        mode = stat.S_IMODE(folder.parent.stat().st_mode)
        done["same_file"] = (folder / MARK).read_bytes() == mark.encode()
        own = folder / f"own-{node}"
        for text in (b"one", b"two " + mark.encode()):
            write_renamed(own, text)
        done["renamed"] = own.read_bytes() == b"two " + mark.encode()
        done["locked"] = _locks(folder / f"lock-{node}")
        lock_seen = _is_locked(folder / LOCK) if held else None
    except OSError as error:
        return Share(str(folder), lock_seen=None, error=_reason(error), mode=mode, **done)
    return Share(str(folder), lock_seen=lock_seen, error=None, mode=mode, **done)


def hold_lock(path: Path) -> int:
    """Lock `path` until the returned descriptor is closed. Raises OSError; BlockingIOError where another has it."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        # The kind of lock that vr's own programs take. NFS carries it to the server; others keep it on this PC.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _locks(path: Path) -> bool:
    """Whether a lock on `path` keeps out whoever else opens it. A file system without locks raises, or lets both in."""
    write_renamed(path, b"")
    descriptor = hold_lock(path)
    try:
        return _is_locked(path)
    finally:
        os.close(descriptor)


def _is_locked(path: Path) -> bool:
    try:
        os.close(hold_lock(path))
    except BlockingIOError:
        return True
    return False


def write_renamed(path: Path, data: bytes) -> None:
    """Write beside `path` and rename over it, as every checkpoint is written. No two may write one `path` at a time."""
    draft = path.with_name(f".{path.name}.draft")
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def await_content(path: Path, old: bytes, timeout_s: float) -> float | None:
    """Seconds until `path` holds something else than `old`; None where that does not happen in time."""
    start = time.monotonic()
    while time.monotonic() - start < timeout_s:
        # As a program looks that waits for a checkpoint: by opening it.
        if path.read_bytes() != old:
            return time.monotonic() - start
        time.sleep(0.005)
    return None


def write_rate(path: Path, most_bytes: int, seconds: float) -> float:
    """Bytes a second of writing `path` to the disk itself; stops at either bound, leaves the file. Raises OSError."""
    block = os.urandom(_BLOCK_BYTES)  # a disk or a NAS that compresses must not shine
    written = 0
    start = time.monotonic()
    with path.open("wb") as file:
        while written < most_bytes and time.monotonic() - start < seconds:
            file.write(block)
            written += len(block)
        file.flush()
        os.fsync(file.fileno())
    return written / (time.monotonic() - start)


def read_rates(path: Path, seconds: float) -> tuple[float, float]:
    """Bytes a second of large reads in order and of crops in no order. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(descriptor).st_size
        if size < CROP_BYTES:
            raise OSError(f"only {size} bytes could be written")
        in_order = range(0, size - CROP_BYTES + 1, _BLOCK_BYTES)
        crops = [4096 * random.randrange((size - CROP_BYTES) // 4096 + 1) for _ in range(256)]
        return (
            _timed_reads(descriptor, in_order, _BLOCK_BYTES, seconds),
            _timed_reads(descriptor, crops, CROP_BYTES, seconds),
        )
    finally:
        os.close(descriptor)


def _timed_reads(descriptor: int, offsets: object, length: int, seconds: float) -> float:
    # What this PC has in memory would be read from there; the kernel lets go of clean pages when it is told so.
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    total = 0
    start = time.monotonic()
    for offset in offsets:  # type: ignore[attr-defined]
        total += len(os.pread(descriptor, length, offset))
        if time.monotonic() - start > seconds:
            break
    return total / max(time.monotonic() - start, 1e-9)


def disk_rates(folder: Path, most_bytes: int, seconds: float) -> Rates:
    """What the disk under `folder` does; the file is removed again."""
    path = folder / f".vr-doctor-{os.getpid()}.bin"
    try:
        write = write_rate(path, most_bytes, seconds)
        read, crops = read_rates(path, seconds)
    except OSError as error:
        return Rates(str(folder), None, None, None, _reason(error))
    finally:
        path.unlink(missing_ok=True)
    return Rates(str(folder), write, read, crops, None)


def shared_rates(large: Path, seconds: float) -> Rates:
    """Reads of the file that another node has written."""
    try:
        read, crops = read_rates(large, seconds)
    except OSError as error:
        return Rates(str(large.parent), None, None, None, _reason(error))
    return Rates(str(large.parent), None, read, crops, None)


def _reason(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"
