"""Audio files in and out, in bounded memory whatever their length.

Legend: `[channel, sample]` float32, always two channels, full scale ±1.

Mono is copied to both channels. More than two channels are refused: which channel is which is often not stated in a
file, and a wrong downmix (a centre channel is mostly the voice) would spoil training data without anyone noticing.
"""

import os
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import soundfile

from dataprep.audio import decoders
from dataprep.audio.decoders import AudioInfo, AudioSource, one_line
from dataprep.audio.decoding.libsndfile import refuse_loud
from dataprep.audio.reading_rules import note_on_handover, notes_on_reading
from dataprep.audio.resample import resample
from dataprep.errors import (
    AudioError,
    AudioTooLongError,
    AudioWriteError,
    EmptyAudioError,
    NonFiniteAudioError,
    TruncatedAudioError,
    UnreadableAudioError,
)
from vr_core.files import whole_file

MAX_AUDIO_S = 24 * 3600.0
BLOCK_SAMPLES = 2**20
RATES_HZ = (1000, 768_000)


def probe(source: AudioSource) -> AudioInfo:
    """Header of a source, checked without decoding it.

    Raises:
        AudioError: unreadable, empty, more than two channels, or a sample rate out of range.
    """
    try:
        info = decoders.probe(source)
    except OSError as error:
        raise UnreadableAudioError(f"{source}: cannot be opened ({error.strerror or error}); check the path") from None
    if info.channels not in (1, 2):
        raise AudioError(f"{source}: has {info.channels} channels, expected 1 or 2; mix it down to stereo first")
    if not RATES_HZ[0] <= info.sample_rate_hz <= RATES_HZ[1]:
        raise AudioError(
            f"{source}: has a sample rate of {info.sample_rate_hz} Hz, expected {RATES_HZ[0]} to {RATES_HZ[1]} Hz; "
            "the header is damaged, export the file again"
        )
    return info


def open_audio(
    source: AudioSource,
    sample_rate_hz: int,
    block_samples: int = BLOCK_SAMPLES,
    max_s: float = MAX_AUDIO_S,
    notes: list[str] | None = None,
) -> Iterator[np.ndarray]:
    """Decoded audio of a source, resampled, block by block.

    Args:
        source: what to read.
        sample_rate_hz: rate of what is returned.
        block_samples: length of every block but the last, so that blocks of several sources line up.
        max_s: longest length accepted.
        notes: gets what a person should know of how the file was read, a line each; complete when all is read.

    Yields:
        `[2, sample]` float32; round(samples × new rate / old rate) samples in all.

    Raises:
        AudioError: as `probe`; also truncated or damaged in the middle, NaN or infinite samples, floats far beyond full
            scale, too long.
    """
    info = probe(source)
    if info.samples is not None and info.samples > max_s * info.sample_rate_hz:
        raise _too_long(source, info.samples / info.sample_rate_hz, max_s)
    notes = [] if notes is None else notes
    notes += notes_on_reading(source, info)
    blocks = _checked(source, info, max_s, notes)
    stereo = (np.repeat(b, 2, axis=0) if info.channels == 1 else b
              for b in resample(blocks, info.channels, info.sample_rate_hz, sample_rate_hz))  # fmt: skip
    yield from regrouped(stereo, block_samples)


def read_audio(source: AudioSource, sample_rate_hz: int, max_s: float = MAX_AUDIO_S) -> np.ndarray:
    """All of a source as `[2, sample]` float32 at `sample_rate_hz`; errors as `open_audio`."""
    return np.concatenate(list(open_audio(source, sample_rate_hz, max_s=max_s)), axis=1)


