"""Shards: Arrow IPC files of frames, one row a frame, written whole or not at all.

Uncompressed record batches of at most 4,096 rows; every column is a fixed-size list of channel*bin numbers, so a
column of a record batch is one block of bytes and a crop is one slice of it, or two where it crosses a boundary. Every
stem starts a record batch: frame r of a stem is row r % 4096 of record batch `first_batch + r // 4096`. All stems of a
shard have one codec, so that pretraining, which reads mixtures, never touches a page of another stem.
"""

import errno
import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dataprep.errors import NoSpaceError, ShardError
from dataprep.shards.columns import CHANNELS, COLUMNS
from vr_core.config import Spec, plain
from vr_core.errors import VrError, command
from vr_core.files import storage_failure, sync_folder
from vr_core.small_files import DamagedFile, open_regular
from vr_core.specs.stft import StftSpec

SCHEMA_VERSION = 1
BATCH_FRAMES = 4096
SUFFIX = ".arrow"
PARTIAL = ".partial"
_ARROW_TYPES = {"uint8": pa.uint8(), "float16": pa.float16()}


class ShardRow(Spec):
    """What the manifest knows about a shard's file."""

    codec: str
    bytes: int
    rows: int
    sha256: str


def shard_schema(codec: str, stft: StftSpec) -> pa.Schema:
    """Arrow schema of a shard, with what it must be read with in its metadata."""
    width = CHANNELS * stft.bins
    fields = [
        pa.field(name, pa.list_(pa.field("item", _ARROW_TYPES[kind], nullable=False), width), nullable=False)
        for name, kind in COLUMNS[codec].items()
    ]
    facts = {"vr.schema_version": str(SCHEMA_VERSION), "vr.codec": codec, "vr.stft": json.dumps(plain(stft))}
    return pa.schema(fields, metadata=facts)


class _HashedFile:
    """A file that Arrow writes to, hashed on the way; unbuffered, so that closing it never meets a full disk."""

    def __init__(self, path: Path) -> None:
        # Not by way of a link: in a shared folder somebody else may have laid one.
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = open(os.open(path, flags, 0o666), "wb", buffering=0)  # noqa: SIM115 - closed by `close`
        self._hash = hashlib.sha256()
        self.bytes = 0

    @property
    def closed(self) -> bool:
        return self._file.closed

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            done += self._file.write(view[done:])
        self._hash.update(view)
        self.bytes += len(view)
        return len(view)

    def tell(self) -> int:
        return self.bytes

    def flush(self) -> None:
        """Nothing waits: every write has gone to the operating system."""

    def sync(self) -> str:
        """To the disk; the SHA-256 of what was written."""
        os.fsync(self._file.fileno())
        return self._hash.hexdigest()

    def close(self) -> None:
        self._file.close()

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False


