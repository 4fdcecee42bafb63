"""libsndfile: wav, aiff, flac and Ogg Vorbis, and rarer kinds that FFmpeg does not know."""

import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile

from dataprep.audio.decoding import iff
from dataprep.audio.decoding.parts import open_part
from dataprep.audio.source import AudioInfo, AudioSource, Part, one_line
from dataprep.errors import (
    AudioError,
    EmptyAudioError,
    FullScaleError,
    TruncatedAudioError,
    UnreadableAudioError,
)

READ_SAMPLES = 2**17
UNKNOWN_SAMPLES = 2**62
"""FLAC written to a pipe does not state its length: libsndfile then says 2^63 - 1, and fails to read it."""
LOUDEST = 100.0
"""No float file with full scale 1 goes 40 dB beyond it; one at the scale of 16-bit integers does."""
_W64_CHUNK_HEAD_BYTES = 24
"""Which the length of a chunk counts."""
_SPOTS = 16
_SPOT_SAMPLES = 4096


def probe(source: AudioSource, parts: tuple[Part, ...] = ()) -> AudioInfo:
    """What the header says; of a wav or aiff file, also what is behind it.

    `parts` are pieces to be read one after the other, where the file is known to have some.

    Raises:
        UnreadableAudioError, TruncatedAudioError, EmptyAudioError, FullScaleError: as `dataprep.audio.files.probe`.
    """
    parts = parts or iff.parts(source.path)
    try:
        with _opened(source.path, parts[0] if parts else None) as file:
            rate, channels, frames = file.samplerate, file.channels, file.frames
            kind, log = f"{file.format} {file.subtype}", file.extra_info
        for part in parts[1:]:
            with _opened(source.path, part) as file:
                _refuse_change(source, file, rate, channels)
                frames += file.frames
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise UnreadableAudioError(
            f"{source}: cannot be read as audio ({one_line(error)}); export the file again"
        ) from None
    if source.stream:
        raise UnreadableAudioError(f"{source}: has no audio stream {source.stream}; a {kind} file has one")
    # libsndfile takes the file's size over a header that promises more, and only its log tells.
    promised = re.search(r"(?:data|SSND|riff|Data Size)\s*: (\d+) \(should be (\d+)\)", log)
    if promised and int(promised[1]) > int(promised[2]) and int(promised[1]) not in iff.UNKNOWN_LENGTHS:
        raise truncated(source, int(promised[1]), int(promised[2]))
    if frames == 0:
        raise EmptyAudioError(f"{source}: has no samples in it; export it again")
    stated = (stated_samples(source.path, replace(parts[0], patches=())) or 0) if parts else None
    if stated is not None and stated >= frames:  # it has found that by itself
        parts, stated = (), None
    if kind.startswith("W64"):
        stated = _stated_in_w64(log, frames)
    if kind.endswith(("FLOAT", "DOUBLE")):
        refuse_loud(source, _loudest_spot(source.path, parts))
    known = frames if frames < UNKNOWN_SAMPLES else None
    return AudioInfo(rate, channels, known, known is not None, kind, "libsndfile", parts=parts, stated_samples=stated)


def truncated(source: AudioSource, stated_bytes: int, held_bytes: int) -> TruncatedAudioError:
    """What to say of a file that holds fewer bytes than its header promises."""
    return TruncatedAudioError(
        f"{source}: truncated, the header promises {stated_bytes:,} bytes of samples and the file holds "
        f"{held_bytes:,}; copy or export it again"
    )


def _stated_in_w64(log: str, frames: int) -> int | None:
    """Libsndfile reads a Wave64 to its end, whatever its header states: only its log tells."""
    align, length = re.search(r"Block Align\s*: (\d+)", log), re.search(r"^data : (\d+)", log, re.MULTILINE)
    if align is None or length is None or not int(align[1]):
        return None
    stated = max(0, int(length[1]) - _W64_CHUNK_HEAD_BYTES) // int(align[1])
    return stated if stated < frames else None


def stated_samples(path: Path, part: Part) -> int | None:
    """What the header of a part of a file states; None where libsndfile does not read it."""
    try:
        with _opened(path, part) as file:
            return int(file.frames)
    except (soundfile.LibsndfileError, RuntimeError):
        return None


def decode(source: AudioSource, info: AudioInfo) -> Generator[np.ndarray]:
    """Blocks `[channel, sample]` float32 at the file's own rate.

    Raises:
        TruncatedAudioError: it fails in the middle.
    """
    done = 0
    try:
        for part in info.parts or (None,):
            with _opened(source.path, part) as file:
                _refuse_change(source, file, info.sample_rate_hz, info.channels)
                while len(block := file.read(READ_SAMPLES, dtype="float32", always_2d=True)):
                    done += len(block)
                    yield block.T
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise TruncatedAudioError(
            f"{source}: damaged or cut after {done:,} samples ({one_line(error)}); copy or export it again"
        ) from None


def refuse_loud(source: AudioSource, peak: float) -> None:
    """Refuse floats that are far beyond full scale.

    Raises:
        FullScaleError: they are.
    """
    if peak > LOUDEST:
        raise FullScaleError(
            f"{source}: its samples reach {peak:,.0f}, and full scale is 1 for floats: they seem to be at the scale of "
            f"{16 if peak < 2**16 else 24}-bit integers; divide them by {2**15 if peak < 2**16 else 2**23:,} and "
            "export it again"
        )


@contextmanager
def _opened(path: Path, part: Part | None) -> Iterator[soundfile.SoundFile]:
    """The file, or a part of it.

    Of what is called .mp3, the bytes alone are given: by that name libsndfile takes anything for mp3, and libmpg123,
    which it asks then, prints its complaints.
    """
    if part is None and path.suffix.casefold() != ".mp3":
        with soundfile.SoundFile(path) as file:
            yield file
        return
    with path.open("rb") if part is None else open_part(path, part) as bytes_, soundfile.SoundFile(bytes_) as file:
        yield file


def _refuse_change(source: AudioSource, file: soundfile.SoundFile, rate_hz: int, channels: int) -> None:
    if (file.samplerate, file.channels) != (rate_hz, channels):
        raise AudioError(f"{source}: changes its sample rate or channels in the middle; export it again")


def _loudest_spot(path: Path, parts: tuple[Part, ...]) -> float:
    """The peak of some passages: headers are all that is read of a file before its turn comes, but for this."""
    peak = 0.0
    for part in parts or (None,):
        with _opened(path, part) as file:
            for k in range(_SPOTS):
                file.seek(file.frames * k // _SPOTS)
                block = np.abs(file.read(_SPOT_SAMPLES, dtype="float32"))
                peak = max(peak, float(block[np.isfinite(block)].max(initial=0.0)))
    return peak
