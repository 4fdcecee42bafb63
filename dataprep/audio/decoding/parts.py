"""A part of a file as a file of its own, some bytes of its header put right."""

import io
from pathlib import Path
from typing import BinaryIO, cast

from dataprep.audio.source import Part


def open_part(path: Path, part: Part) -> BinaryIO:
    """The part, open for reading.

    Raises:
        OSError: the file cannot be opened.
    """
    return cast(BinaryIO, io.BufferedReader(_PartFile(path, part), 2**16))


class _PartFile(io.RawIOBase):
    def __init__(self, path: Path, part: Part) -> None:
        self._file = path.open("rb", buffering=0)
        self._part = part
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._part.end - self._part.start}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        most = max(0, min(len(view), self._part.end - self._part.start - self._at))
        self._file.seek(self._part.start + self._at)
        count = self._file.readinto(view[:most]) or 0
        for offset, data in self._part.patches:
            for k, byte in enumerate(data, offset - self._at):
                if 0 <= k < count:
                    view[k] = byte
        self._at += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()