class ShardWriter:
    """Writes one shard; the file has its name only once `close` has returned.

    Use as a context manager: leaving it by an exception removes what was written.
    """

    def __init__(self, path: Path, codec: str, stft: StftSpec) -> None:
        """Start `path` (`*.arrow`) for stems of one codec."""
        self.path = path
        self.codec = codec
        self.batches = 0
        self.rows = 0
        self._schema = shard_schema(codec, stft)
        self._partial = path.with_name(path.name + PARTIAL)
        with no_space_as_error(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = _HashedFile(self._partial)
            try:
                self._writer = pa.ipc.new_file(pa.PythonFile(self._file, mode="w"), self._schema)
            except BaseException:
                self.abort()
                raise

    @property
    def bytes(self) -> int:
        """Written so far."""
        return self._file.bytes

    def write(self, columns: Mapping[str, np.ndarray]) -> None:
        """Append one record batch.

        Args:
            columns: `{column: [frame, channel*bin]}`, C-contiguous, at most 4,096 frames.

        Raises:
            NoSpaceError: the disk is full; the unfinished file is gone.
        """
        rows = len(next(iter(columns.values())))
        if not 0 < rows <= BATCH_FRAMES:
            raise ValueError(f"a record batch holds 1 to {BATCH_FRAMES} frames, got {rows}")
        arrays = []
        for field in self._schema:
            flat = pa.array(columns[field.name].reshape(-1), field.type.value_type)
            arrays.append(pa.FixedSizeListArray.from_arrays(flat, type=field.type))
        try:
            with no_space_as_error(self.path):
                self._writer.write_batch(pa.record_batch(arrays, schema=self._schema))
        except BaseException:
            self.abort()
            raise
        self.batches += 1
        self.rows += rows

    def close(self) -> ShardRow:
        """Finish the file, put it on the disk and give it its name.

        Raises:
            NoSpaceError: the disk is full; the unfinished file is gone.
        """
        try:
            with no_space_as_error(self.path):
                self._writer.close()
                digest = self._file.sync()
                self._file.close()
                self._partial.replace(self.path)
                sync_folder(self.path.parent)
        except BaseException:
            self.abort()
            raise
        return ShardRow(codec=self.codec, bytes=self._file.bytes, rows=self.rows, sha256=digest)

    def abort(self) -> None:
        """Stop without a trace; harmless after `close`."""
        self._file.close()
        self._partial.unlink(missing_ok=True)

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.abort()


def checksum(columns: Mapping[str, np.ndarray]) -> int:
    """CRC-32 of a record batch's columns, one after the other."""
    crc = 0
    for values in columns.values():
        crc = zlib.crc32(memoryview(values).cast("B"), crc)  # type: ignore[arg-type]
    return crc


def verify(path: Path, row: ShardRow) -> None:
    """Read a shard's every byte and compare with its manifest.

    Raises:
        ShardError: missing, of another length, or with other bytes.
        StorageError: the disk or the share failed.
    """
    try:
        with open_regular(path) as file:
            found = os.fstat(file.fileno()).st_size
            if found != row.bytes:
                raise damaged(path, f"{found:,} bytes long, its manifest says {row.bytes:,}")
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except DamagedFile:
        raise damaged(path, "no regular file") from None
    except OSError as error:
        raise unreadable(path, error) from None
    if digest != row.sha256:
        raise damaged(path, "its SHA-256 is not the one in its manifest")


@contextmanager
def no_space_as_error(path: Path) -> Iterator[None]:
    """Turns a full disk or quota into `NoSpaceError` that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise NoSpaceError(
            f"{path}: no space left on the disk; make room or choose another folder, then run the same command again: "
            "what is finished is kept"
        ) from None


def check_schema(path: Path, found: pa.Schema, wanted: pa.Schema) -> None:
    """Raise `ShardError` where the schema that was found is not the one that is wanted."""
    facts, expected = found.metadata or {}, wanted.metadata
    for key, what in ((b"vr.schema_version", "schema version"), (b"vr.codec", "codec"), (b"vr.stft", "STFT settings")):
        if key not in facts:
            raise ShardError(f"{path}: is not a shard of this project (no {what} in it); give a folder made by vr data")
        if facts[key] != expected[key]:
            raise ShardError(
                f"{path}: has {what} {facts[key].decode(errors='replace')}, expected {expected[key].decode()}; "
                "prepare the music again into a new folder"
            )
    if not found.equals(wanted):
        raise damaged(path, "its columns are not those of its codec")


def unreadable(path: Path, error: Exception) -> VrError:
    """What to raise where opening or reading a shard ended in `error`."""
    if isinstance(error, FileNotFoundError):
        return ShardError(f"{path}: missing; put it back, or: {command('data verify', path.parent, '--repair')}")
    failed = storage_failure(path, error) if isinstance(error, OSError) else None
    return failed or damaged(path, " ".join(str(error).split()))


def damaged(path: Path, reason: str) -> ShardError:
    """What to raise where a shard is not what it should be."""
    return ShardError(
        f"{path}: damaged ({reason}); prepare the songs that are hit again: "
        f"{command('data verify', path.parent, '--repair')}"
    )
