"""Wav, aiff and au files whose header states fewer samples than there are, or that have another file behind them.

Wav and aiff are rows of chunks, a name and a length each. A chunk of samples that is followed by other chunks is as
long as it says. One that is followed by something else goes on: its writer was stopped before it filled in the length.
"""

import codecs
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from dataprep.audio.decoding.tags import read_at
from dataprep.audio.source import Part

UNKNOWN_LENGTHS = (0x7FFFF000, 0x7FFFFFFF, 0xFFFFFFFF)
"""What programs that write to a pipe leave in a wav header's length, since they cannot go back to fill it in."""
_FILE = re.compile(rb"(?:RIFF|RF64)....WAVE|FORM....AIF[FC]", re.DOTALL)
_AU = b".snd"
_CHUNK_NAME = re.compile(rb"[ -~]{4}")
_TAGS = (b"TAG", b"APETAGEX", b"ID3")
_LEFT_OVER = 16
"""So few bytes behind the samples are no sound."""
_PADDING = 8192
"""So many zeros fill up a block of a disk."""
_CLOSING = re.compile(
    rb"LIST|id3 |ID3 |bext|iXML|axml|chna|cart|cue |plst|smpl|inst|acid|strc|fact|PEAK|levl|DISP|umid|MD5 |_PMX|JUNK"
    rb"|junk|FLLR|PAD |NAME|AUTH|ANNO|COMT|APPL|MARK|INST|MIDI|AESD|CHAN|basc|trns"
)
"""Chunks that stand behind samples."""
_CLOSING_BYTES = 2**18
_MP3 = 0x55
"""What a wav's header calls mp3."""


@dataclass(frozen=True)
class Coded:
    """How the samples of a wav are coded, and how long they are."""

    tag: int
    stated_bytes: int
    held_bytes: int

    @property
    def is_mp3(self) -> bool:
        """Whether they are mp3, which libsndfile's own decoder stops in the middle of."""
        return self.tag == _MP3

    @property
    def is_cut(self) -> bool:
        """Whether the header promises more than the file holds."""
        return self.stated_bytes > self.held_bytes and self.stated_bytes not in UNKNOWN_LENGTHS


@dataclass(frozen=True)
class _Samples:
    """Where a file's samples lie, and where it states how many bytes they are."""

    start: int
    end: int
    stated_at: int
    stated_bytes: int
    order: Literal["little", "big"]
    frames: tuple[int, int] | None = None
    """Of an aiff: where the number of samples is stated, and how many."""


def parts(path: Path) -> tuple[Part, ...]:
    """The pieces in which a wav, aiff or au file is read whole; none where its header is right, or it is none."""
    size = path.stat().st_size
    found: list[Part] = []
    with path.open("rb") as file:
        if file.read(4) == _AU:
            return _parts_of_au(file, size)
        base = 0
        while (samples := _find_samples(file, base, size)) is not None:
            following = _file_behind(file, samples, size)
            if following is None and _goes_on(file, samples.end, size):
                found.append(_mended(base, samples, _end_of_samples(file, samples.end, size)))
                break
            end = size if following is None else following
            found.append(Part(base, end))
            base = end
        else:
            if found:
                found[-1] = Part(found[-1].start, size)
    return tuple(found) if len(found) > 1 or any(part.patches for part in found) else ()


