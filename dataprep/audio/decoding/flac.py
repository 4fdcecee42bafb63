"""Flac files that go on behind what their header states: the number of the last frame tells."""

import mmap
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from dataprep.audio.decoding.tags import behind_id3, read_at, without_tags

_HEAD = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")
_HEAD_BYTES = 42
_LARGEST_FRAME_BYTES = 2**17
"""Where the header does not say; frames of 4,608 samples of two channels of 24 bits have 28 KiB."""
_TAGS_BYTES = 2**16
_PLACES = 8
_SYNC = re.compile(rb"\xff[\xf8\xf9]")
_BLOCK = {1: 192} | {k: 576 << (k - 2) for k in range(2, 6)} | {k: 256 << (k - 8) for k in range(8, 16)}


@dataclass(frozen=True)
class _StreamInfo:
    block_samples: int
    largest_frame_bytes: int
    samples: int


def stated_and_held(path: Path) -> tuple[int, int] | None:
    """Samples that the header states, and those that are there, where these are more; None where the header is right.

    A file that is cut is not told from one that is right: its decoder notices.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        info = _stream_info(read_at(file, behind_id3(file, 0), _HEAD_BYTES))
        if info is None or info.samples == 0:
            return None
        frame_bytes = info.largest_frame_bytes or _LARGEST_FRAME_BYTES
        tail = without_tags(read_at(file, max(0, size - frame_bytes - _TAGS_BYTES), frame_bytes + _TAGS_BYTES))
        last = _end_of_last_frame(tail, info)
        if last == info.samples and _rises(file, size, 2 * frame_bytes, info):
            return None
        # Rare enough to look at the whole file: cut, joined with another, or never finished.
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
            heads = [_stream_info(whole[at.start() : at.start() + _HEAD_BYTES]) for at in _HEAD.finditer(whole)]
    if len(heads) > 1:
        return info.samples, sum(head.samples for head in heads if head is not None)
    return (info.samples, last) if last is not None and last > info.samples else None


def _rises(file: BinaryIO, size: int, window_bytes: int, info: _StreamInfo) -> bool:
    """Whether the numbers of frames rise from place to place: they begin anew where another flac file begins."""
    found = []
    for k in range(1, _PLACES):
        window = read_at(file, size * k // _PLACES, window_bytes)
        ends = (_end_of_frame(window[at.start() : at.start() + 20], info) for at in _SYNC.finditer(window))
        found.append(next((end for end in ends if end is not None), None))
    ends_found = [end for end in found if end is not None]
    return ends_found == sorted(ends_found)


def _stream_info(head: bytes) -> _StreamInfo | None:
    if len(head) < _HEAD_BYTES or not _HEAD.match(head):
        return None
    samples = int.from_bytes(head[18:26], "big") & (2**36 - 1)
    return _StreamInfo(int.from_bytes(head[8:10], "big"), int.from_bytes(head[15:18], "big"), samples)


def _end_of_last_frame(tail: bytes, info: _StreamInfo) -> int | None:
    """The sample behind the last frame, by its header; None where no whole frame ends there."""
    for found in reversed(list(_SYNC.finditer(tail))):
        frame = tail[found.start() :]
        end = _end_of_frame(frame, info)
        # A header with the number that is expected is no chance; any other must prove that it is one.
        if end is not None and (end == info.samples or _crc(frame, 0x8005, 16) == 0):
            return end
    return None


def _end_of_frame(frame: bytes, info: _StreamInfo) -> int | None:
    """The sample behind a frame; None where the bytes are no header of one."""
    if len(frame) < 6 or frame[3] & 1 or frame[2] >> 4 == 0 or frame[2] & 15 == 15:
        return None
    size, rate = frame[2] >> 4, frame[2] & 15
    ones = next((k for k in range(8) if not frame[4] >> (7 - k) & 1), 8)
    more = max(0, ones - 1)
    number_end = 5 + more
    head_end = number_end + {6: 1, 7: 2}.get(size, 0) + {12: 1, 13: 2, 14: 2}.get(rate, 0)
    if ones in (1, 8) or len(frame) <= head_end or _crc(frame[: head_end + 1], 0x07, 8):
        return None
    number = frame[4] & (0x7F >> ones)
    for byte in frame[5:number_end]:
        number = number << 6 | byte & 0x3F
    coded = {6: 1, 7: 2}.get(size)
    block = int.from_bytes(frame[number_end : number_end + coded], "big") + 1 if coded else _BLOCK.get(size)
    if block is None:
        return None
    counts_samples = frame[1] & 1
    return (number if counts_samples else number * info.block_samples) + block


def _crc(data: bytes, polynomial: int, bits: int) -> int:
    value, top, mask = 0, 1 << (bits - 1), (1 << bits) - 1
    for byte in data:
        value ^= byte << (bits - 8)
        for _ in range(8):
            value = (value << 1 ^ polynomial if value & top else value << 1) & mask
    return value
