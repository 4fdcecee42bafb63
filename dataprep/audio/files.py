"""Audio files in, in bounded memory whatever their length.

Legend: `[channel, sample]` float32, always two channels, full scale ±1.

Mono is copied to both channels. More than two channels are refused: which channel is which is often not stated in a
file, and a wrong downmix (a centre channel is mostly the voice) would spoil training data without anyone noticing.
"""

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing

import numpy as np

from dataprep.audio import decoders
from dataprep.audio.decoders import AudioInfo, AudioSource
from dataprep.audio.decoding.libsndfile import refuse_loud
from dataprep.audio.reading_rules import note_on_handover, notes_on_reading
from dataprep.audio.resample import resample
from dataprep.errors import (
    AudioError,
    AudioTooLongError,
    EmptyAudioError,
    NonFiniteAudioError,
    TruncatedAudioError,
    UnreadableAudioError,
)

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
