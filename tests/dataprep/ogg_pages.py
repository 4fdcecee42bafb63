"""Pages of Ogg files, to be changed and written again with checksums that are right."""

import struct
from dataclasses import dataclass
from pathlib import Path


@dataclass
class OggPage:
    """A page; `position` is the number of samples up to its end."""

    head: bytes
    position: int
    rest: bytes


def ogg_pages(path: Path) -> list[OggPage]:
    """All pages of a file."""
    data, pages, at = path.read_bytes(), [], 0
    while at < len(data):
        table = data[at + 27 : at + 27 + data[at + 26]]
        end = at + 27 + len(table) + sum(table)
        (position,) = struct.unpack("<q", data[at + 6 : at + 14])
        pages.append(OggPage(data[at : at + 6], position, data[at + 14 : end]))
        at = end
    return pages


def with_pages(pages: list[OggPage]) -> bytes:
    """A file of these pages."""
    return b"".join(_bytes(page) for page in pages)


def _bytes(page: OggPage) -> bytes:
    data = page.head + struct.pack("<q", page.position) + page.rest[:8] + bytes(4) + page.rest[12:]
    return data[:22] + struct.pack("<I", _crc(data)) + data[26:]


def _crc(data: bytes) -> int:
    value = 0
    for byte in data:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ 0x04C11DB7 if value >> 31 else value << 1) & 0xFFFFFFFF
    return value
