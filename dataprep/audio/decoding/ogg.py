"""What the pages of an Ogg file tell: its codec, whether it is cut, and whether streams follow one another in it."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Literal

from dataprep.audio.source import Part

Codec = Literal["opus", "vorbis", "flac", "other"]
_CODECS: tuple[tuple[bytes, Codec], ...] = ((b"OpusHead", "opus"), (b"\x01vorbis", "vorbis"), (b"\x7fFLAC", "flac"))
_LARGEST_PAGE = 65_307
_HEAD_BYTES = 512
"""Read at once: more than the head of a page and its table, and less than most pages."""
_OPUS_HEADERS = 2
"""Packets before those with sound."""
_OPUS_FRAME_SAMPLES = (480, 960, 1920, 2880) * 3 + (480, 960) * 2 + (120, 240, 480, 960) * 4
"""At 48 kHz, by the upper five bits of a packet's first byte."""
_NO_POSITION = 2**64 - 1


@dataclass(frozen=True)
class OggFacts:
    """What the pages of an Ogg file tell."""

    codec: Codec
    """Of its first stream."""
    links: tuple[Part, ...]
    """Streams that follow one another, each with headers of its own; one in an ordinary file."""
    jumps: bool
    """Whether the positions of its Opus pages do not add up with their packets: libsndfile loses its way there."""


def facts(path: Path) -> OggFacts:
    """Walks over all pages, once for each state of a file."""
    state = path.stat()
    return _facts(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=256)
def _facts(path: Path, size: int, mtime_ns: int) -> OggFacts:
    starts: list[int] = []
    codec: Codec = "other"
    clock = _OpusClock()
    begins = False
    with path.open("rb", buffering=_HEAD_BYTES) as file:
        for at, page in _pages(file):
            # Several streams side by side begin together.
            if at == 0 or (page.begins and not begins):
                starts.append(at)
                clock.begin()
            begins = page.begins
            if at == 0:
                codec = next((codec for magic, codec in _CODECS if page.body.startswith(magic)), "other")
            if codec == "opus":
                clock.add(page)
    links = tuple(Part(start, end) for start, end in zip(starts, [*starts[1:], size], strict=True))
    return OggFacts(codec, links, clock.jumps)


@dataclass(frozen=True)
class _Page:
    begins: bool
    ends: bool
    position: int
    """Samples up to the end of the last packet that ends on it."""
    table: bytes
    """Lengths of the pieces of its packets; a packet ends with a piece of less than 255 bytes."""
    body: bytes
    """Of the first page, and of all pages where that is Opus, whose packets tell their lengths; else empty."""


def _pages(file: BinaryIO) -> Iterator[tuple[int, _Page]]:
    """Pages with their offsets, up to the first place where none is."""
    at = 0
    with_bodies = True
    while len(head := file.read(27)) == 27 and head.startswith(b"OggS"):
        table = file.read(head[26])
        body = file.read(sum(table)) if with_bodies else b""
        if at == 0:
            with_bodies = body.startswith(b"OpusHead")
        yield at, _Page(bool(head[5] & 2), bool(head[5] & 4), int.from_bytes(head[6:14], "little"), table, body)
        at += 27 + len(table) + sum(table)
        file.seek(at)


class _OpusClock:
    """Compares the positions of Opus pages with the lengths of their packets."""

    def __init__(self) -> None:
        self.jumps = False
        self.begin()

    def begin(self) -> None:
        """The next page begins a stream."""
        self._samples = self._packet_samples = self._packets = 0
        self._inside = False

    def add(self, page: _Page) -> None:
        """The next page."""
        at, ended = 0, False
        for length in page.table:
            if not self._inside:
                self._packet_samples = _opus_samples(page.body[at : at + length])
            self._inside = length == 255
            if not self._inside:
                self._packets += 1
                self._samples += self._packet_samples if self._packets > _OPUS_HEADERS else 0
                ended = True
            at += length
        # The last position of a stream cuts the end of its last packet off.
        if ended and page.position != _NO_POSITION and not page.ends and page.position != self._samples:
            self.jumps = True


def _opus_samples(packet: bytes) -> int:
    """How long a packet is, by its first two bytes; an empty one is lost."""
    if not packet:
        return 0
    frames = (1, 2, 2, packet[1] & 63 if len(packet) > 1 else 0)[packet[0] & 3]
    return _OPUS_FRAME_SAMPLES[packet[0] >> 3] * frames


def ends_inside_page(path: Path) -> bool:
    """Whether an Ogg file stops before the end that its last page states: Ogg has no length in its header."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - _LARGEST_PAGE))
        tail = file.read()
    at = tail.rfind(b"OggS")
    if at < 0:
        return False
    segments = tail[at + 26] if at + 26 < len(tail) else 255
    table = tail[at + 27 : at + 27 + segments]
    return len(table) < segments or at + 27 + segments + sum(table) > len(tail)
