"""Tags before and behind the sound of a file: ID3, APE, Lyrics3."""

import re
from typing import BinaryIO

_LARGEST_GAP = 4096
"""Zeros between two streams."""


def behind_tags(file: BinaryIO, at: int, size: int) -> int:
    """Behind the tags that end a stream."""
    while at < size:
        head = read_at(file, at, 32)
        if head.startswith(b"TAG"):
            at += 128
        elif head.startswith(b"APETAGEX"):
            has_header, behind_header = head[23] & 0x80, int.from_bytes(head[12:16], "little")
            at += 32 + (behind_header if has_header else 0)
        elif head.startswith(b"LYRICSBEGIN"):
            found = re.search(rb"LYRICS200|LYRICSEND", read_at(file, at, 2**17))
            if found is None:
                return at
            at += found.end()
        elif head and not any(head):
            zeros = read_at(file, at, _LARGEST_GAP)
            at += len(zeros) - len(zeros.lstrip(b"\0"))
            if not read_at(file, at, 1).strip(b"\0"):
                return at
        else:
            return at
    return size


def behind_id3(file: BinaryIO, at: int) -> int:
    """Behind the tags at `at` that begin a stream."""
    head = read_at(file, at, 10)
    while head[:3] == b"ID3" and len(head) == 10:
        at += 10 + sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
        at += 10 if head[5] & 0x10 else 0
        head = read_at(file, at, 10)
    return at


def without_tags(tail: bytes) -> bytes:
    """The end of a file without the tags that end it."""
    while True:
        if tail[-128:].startswith(b"TAG"):
            tail = tail[:-128]
        elif tail[-32:].startswith(b"APETAGEX"):
            has_header, length = tail[-9] & 0x80, int.from_bytes(tail[-20:-16], "little")
            tail = tail[: -length - (32 if has_header else 0)]
        else:
            return tail


def read_at(file: BinaryIO, at: int, count: int) -> bytes:
    """Up to `count` bytes from `at` on."""
    file.seek(at)
    return file.read(count)
