"""Change of sample rate, block by block, with the samples that resampling the whole signal at once gives."""

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import soxr

if TYPE_CHECKING:
    import torchaudio

# Kaiser-windowed sinc, 64 zero crossings: torchaudio's own setting for resampy's "kaiser_best".
_ZEROS, _ROLLOFF, _BETA = 64, 0.9475937167399596, 14.769656459379492
# A polyphase filter bank holds new × (old + 2 × width) taps; 48 kHz to 44.1 kHz needs 46,000.
_MAX_TAPS = 4_000_000
_STEP_SAMPLES = 2**17


def resampled_length(samples: int, old_hz: int, new_hz: int) -> int:
    """Samples of a signal of `samples` samples after resampling, rounded half up."""
    return (2 * samples * new_hz + old_hz) // (2 * old_hz)


def resample(blocks: Iterable[np.ndarray], channels: int, old_hz: int, new_hz: int) -> Iterator[np.ndarray]:
    """Blocks of a signal at another rate.

    Args:
        blocks: `[channel, sample]` float32 pieces of one signal, of any lengths.
        channels: how many channels the blocks have.
        old_hz: their sample rate.
        new_hz: the rate wanted.

    Yields:
        `[channel, sample]` float32, `resampled_length` samples in all, whatever the cut into blocks.
    """
    divisor = math.gcd(old_hz, new_hz)
    old, new = old_hz // divisor, new_hz // divisor
    if old == new:
        yield from blocks
    elif new * (old + 2 * _width(old, new)) <= _MAX_TAPS:
        yield from _sinc(blocks, channels, old, new)
    else:
        yield from _soxr(blocks, channels, old_hz, new_hz)


def _width(old: int, new: int) -> int:
    """Input samples on either side that an output sample depends on."""
    return math.ceil(_ZEROS * old / (min(old, new) * _ROLLOFF))


@lru_cache(maxsize=8)
def _filter_bank(old: int, new: int) -> "torchaudio.transforms.Resample":
    # Imported here: what is at the right rate already needs no torch, whose import takes seconds.
    import torchaudio

    return torchaudio.transforms.Resample(old, new, "sinc_interp_kaiser", _ZEROS, _ROLLOFF, _BETA)


def _sinc(blocks: Iterable[np.ndarray], channels: int, old: int, new: int) -> Iterator[np.ndarray]:
    """Overlap-save: each step sees `context` samples before and after what it gives out.

    Positions are in input samples and multiples of `old`, so that every step starts at the filter bank's first phase.
    """
    bank = _filter_bank(old, new)
    context = math.ceil((_width(old, new) + old) / old) * old
    held = np.zeros((channels, 0), np.float32)  # input from `begin` on
    begin = done = total = 0
    for block in blocks:
        for start in range(0, block.shape[1], _STEP_SAMPLES):
            piece = block[:, start : start + _STEP_SAMPLES]
            held = np.concatenate([held, piece], axis=1)
            total += piece.shape[1]
            ready = (total - context) // old * old
            if ready <= done:
                continue
            yield _apply(bank, held)[:, (done - begin) // old * new : (ready - begin) // old * new]
            done = ready
            keep = max(0, done - context)
            held, begin = held[:, keep - begin :], keep
    end = resampled_length(total, old, new) - begin // old * new
    yield _apply(bank, held)[:, (done - begin) // old * new : end]


def _apply(bank: "torchaudio.transforms.Resample", signal: np.ndarray) -> np.ndarray:
    import torch

    with torch.inference_mode():
        result: np.ndarray = bank(torch.from_numpy(np.ascontiguousarray(signal))).numpy()
    return result


def _soxr(blocks: Iterable[np.ndarray], channels: int, old_hz: int, new_hz: int) -> Iterator[np.ndarray]:
    """For rates with hardly a common divisor (44,056 Hz), whose filter bank would take gigabytes."""
    stream = soxr.ResampleStream(old_hz, new_hz, channels, dtype="float32", quality="VHQ")
    total = given = 0
    for block in blocks:
        total += block.shape[1]
        result = stream.resample_chunk(np.ascontiguousarray(block.T)).T
        given += result.shape[1]
        yield result
    end = resampled_length(total, old_hz, new_hz)
    rest = stream.resample_chunk(np.zeros((0, channels), np.float32), last=True).T[:, : max(0, end - given)]
    yield np.pad(rest, ((0, 0), (0, end - given - rest.shape[1])))
