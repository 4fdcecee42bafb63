"""Files that something lies behind: their pieces, tags, and how they are read."""

import io
import struct
from pathlib import Path

import numpy as np

from dataprep.audio.decoders import AudioSource
from dataprep.audio.files import open_audio, probe
from tests.dataprep.sounds import music

SIGNAL = music(60_000)
OTHER = music(40_000, seed=1)
BOTH = np.concatenate([SIGNAL, OTHER], axis=1)
STATED = 20_000
ID3V1 = b"TAG" + bytes(125)
ID3V2 = b"ID3\4\0\0\0\0\0\x20" + bytes(32)
APE = b"x" * 20 + b"APETAGEX" + struct.pack("<IIII", 2000, 52, 1, 0) + bytes(8)


def read(path: Path) -> tuple[np.ndarray, list[str]]:
    notes: list[str] = []
    blocks = list(open_audio(AudioSource(path), probe(AudioSource(path)).sample_rate_hz, notes=notes))
    return np.concatenate(blocks, axis=1), notes


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


class CountedPath(type(Path())):
    """A path that counts what is read of its file, and how often."""

    reads = bytes_read = 0

    def open(self, mode="r", buffering=-1, **options):
        counter = self

        class Counted(io.FileIO):
            def readinto(self, buffer) -> int:
                count = super().readinto(buffer)
                counter.reads, counter.bytes_read = counter.reads + 1, counter.bytes_read + count
                return count

        if mode != "rb":
            return super().open(mode, buffering, **options)
        return io.BufferedReader(Counted(self), buffering if buffering > 0 else io.DEFAULT_BUFFER_SIZE)