def coded(path: Path) -> Coded | None:
    """How the samples of a wav are coded; None where it is none, or has no samples."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if not file.read(12).startswith((b"RIFF", b"RF64")):
            return None
        at, tag = 12, 0
        while len(head := read_at(file, at, 10)) == 10 and _CHUNK_NAME.fullmatch(head[:4]):
            length = int.from_bytes(head[4:8], "little")
            if head.startswith(b"fmt "):
                tag = int.from_bytes(head[8:], "little")
            elif head.startswith(b"data"):
                return Coded(tag, length, min(length, size - at - 8))
            at += 8 + length + length % 2
    return None


def _parts_of_au(file: BinaryIO, size: int) -> tuple[Part, ...]:
    """An au file has no chunks: all that is behind its header is sound."""
    start, stated = (int.from_bytes(file.read(4), "big") for _ in range(2))
    if stated in UNKNOWN_LENGTHS or start + stated + _LEFT_OVER > size:
        return ()
    length = min(size - start, UNKNOWN_LENGTHS[-1])
    return (Part(0, size, ((8, length.to_bytes(4, "big")),)),)


def _find_samples(file: BinaryIO, base: int, size: int) -> _Samples | None:
    """The chunk of samples of the file that starts at `base`; None where there is none, or its length is left open."""
    file.seek(base)
    head = file.read(12)
    if not _FILE.fullmatch(head):
        return None
    order: Literal["little", "big"] = "big" if head.startswith(b"FORM") else "little"
    at = base + 12
    long: tuple[int, int] | None = None
    frames: tuple[int, int] | None = None
    while at + 8 <= size:
        file.seek(at)
        name, length = file.read(4), int.from_bytes(file.read(4), order)
        if not _CHUNK_NAME.fullmatch(name):  # no more chunks; a walk through zeros would take steps of 8 bytes
            return None
        if name == b"ds64":  # of a file of more than 4 GiB
            file.seek(at + 16)
            long = at + 16, int.from_bytes(file.read(8), order)
        elif name == b"COMM":
            file.seek(at + 10)
            frames = at + 10, int.from_bytes(file.read(4), order)
        elif name in (b"data", b"SSND"):
            stated_at, stated = (at + 4, length) if long is None or length != 0xFFFFFFFF else long
            if stated in UNKNOWN_LENGTHS or at + 8 + stated > size:
                return None
            return _Samples(at + 8, at + 8 + stated, stated_at, stated, order, frames)
        at += 8 + length + length % 2
    return None


def _file_behind(file: BinaryIO, samples: _Samples, size: int) -> int | None:
    """Where another file begins, behind the samples and the chunks that follow them."""
    at = samples.end
    while at + 12 <= size:
        starts = dict.fromkeys((at + at % 2, at))  # chunks start at even offsets, which some writers forget
        heads = {start: read_at(file, start, 12) for start in starts}
        if (found := next((start for start, head in heads.items() if _FILE.match(head)), None)) is not None:
            return found
        ends = [
            start + 8 + int.from_bytes(head[4:8], samples.order)
            for start, head in heads.items()
            if _CHUNK_NAME.fullmatch(head[:4])
        ]
        if not ends:
            return None
        at = ends[0]
    return None


def _goes_on(file: BinaryIO, at: int, size: int) -> bool:
    """Whether what follows a chunk of samples that ends at `at` are more of them."""
    rest = read_at(file, at, _PADDING + 1)
    if len(rest) < _LEFT_OVER or (len(rest) <= _PADDING and not any(rest)) or _is_text(rest):
        return False
    for pad in (at % 2, 0):
        if _CLOSING.match(rest, pad):  # whatever its length is: some writers miscount it, and a copy may lack an end
            return False
        name, length = rest[pad : pad + 4], rest[pad + 4 : pad + 8]
        least = min(int.from_bytes(length, "little"), int.from_bytes(length, "big"))
        if rest[pad:].startswith(_TAGS) or (_CHUNK_NAME.fullmatch(name) and at + pad + 8 + least <= size + 1):
            return False
    return True


def _is_text(rest: bytes) -> bool:
    """Whether bytes can be printed, as no sound can; the last letter may be cut, and zeros may follow."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(rest.rstrip(b"\0"))
    except UnicodeDecodeError:
        return False
    return bool(text) and "".join(text.split()).isprintable()


def _end_of_samples(file: BinaryIO, start: int, size: int) -> int:
    """Where samples end that go on behind what is stated: before the chunks that reach exactly to the file's end."""
    tail_at = max(start, size - _CLOSING_BYTES)
    file.seek(tail_at)
    tail = file.read()
    end = size - 128 if tail[-128:].startswith(b"TAG") else size
    for found in _CLOSING.finditer(tail):
        at = tail_at + found.start()
        for order in ("little", "big"):
            if _reaches(tail, found.start(), end - tail_at, order):
                return at
    return end


def _reaches(tail: bytes, at: int, end: int, order: Literal["little", "big"]) -> bool:
    """Whether the chunks from `at` on end at `end`, but for a byte that the last one lacks."""
    while at + 8 <= end and _CHUNK_NAME.fullmatch(tail[at : at + 4]):
        length = int.from_bytes(tail[at + 4 : at + 8], order)
        if at + 8 + length in (end, end + 1):
            return True
        at += 8 + length + length % 2
    return at == end


def _mended(base: int, samples: _Samples, end: int) -> Part:
    """The file from `base` to `end`, with a header that states as much."""
    width = 8 if samples.order == "little" and samples.stated_at != samples.start - 4 else 4
    length = min(end - samples.start, 2 ** (8 * width) - 1)
    patches = [(samples.stated_at - base, length.to_bytes(width, samples.order))]
    if samples.frames is not None and samples.frames[1] and samples.stated_bytes > 8:
        at, frames = samples.frames
        frame_bytes = max(1, round((samples.stated_bytes - 8) / frames))
        patches.append((at - base, ((length - 8) // frame_bytes).to_bytes(4, samples.order)))
    return Part(base, end, tuple(patches))
