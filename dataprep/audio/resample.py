"""Change of sample rate, block by block, with the samples that resampling the whole signal at once gives."""

from collections.abc import Iterable, Iterator

import numpy as np
import soxr


def resampled_length(samples: int, old_hz: int, new_hz: int) -> int:
    """Samples of a signal of `samples` samples after resampling, rounded half up."""
    return (2 * samples * new_hz + old_hz) // (2 * old_hz)


def resample(blocks: Iterable[np.ndarray], channels: int, old_hz: int, new_hz: int) -> Iterator[np.ndarray]:
    """Blocks of a signal at another rate, by soxr at its highest quality (VHQ).

    Args:
        blocks: `[channel, sample]` float32 pieces of one signal, of any lengths.
        channels: how many channels the blocks have.
        old_hz: their sample rate.
        new_hz: the rate wanted.

    Yields:
        `[channel, sample]` float32, `resampled_length` samples in all, whatever the cut into blocks.
    """
    if old_hz == new_hz:
        yield from blocks
        return
    stream = soxr.ResampleStream(old_hz, new_hz, channels, dtype="float32", quality="VHQ")
    total = given = 0
    for block in blocks:
        result = stream.resample_chunk(np.ascontiguousarray(block.T)).T
        total += block.shape[1]
        given += result.shape[1]
        yield result
    left = resampled_length(total, old_hz, new_hz) - given
    rest = stream.resample_chunk(np.zeros((0, channels), np.float32), last=True).T[:, :left]
    yield np.pad(rest, ((0, 0), (0, left - rest.shape[1])))
