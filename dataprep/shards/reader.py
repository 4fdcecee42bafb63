"""Reading a shard: Arrow reads its headers, we read its frames, whole crops at a time, into given memory.

By explicit reads, since where a mapped page cannot be had (a share that went away, a disk's error, a file cut short)
the process ends (SIGBUS) instead of raising, and a page fault asks a share for a few KiB at a time. Only what is in
memory already, of a file on a disk of this machine, is copied from a map, since a read copies at 0.6 to 0.75 of
memory's rate (`python -m tests.bench reader`).
"""

import ctypes
import math
import mmap
import os
import stat
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import pyarrow as pa

from dataprep.shards.columns import COLUMNS
from dataprep.shards.writer import BATCH_FRAMES, check_schema, damaged, shard_schema, unreadable
from vr_core.specs.stft import StftSpec

_HEADER_BYTES = 4096
"""A record batch's header is some hundred bytes long."""
_REGION_BYTES = 256 * 1024
_SEEN_S = 1.0
_IN_MEMORY = frozenset({"tmpfs", "ramfs", "overlay"})
"""File systems of this machine that /proc/filesystems calls "nodev" as it does the shares."""


def on_local_disk(path: Path, mounted: Callable[[bool], Sequence[Any]] = psutil.disk_partitions) -> bool:
    """Whether the file `path` is on a disk or in the memory of this machine; what is not known is taken for a share.

    Args:
        path: the file.
        mounted: what is mounted where, as psutil says it.
    """
    real = Path(os.path.realpath(path))
    mounts = [mount for mount in mounted(True) if real.is_relative_to(mount.mountpoint)]
    if not mounts:
        return False
    # Of two mounts on one place the later one is seen.
    under = max(enumerate(mounts), key=lambda at: (len(at[1].mountpoint), at[0]))[1]
    return under.fstype in _IN_MEMORY or under in mounted(False)


