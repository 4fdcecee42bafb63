"""Where the streams of an mp3 file begin and end: files are joined by writing one behind the other.

A stream starts with a tag or a frame. Its first frame may be no sound but a Xing (or Info, or VBRI) header, which
states how many frames and bytes follow. Where it states bytes, nothing of the sound is read here.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from dataprep.audio.decoding.tags import behind_id3, behind_tags, read_at
from dataprep.audio.source import Part

_KBITS = {
    3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""Bit rates of layer III by their index, of MPEG-1 and of MPEG-2 (and 2.5)."""
_RATES_HZ = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8000)}
_SLACK_FRAMES = 4
"""Xing headers count themselves or not, and the encoder's padding or not."""
_MOST_JUNK = 2048
"""Bytes behind the last stream that are no frame: too few to be sound.

More are none either where the stream has all the frames that its header states, and they hold no two frames."""
_BLOCK_BYTES = 2**20
_TWO_FRAMES_BYTES = 4096


@dataclass(frozen=True)
class Mp3Facts:
    """How an mp3 file is made up."""

    parts: tuple[Part, ...] = ()
    """Streams that follow one another, or one that junk follows or whose header is put right; none in other files."""
    stated_samples: int | None = None
    """Of the first stream, where it has more than its header states."""


@dataclass(frozen=True)
class _Frame:
    bytes: int
    samples: int
    same: int
    """What all frames of a stream have in common: version, layer and rate."""


@dataclass(frozen=True)
class _Stream:
    end: int
    """Behind its last frame."""
    exceeded_samples: int | None = None
    """What its header states, where there are more."""
    whole: bool = False
    """Whether it has all the frames that its header states."""
    patches: tuple[tuple[int, bytes], ...] = ()
    """What its header should state, for a decoder that leaves out what is behind: offset in the file, bytes."""


@dataclass(frozen=True)
class _Xing:
    """Numbers are of all frames but this one, and of all bytes; offsets are in the frame."""

    frames_at: int | None
    frames: int | None
    bytes_at: int | None
    bytes: int | None


def facts(path: Path) -> Mp3Facts:
    """Follows the headers from stream to stream."""
    size = path.stat().st_size
    parts: list[Part] = []
    stated: int | None = None
    whole = False
    with path.open("rb") as file:
        at = behind = 0
        while (stream := _stream(file, at, size)) is not None:
            patches = tuple((offset - at, data) for offset, data in stream.patches)
            parts.append(Part(at, stream.end, patches))
            stated = stream.exceeded_samples if len(parts) == 1 else stated
            at = behind = behind_tags(file, stream.end, size)
            whole = stream.whole
        few = size - behind <= _MOST_JUNK
        junk = bool(parts) and behind < size and (few or (whole and not _holds_frames(file, behind)))
    if len(parts) < 2 and not junk and stated is None:
        return Mp3Facts()
    if not junk:  # what follows the last stream are tags, or sound that is damaged
        parts[-1] = replace(parts[-1], end=size)
    return Mp3Facts(tuple(parts), stated)


def begins(head: bytes) -> bool:
    """Whether bytes start with two frames."""
    frame = _frame(head)
    following = _frame(head[frame.bytes :]) if frame else None
    return frame is not None and following is not None and following.same == frame.same


def has_header(path: Path, start: int = 0) -> bool:
    """Whether the first frame of a stream states the number of frames."""
    with path.open("rb") as file:
        file.seek(behind_id3(file, start))
        return re.search(rb"Xing|Info|VBRI", file.read(4096)) is not None


def _stream(file: BinaryIO, start: int, size: int) -> _Stream | None:
    """The stream that begins at `start`; None where none does."""
    first = behind_id3(file, start)
    frame = _frame(read_at(file, first, 4))
    if frame is None or not _followed(file, first, frame, size):
        return None
    xing = _xing(read_at(file, first, frame.bytes))
    if xing is not None and xing.bytes is not None:
        end = first + xing.bytes
        if end >= size or _begins(file, behind_tags(file, end, size), size):
            return _Stream(min(end, size))
    at, frames = first, 0
    while (found := _frame(read_at(file, at, 4))) is not None and found.same == frame.same:
        if frames and _xing(read_at(file, at, found.bytes)) is not None:
            break
        at, frames = at + found.bytes, frames + 1
    end = min(at, size)
    if xing is None or xing.frames is None:
        return _Stream(end)
    if frames - 1 <= xing.frames + _SLACK_FRAMES:
        return _Stream(end, whole=frames - 1 >= xing.frames - _SLACK_FRAMES)
    numbers = ((xing.frames_at, frames - 1), (xing.bytes_at, end - first))
    patches = tuple((first + at, number.to_bytes(4, "big")) for at, number in numbers if at is not None)
    return _Stream(end, xing.frames * frame.samples, True, patches)


def _holds_frames(file: BinaryIO, start: int) -> bool:
    """Whether two frames follow each other anywhere behind `start`: then it is damaged sound, and no junk."""
    at = start
    while block := read_at(file, at, _BLOCK_BYTES + _TWO_FRAMES_BYTES):
        if any(
            begins(block[k.start() : k.start() + _TWO_FRAMES_BYTES]) for k in re.finditer(rb"\xff[\xe2-\xff]", block)
        ):
            return True
        at += _BLOCK_BYTES
    return False


def _begins(file: BinaryIO, at: int, size: int) -> bool:
    """Whether a stream begins at `at`, or the file ends there."""
    if at >= size:
        return True
    first = behind_id3(file, at)
    frame = _frame(read_at(file, first, 4))
    return frame is not None and _followed(file, first, frame, size)


def _followed(file: BinaryIO, at: int, frame: _Frame, size: int) -> bool:
    """Whether what looks like a frame is one: another, a tag or the file's end follows."""
    after = at + frame.bytes
    if after >= size:
        return True
    found = read_at(file, after, 4)
    following = _frame(found)
    return (following is not None and following.same == frame.same) or found[:3] in (b"TAG", b"APE", b"ID3", b"LYR")


def _frame(head: bytes) -> _Frame | None:
    """A frame of layer III by its first four bytes."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return None
    version, rate, kbits = head[1] >> 3 & 3, head[2] >> 2 & 3, head[2] >> 4
    if version == 1 or rate == 3 or kbits in (0, 15):
        return None
    factor = 144_000 if version == 3 else 72_000
    length = factor * _KBITS[3 if version == 3 else 2][kbits] // _RATES_HZ[version][rate] + (head[2] >> 1 & 1)
    return _Frame(length, 1152 if version == 3 else 576, version << 2 | rate)


def _xing(frame: bytes) -> _Xing | None:
    """What a Xing, Info or VBRI header in a frame states."""
    if frame[36:40] == b"VBRI":
        return _Xing(50, int.from_bytes(frame[50:54], "big"), 46, int.from_bytes(frame[46:50], "big"))
    mono = frame[3] >> 6 == 3
    at = 4 + ((17 if mono else 32) if frame[1] & 8 else (9 if mono else 17))
    if frame[at : at + 4] not in (b"Xing", b"Info") or len(frame) < at + 8:  # a file may end in the middle of it
        return None
    frames_at = at + 8 if frame[at + 7] & 1 else None
    bytes_at = (at + 8 if frames_at is None else at + 12) if frame[at + 7] & 2 else None
    frames, length = (None if k is None else int.from_bytes(frame[k : k + 4], "big") for k in (frames_at, bytes_at))
    return _Xing(frames_at, frames, bytes_at, length or None)
