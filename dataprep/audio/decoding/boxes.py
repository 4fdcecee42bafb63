"""Mp4, Matroska and caf files: rows of boxes, a kind and a length each, by which they are joined or cut."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from dataprep.audio.decoding.tags import read_at
from dataprep.audio.source import Part

MATROSKA = b"\x1a\x45\xdf\xa3"
CAF = b"caff"
_SEGMENT = 0x18538067
_CAF_HEAD_BYTES = 8
_EDITS_BYTES = 4
"""Before the samples of a caf file."""


@dataclass(frozen=True)
class BoxFacts:
    """How the boxes of a file lie."""

    parts: tuple[Part, ...] = ()
    """Files that follow one another, or the one whose length is put right; none where the file is as it says."""
    stated_share: float | None = None
    """Of the bytes of samples that there are, where the header states fewer."""
    missing_bytes: int = 0
    """By which the last box is longer than the file."""


def facts(path: Path) -> BoxFacts:
    """Walks over the heads of the outermost boxes; other files have none."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        if head.startswith(CAF):
            return _caf(file, size)
        if head.startswith(MATROSKA):
            boxes = list(_matroska(file, size))
            starts = [start for start, _, first in boxes if first]
            return BoxFacts(_parts(starts, size), missing_bytes=max([0, *(end - size for _, end, _ in boxes)]))
        if head[4:] == b"ftyp":
            return BoxFacts(_parts(_mp4_starts(file, size), size))
    return BoxFacts()


def _parts(starts: list[int], size: int) -> tuple[Part, ...]:
    if len(starts) < 2:
        return ()
    return tuple(Part(start, end) for start, end in zip(starts, [*starts[1:], size], strict=True))


def _mp4_starts(file: BinaryIO, size: int) -> list[int]:
    """Where files begin: what follows a `ftyp` up to the next is complete with a `moov`, or is no file."""
    starts: list[int] = []
    complete = True
    at = 0
    while at + 8 <= size:
        head = read_at(file, at, 16)
        length, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if kind == b"ftyp" and complete:
            starts.append(at)
            complete = False
        complete |= kind == b"moov"
        length = int.from_bytes(head[8:], "big") if length == 1 else length
        if length < 8:  # 0: up to the end of the file
            break
        at += length
    return starts if complete else starts[:-1]


def _matroska(file: BinaryIO, size: int) -> Iterator[tuple[int, int, bool]]:
    """Start and end of the outermost elements, and whether a file begins with it; up to one of unknown length."""
    at = 0
    while at + 12 <= size:
        head = read_at(file, at, 12)
        kind = int.from_bytes(head[:4], "big")
        width = 9 - head[4].bit_length()
        length = int.from_bytes(head[4 : 4 + width], "big") & (1 << (7 * width)) - 1
        if kind not in (int.from_bytes(MATROSKA, "big"), _SEGMENT) or width > 8 or length == (1 << (7 * width)) - 1:
            return
        end = at + 4 + width + length
        yield at, end, kind != _SEGMENT
        at = end


def _caf(file: BinaryIO, size: int) -> BoxFacts:
    at = _CAF_HEAD_BYTES
    while at + 12 <= size:
        head = read_at(file, at, 12)
        length = int.from_bytes(head[4:], "big", signed=True)
        end = at + 12 + length
        if head[:4] != b"data":
            if length < 0:
                break
            at = end
        elif length < 0:  # left open, up to the end of the file
            break
        elif end > size:
            return BoxFacts(missing_bytes=end - size)
        elif size - end < 16 or _is_caf_chunk(read_at(file, end, 12), size - end):
            break
        else:
            patch = at + 4, (size - at - 12).to_bytes(8, "big")
            return BoxFacts((Part(0, size, (patch,)),), max(0, length - _EDITS_BYTES) / (size - at - 12 - _EDITS_BYTES))
    return BoxFacts()


def _is_caf_chunk(head: bytes, left: int) -> bool:
    return all(0x20 <= byte < 0x7F for byte in head[:4]) and 0 <= int.from_bytes(head[4:], "big", signed=True) <= left