def write_audio(path: Path, blocks: Iterable[np.ndarray], sample_rate_hz: int, subtype: str = "PCM_16") -> int:
    """Write blocks `[channel, sample]` to `path`; the file appears whole or not at all.

    Args:
        path: the suffix gives the format: wav, flac or ogg.
        blocks: `[channel, sample]`, full scale ±1; what is beyond is clipped in integer formats.
        sample_rate_hz: rate of the blocks.
        subtype: libsndfile's name of the sample format, for example PCM_16, PCM_24, FLOAT or VORBIS.

    Returns:
        Samples written, per channel.

    Raises:
        AudioWriteError: no space left, no permission, or no such format.
        NonFiniteAudioError: NaN or infinite samples.
    """
    written = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        blocks = iter(blocks)
        first = next(blocks, np.zeros((2, 0), np.float32))
        with whole_file(path) as partial:
            with soundfile.SoundFile(partial, "w", sample_rate_hz, len(first), subtype) as file:
                for block in _with_first(first, blocks):
                    if not np.isfinite(block).all():
                        raise NonFiniteAudioError(f"{path}: not written, the result holds NaN or infinite samples")
                    file.write(np.ascontiguousarray(block.T))
                    written += block.shape[1]
            # libsndfile does not report a full disk for the last bytes of flac and ogg, so what is there is counted.
            if soundfile.info(partial).frames != written:
                raise soundfile.LibsndfileError(0, "the file is shorter than what was written: ")
    except (soundfile.LibsndfileError, AssertionError, ValueError, OSError) as error:
        disk = os.statvfs(next(folder for folder in path.absolute().parents if folder.exists()))
        free = f"{disk.f_bavail * disk.f_frsize / 1e6:,.0f} MB"
        raise AudioWriteError(
            f"{path}: could not be written ({one_line(error)}); {free} are free there, and the format "
            f"({path.suffix or 'no suffix'}, {subtype}) must be one that libsndfile writes"
        ) from None
    return written


def _with_first(first: np.ndarray, rest: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    yield first
    yield from rest


def _checked(source: AudioSource, info: AudioInfo, max_s: float, notes: list[str]) -> Iterator[np.ndarray]:
    """Blocks `[channel, sample]` at the file's own rate, refused as soon as something is wrong with them."""
    done = 0

    def handed_over() -> None:
        notes.append(note_on_handover(source))

    with closing(decoders.decode(source, info, handed_over)) as blocks:
        for block in blocks:
            if not np.isfinite(block).all():
                at_s = (done + int(np.flatnonzero(~np.isfinite(block).all(axis=0))[0])) / info.sample_rate_hz
                raise NonFiniteAudioError(f"{source}: NaN or infinite samples at {at_s:.3f} s; export the file again")
            refuse_loud(source, float(np.abs(block).max(initial=0.0)))
            done += block.shape[1]
            if done > max_s * info.sample_rate_hz:
                raise _too_long(source, done / info.sample_rate_hz, max_s)
            if block.shape[1]:
                yield block
    if info.exact and info.samples is not None and done < info.samples - info.slack_samples:
        raise TruncatedAudioError(
            f"{source}: truncated, the header promises {info.samples:,} samples and {done:,} could be decoded; "
            "copy or export it again"
        )
    if done == 0:
        raise EmptyAudioError(f"{source}: has no samples in it; export it again")


def regrouped(blocks: Iterable[np.ndarray], block_samples: int) -> Generator[np.ndarray]:
    """The same samples in blocks of `block_samples`; only the last is shorter."""
    pending: list[np.ndarray] = []
    held = 0
    for block in blocks:
        pending.append(block)
        held += block.shape[1]
        if held >= block_samples:
            joined = np.concatenate(pending, axis=1)
            for start in range(0, held - block_samples + 1, block_samples):
                yield joined[:, start : start + block_samples]
            held %= block_samples
            pending = [joined[:, joined.shape[1] - held :]]
    if held:
        yield np.concatenate(pending, axis=1)


def _too_long(source: AudioSource, length_s: float, max_s: float) -> AudioTooLongError:
    return AudioTooLongError(
        f"{source}: lasts {length_s / 3600:,.1f} hours, expected at most {max_s / 3600:g}; "
        "cut it into pieces, or export it again if that is not its length"
    )
