"""Audio files out: what each format can hold, and a file that appears whole or not at all."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from dataprep.audio.decoders import one_line
from dataprep.errors import AudioWriteError, FormatLimitError, NonFiniteAudioError
from vr_core.files import whole_file

RIFF_BYTES = 2**32 - 2**16
"""Bytes of samples in a plain wav: its header counts them in 32 bits. Longer ones get the header of RF64."""


@dataclass(frozen=True)
class WrittenFormat:
    """What a kind of file can hold."""

    subtypes: tuple[str, ...]
    """libsndfile's sample formats, the default first."""
    max_rate_hz: int


FORMATS = {
    "wav": WrittenFormat(("FLOAT", "PCM_16", "PCM_24"), 2**32 - 1),
    "flac": WrittenFormat(("PCM_24", "PCM_16"), 655_350),
}
_PCM_BITS = {"PCM_16": 16, "PCM_24": 24}
_SAMPLE_BYTES = {"PCM_16": 2, "PCM_24": 3, "FLOAT": 4}


def require_fits(song: Path, file_format: str, sample_rate_hz: int) -> None:
    """Check that a kind of file can hold a song's signal, before any work is done for it.

    Raises:
        FormatLimitError: it cannot.
    """
    most_hz = FORMATS[file_format].max_rate_hz
    if sample_rate_hz > most_hz:
        raise FormatLimitError(
            f"{song}: has {sample_rate_hz:,} Hz, and a {file_format} file holds at most {most_hz:,} Hz; write wav"
        )


def full_scale(subtype: str) -> float:
    """The highest level that a sample format holds, also after rounding; that of FLOAT is by agreement 1."""
    return 1 - 2.0 ** (2 - _PCM_BITS[subtype]) if subtype in _PCM_BITS else 1.0


def to_pcm(block: NDArray[np.floating], subtype: str) -> tuple[NDArray[np.signedinteger], int]:
    """Samples as the nearest integers of a PCM format, without dither.

    Args:
        block: `[channel, sample]`, full scale ±1.
        subtype: PCM_16 or PCM_24.

    Returns:
        The integers as libsndfile takes them, those of PCM_24 in the upper 24 of 32 bits; how many samples lay beyond
        full scale and were clipped.
    """
    bits = _PCM_BITS[subtype]
    half = 2.0 ** (bits - 1)
    steps = np.rint(np.asarray(block, np.float64) * half)
    held = np.clip(steps, -half, half - 1)
    clipped = int(np.count_nonzero(held != steps))
    if bits == 16:
        return held.astype(np.int16), clipped
    return held.astype(np.int32) << 8, clipped


def write_audio(path: Path, blocks: Iterable[np.ndarray], sample_rate_hz: int, subtype: str = "PCM_16") -> int:
    """Write blocks `[channel, sample]` to `path`; the file appears whole or not at all.

    A wav that grows beyond `RIFF_BYTES` is written as RF64, which keeps the suffix and has no limit.

    Args:
        path: the suffix gives the format: wav, flac or ogg.
        blocks: `[channel, sample]`, full scale ±1, of which integer formats clip what is beyond; or integers of
            `to_pcm`.
        sample_rate_hz: rate of the blocks.
        subtype: libsndfile's name of the sample format, for example PCM_16, PCM_24, FLOAT or VORBIS.

    Returns:
        Samples written, per channel.

    Raises:
        AudioWriteError: no space left, no permission, or no such format.
        NonFiniteAudioError: NaN or infinite samples.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as draft:
            written = _write_draft(draft, path, iter(blocks), sample_rate_hz, subtype)
            # libsndfile does not report a full disk for the last bytes of flac and ogg, so what is there is counted.
            if soundfile.info(draft).frames != written:
                raise soundfile.LibsndfileError(0, "the file is shorter than what was written: ")
    except (soundfile.LibsndfileError, AssertionError, ValueError, OSError) as error:
        disk = os.statvfs(next(folder for folder in path.absolute().parents if folder.exists()))
        free = f"{disk.f_bavail * disk.f_frsize / 1e6:,.0f} MB"
        raise AudioWriteError(
            f"{path}: could not be written ({one_line(error)}); {free} are free there, and the format "
            f"({path.suffix or 'no suffix'}, {subtype}) must be one that libsndfile writes"
        ) from None
    return written


def _write_draft(draft: Path, path: Path, blocks: Iterator[np.ndarray], sample_rate_hz: int, subtype: str) -> int:
    first = next(blocks, np.zeros((2, 0), np.float32))
    channels = len(first)
    most = RIFF_BYTES // (channels * _SAMPLE_BYTES.get(subtype, 8)) if path.suffix.casefold() == ".wav" else None
    written = 0
    file = soundfile.SoundFile(draft, "w", sample_rate_hz, channels, subtype)
    try:
        for block in _with_first(first, blocks):
            if not np.isfinite(block).all():
                raise NonFiniteAudioError(f"{path}: not written, the result holds NaN or infinite samples")
            if most is not None and written + block.shape[1] > most:
                file.close()
                file, most = _continued_as_rf64(draft, sample_rate_hz, channels, subtype), None
            file.write(np.ascontiguousarray(block.T))
            written += block.shape[1]
    finally:
        file.close()
    return written


def _continued_as_rf64(draft: Path, sample_rate_hz: int, channels: int, subtype: str) -> soundfile.SoundFile:
    """`draft` with the samples that it has, as RF64 and open for more: how many there will be is never known before."""
    short = draft.with_suffix(".riff")
    os.replace(draft, short)
    try:
        file = soundfile.SoundFile(draft, "w", sample_rate_hz, channels, subtype, format="RF64")
        try:
            # Each holds every value of the format.
            for block in soundfile.blocks(short, 2**20, dtype="int32" if subtype in _PCM_BITS else "float64"):
                file.write(block)
        except BaseException:
            file.close()
            raise
        return file
    finally:
        short.unlink()


def _with_first(first: np.ndarray, rest: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    yield first
    yield from rest