class _Resident:
    """A file's pages as far as they are in memory, by a map of which no other page is touched.

    The kernel is asked once a second and region, since its answer takes a tenth of the time that copying takes.
    """

    def __init__(self, descriptor: int, bytes_: int) -> None:
        self._descriptor = descriptor
        self._bytes = bytes_
        self._map = mmap.mmap(descriptor, bytes_, prot=mmap.PROT_READ)
        self._address = np.frombuffer(self._map, np.uint8).ctypes.data
        self._seen_s = [-math.inf] * -(-bytes_ // _REGION_BYTES)
        # PyDLL: it takes microseconds, for which the interpreter is not worth letting go.
        self._mincore = ctypes.PyDLL(None).mincore
        self._mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]

    def copy(self, out: np.ndarray, offsets: Sequence[int]) -> bool:
        """Fill `out` `[column, byte]` from as many places of the file; False where some of it is not in memory."""
        count = out.shape[1]
        # A page beyond the end of a file that was cut short cannot be had either.
        size = min(self._bytes, os.fstat(self._descriptor).st_size)
        now_s = time.monotonic()
        for offset in offsets:
            if offset + count > size:
                return False
            first, last = offset // _REGION_BYTES, -(-(offset + count) // _REGION_BYTES)
            if min(self._seen_s[first:last]) < now_s - _SEEN_S:
                if not self._held(first * _REGION_BYTES, min(last * _REGION_BYTES, self._bytes)):
                    return False
                self._seen_s[first:last] = [now_s] * (last - first)
        # All columns in one call, since each call is a moment at which another reader may hold the interpreter.
        strides = (offsets[1] - offsets[0] if len(offsets) > 1 else 0, 1)
        np.copyto(out, np.ndarray(out.shape, np.uint8, self._map, offsets[0], strides))
        return True

    def _held(self, start: int, end: int) -> bool:
        """Whether all of these bytes are in memory; `start` is that of a page."""
        pages = ctypes.create_string_buffer(-(-(end - start) // mmap.PAGESIZE))
        if self._mincore(self._address + start, end - start, pages) != 0:
            return False
        return pages.raw.count(1) == len(pages)


def _resident(path: Path, descriptor: int) -> _Resident | None:
    """None where explicit reads must do."""
    facts = os.fstat(descriptor)
    # Of a file that one may only read, the kernel says that all of it is in memory, whatever is true (mincore(2)).
    reported = os.geteuid() in (0, facts.st_uid) or os.access(path, os.W_OK)
    if not (reported and facts.st_size and on_local_disk(path)):
        return None
    try:
        return _Resident(descriptor, facts.st_size)
    except OSError:  # a file system that maps nothing, or no room for more maps
        return None


class _Headers:
    """A shard's file as Arrow reads it: headers as they are, and of the frames only where they lie.

    Arrow says nothing about places in a file, but its buffers have addresses: a record batch is answered with memory
    that is reserved and, after the header, never touched, and what address stands for which place is written down.
    """

    closed = False

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._at = 0
        self._answers: list[tuple[int, int, int]] = []
        self.whole = True
        """Whether everything is read; else of anything long only the header."""

    def read(self, count: int = -1) -> "bytes | mmap.mmap":
        size = os.fstat(self._descriptor).st_size
        count = size - self._at if count < 0 else max(0, min(count, size - self._at))
        answer: bytes | mmap.mmap
        if self.whole or count <= _HEADER_BYTES:
            answer = os.pread(self._descriptor, count, self._at)
        else:
            answer = mmap.mmap(-1, count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            answer[:_HEADER_BYTES] = os.pread(self._descriptor, _HEADER_BYTES, self._at)
        if answer:
            self._answers.append((np.frombuffer(answer, np.uint8).ctypes.data, self._at, count))
        self._at += count
        return answer

    def place(self, address: int) -> int:
        """Place in the file of what Arrow holds at `address`."""
        answers = [answer for answer in self._answers if answer[0] <= address < answer[0] + answer[2]]
        start, place, _ = answers[-1]
        return place + address - start

    def forget(self) -> None:
        """Memory that Arrow has given back may get the address of another answer."""
        self._answers.clear()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        end = os.fstat(self._descriptor).st_size
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: end}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def close(self) -> None:
        """The descriptor is the shard's."""


class _Place(NamedTuple):
    """Where a record batch lies in the file."""

    offsets: tuple[int, ...]
    """Of each column, in the codec's order."""
    rows: int
    row_bytes: int
    """Of one column."""


class Shard:
    """A shard that is open. Threads may share it; a file that is replaced stays what it was when it was opened."""

    def __init__(self, path: Path, codec: str, stft: StftSpec, *, mapped: bool = True) -> None:
        """Open a shard.

        Args:
            path: the file.
            codec: the codec its manifest says.
            stft: the settings its manifest says.
            mapped: copy what is in memory from a map, where that can be.

        Raises:
            ShardError: missing, cut short, damaged, or of another version, codec or STFT.
            StorageError: the disk or the share failed.
        """
        self.path = path
        self._kinds = COLUMNS[codec]
        (self._dtype,) = {np.dtype(kind) for kind in self._kinds.values()}
        self._placing = threading.Lock()
        self._places: dict[int, _Place] = {}
        try:
            # At a pipe one would wait for somebody who writes.
            self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise unreadable(path, error) from None
        weakref.finalize(self, os.close, self._descriptor)
        if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            raise damaged(path, "no regular file")
        self._in_memory = _resident(path, self._descriptor) if mapped else None
        self._headers = _Headers(self._descriptor)
        try:
            self._reader = pa.ipc.open_file(pa.PythonFile(self._headers, mode="r"))
            found = self._reader.schema
            self.batches = self._reader.num_record_batches
        except (pa.ArrowException, OSError, ValueError) as error:
            raise unreadable(path, error) from None
        self._headers.whole = False
        check_schema(path, found, shard_schema(codec, stft))

    def columns(self, batch: int) -> dict[str, np.ndarray]:
        """Columns of one record batch, `[frame, channel*bin]` each.

        Raises:
            ShardError: the file has no such record batch, or is damaged.
        """
        place = self._place_of(batch)
        read = np.empty((len(self._kinds), place.rows, place.row_bytes // self._dtype.itemsize), self._dtype)
        self._read(read, place.offsets)
        return dict(zip(self._kinds, read, strict=True))

    def read_frames(self, first_batch: int, start_frame: int, frames: int, out: np.ndarray) -> None:
        """Copy consecutive frames of a stem.

        Args:
            first_batch: record batch in which the stem starts.
            start_frame: first frame wanted, counted from the stem's start.
            frames: how many.
            out: `[column, frame, ...]` for the codec's columns in their order, of their element type, with channel*bin
                numbers a frame, C-contiguous from the second axis on.

        Raises:
            ShardError: fewer frames there than asked for.
            StorageError: the disk or the share failed.
        """
        done = 0
        while done < frames:
            batch, row = divmod(start_frame + done, BATCH_FRAMES)
            place = self._place_of(first_batch + batch)
            count = min(place.rows - row, frames - done)
            if count <= 0:
                raise damaged(self.path, f"record batch {first_batch + batch} ends before frame {start_frame + done}")
            piece = out[:, done : done + count]
            if piece.dtype != self._dtype or piece.nbytes != len(self._kinds) * count * place.row_bytes:
                wanted = f"{len(self._kinds)} times {self._dtype}, {count * place.row_bytes} bytes"
                raise ValueError(f"{count} frames are {wanted}")
            self._read(piece, [offset + row * place.row_bytes for offset in place.offsets])
            done += count

    def _place_of(self, batch: int) -> _Place:
        held = self._places.get(batch)
        if held is not None:
            return held
        if not 0 <= batch < self.batches:
            raise damaged(self.path, f"record batch {batch} of {self.batches} was asked for")
        with self._placing:  # one reads headers at a time
            try:
                read = self._reader.get_batch(batch)
                rows, row_bytes = read.num_rows, self._reader.schema[0].type.list_size * self._dtype.itemsize
                offsets = []
                for array in read.columns if rows else ():
                    values = array.values.to_numpy(zero_copy_only=True)
                    offsets.append(self._headers.place(values.ctypes.data + array.offset * row_bytes))
                    del values, array
                del read
            except (pa.ArrowException, OSError, ValueError, IndexError) as error:
                raise unreadable(self.path, error) from None
            finally:
                self._headers.forget()
            held = self._places[batch] = _Place(tuple(offsets), rows, row_bytes)
        return held

    def _read(self, out: np.ndarray, offsets: Sequence[int]) -> None:
        """Fill `out` `[column, frame, ...]` from places of the file; the interpreter is free meanwhile."""
        flat = out.reshape(len(out), -1).view(np.uint8)
        if self._in_memory is not None and flat.size and self._in_memory.copy(flat, offsets):
            return
        for column, offset in zip(flat, offsets, strict=False):
            done = 0
            while done < len(column):
                try:
                    count = os.preadv(self._descriptor, [column[done:]], offset + done)  # type: ignore[list-item]
                except OSError as error:
                    raise unreadable(self.path, error) from None
                if not count:
                    raise damaged(self.path, "it was cut short while it was open")
                done += count
