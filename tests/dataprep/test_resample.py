"""Change of sample rate, by blocks and as a whole."""

import numpy as np
import pytest
import soxr
from hypothesis import example, given
from hypothesis import strategies as st

from dataprep.audio.resample import resample, resampled_length
from tests.dataprep.sounds import RATE_HZ, music


def whole(signal: np.ndarray, old_hz: int, new_hz: int) -> np.ndarray:
    """All at once. Where a length ends in half a sample, soxr may round it down, and a zero fills it up."""
    result: np.ndarray = soxr.resample(np.ascontiguousarray(signal.T), old_hz, new_hz, quality="VHQ").T
    samples = (2 * signal.shape[1] * new_hz + old_hz) // (2 * old_hz)
    return np.pad(result, ((0, 0), (0, max(0, samples - result.shape[1]))))[:, :samples]


@given(
    old_hz=st.sampled_from([8000, 16_000, 22_050, 32_000, 44_056, 48_000, 96_000, 192_000]),
    new_hz=st.sampled_from([44_100, 48_000, 32_000]),
    lengths=st.lists(st.integers(0, 9000), min_size=1, max_size=5),
)
@example(old_hz=48_000, new_hz=44_100, lengths=[399])
def test_resampling_in_blocks_equals_resampling_the_whole(old_hz, new_hz, lengths):
    signal = np.random.default_rng(sum(lengths)).uniform(-1, 1, (2, sum(lengths) + 1)).astype(np.float32)
    cuts = np.cumsum([0, *lengths, 1])
    pieces = [signal[:, a:b] for a, b in zip(cuts, cuts[1:], strict=False)]
    found = np.concatenate(list(resample(pieces, 2, old_hz, new_hz)), axis=1)
    expected = whole(signal, old_hz, new_hz)
    assert np.array_equal(found, expected)


def test_resampling_many_steps_equals_resampling_the_whole():
    signal = music(700_000)
    cuts = [0, 1, 140_000, 141_000, 700_000]
    pieces = [signal[:, a:b] for a, b in zip(cuts, cuts[1:], strict=False)]
    found = np.concatenate(list(resample(pieces, 2, 48_000, RATE_HZ)), 1)
    assert np.array_equal(found, whole(signal, 48_000, RATE_HZ))


def test_resampling_gives_the_values_between_samples():
    """Music of whole periods has exact ones: those of its spectrum. Beyond its ends it is silent, so they differ."""
    signal = music(192_000)
    spectrum = np.fft.rfft(signal)
    expected = np.fft.irfft(spectrum, 176_400) * (176_400 / 192_000)
    found = np.concatenate(list(resample([signal], 2, 48_000, RATE_HZ)), 1)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found[:, 2000:-2000], expected[:, 2000:-2000], rtol=0, atol=1e-6)


@pytest.mark.parametrize("tone_hz", [22_200, 23_900])
def test_resampling_leaves_nothing_of_tones_above_half_the_new_rate(tone_hz):
    """Ends excepted, where a tone that begins at once has other frequencies too."""
    tone = np.sin(2 * np.pi * tone_hz * np.arange(48_000) / 48_000).astype(np.float32)[None]
    found = np.concatenate(list(resample([tone], 1, 48_000, RATE_HZ)), 1)
    assert np.abs(found[:, 2000:-2000]).max() < 1e-7


@pytest.mark.parametrize("old_hz", [48_000, 44_056])
def test_resampling_keeps_a_tone_whatever_the_ratio(old_hz):
    """44,056 Hz (NTSC video) has hardly a divisor in common with 44,100."""
    at_s = np.arange(old_hz) / old_hz
    tone = np.stack([np.sin(2 * np.pi * 1000 * at_s), np.cos(2 * np.pi * 3000 * at_s)]).astype(np.float32)
    found = np.concatenate(list(resample([tone[:, :777], tone[:, 777:]], 2, old_hz, RATE_HZ)), 1)
    at_s = np.arange(RATE_HZ) / RATE_HZ
    expected = np.stack([np.sin(2 * np.pi * 1000 * at_s), np.cos(2 * np.pi * 3000 * at_s)])
    assert found.shape == expected.shape
    assert np.abs(found - expected)[:, 2000:-2000].max() < 1e-3


def test_length_after_resampling_is_rounded():
    for samples in (1, 2, 3, 999, 44_101, 12_345_678):
        for old, new in ((48_000, 44_100), (22_050, 44_100), (96_000, 44_100), (44_100, 48_000)):
            assert abs(resampled_length(samples, old, new) - samples * new / old) <= 0.5
