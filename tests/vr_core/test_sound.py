"""Sounds from stored frames: every sample between the outer centres, and any other STFT of them."""

import numpy as np
import pytest
import torch

from vr_core.audio.sound import Sound
from vr_core.audio.spectrogram import istft, stft, window_of
from vr_core.specs.stft import StftSpec

HALF, QUARTER, ODD = (StftSpec(n_fft=64, hop=hop) for hop in (32, 16, 20))
SAMPLES = 64 * 20


def song(seed: int = 0) -> torch.Tensor:
    """`[item, channel, sample]` float64, without the frequency that is not stored."""
    noise = torch.from_numpy(np.random.default_rng(seed).standard_normal((2, 2, SAMPLES)))
    kernel = torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64)
    return torch.nn.functional.conv1d(noise.flatten(0, 1)[:, None], kernel[None, None], padding=1).reshape(noise.shape)


def sound_of(signal: torch.Tensor, spec: StftSpec, start: int, frames: int) -> Sound:
    spectrum = stft(signal, spec)[0][..., start : start + frames]
    return Sound(spec, spectrum.abs(), spectrum)


@pytest.mark.parametrize("spec", [HALF, QUARTER, ODD])
def test_the_samples_between_the_outer_centres_come_back(spec):
    spectrum, _ = stft(song(), spec)
    signal = istft(spectrum, SAMPLES, spec)  # what is stored of it
    part = sound_of(signal, spec, 5, 9).signal()
    # What an inverse leaves in the bin that is not stored is missing: -80 dB of this noise.
    torch.testing.assert_close(part, signal[..., 5 * spec.hop : 13 * spec.hop], atol=3e-4, rtol=0)
    tone = torch.sin(torch.arange(SAMPLES, dtype=torch.float64) / 3)
    part = sound_of(tone.expand(1, 1, -1), spec, 5, 9).signal()[0, 0]
    torch.testing.assert_close(part, tone[5 * spec.hop : 13 * spec.hop], atol=1e-5, rtol=0)


@pytest.mark.parametrize("nyquist", [False, True])
@pytest.mark.parametrize("other", [HALF, QUARTER, StftSpec(n_fft=128, hop=40)])
def test_another_stft_is_that_of_a_slow_loop(other, nyquist):
    sound = sound_of(song(), HALF, 3, 12)
    signal, found = sound.signal(), sound.at(other, nyquist=nyquist)
    bins = other.bins + nyquist
    frames = (signal.shape[-1] - other.n_fft) // other.hop + 1
    assert found.magnitude.shape == (2, 2, bins, frames)
    k, n = torch.arange(bins, dtype=torch.float64)[:, None], torch.arange(other.n_fft, dtype=torch.float64)
    window = 0.5 - 0.5 * torch.cos(2 * torch.pi * n / other.n_fft)
    kernel = window * torch.exp(-2j * torch.pi * k * n / other.n_fft) * 4 / other.n_fft
    for frame in range(frames):
        piece = signal[..., frame * other.hop : frame * other.hop + other.n_fft].to(torch.complex128)
        torch.testing.assert_close(found.phased()[..., frame], piece @ kernel.T, atol=1e-9, rtol=0)
    torch.testing.assert_close(found.magnitude, found.phased().abs())


@pytest.mark.parametrize("nyquist", [False, True])
def test_the_nyquist_bin_comes_back_where_it_is_kept(nyquist):
    tone = torch.cos(torch.pi * torch.arange(SAMPLES, dtype=torch.float64)).expand(1, 1, -1)
    window, scale = window_of(QUARTER, tone)
    full = scale * torch.stft(
        tone[0], QUARTER.n_fft, QUARTER.hop, window=window, center=False, return_complex=True
    )  # fmt: skip
    sound = Sound(QUARTER, full.abs()[None], full[None])
    if not nyquist:
        sound = Sound(QUARTER, sound.magnitude[:, :, :-1], full[None, :, :-1])
    found = sound.signal()[0, 0, QUARTER.n_fft : -QUARTER.n_fft]
    at = QUARTER.n_fft // 2 + QUARTER.n_fft
    # Half of the tone is in the bin beside it, by the window's main lobe.
    close = torch.isclose(found, tone[0, 0, at : at + len(found)], atol=1e-9).all()
    assert close == nyquist


def test_what_cannot_be_had_is_refused():
    silent = Sound(HALF, torch.zeros(1, 2, 32, 5))
    with pytest.raises(ValueError, match="no phase"):
        silent.signal()
    short = sound_of(song(), HALF, 0, 2)
    with pytest.raises(ValueError, match="fewer than a window"):
        short.at(StftSpec(n_fft=128, hop=40))
    with pytest.raises(ValueError, match="single frame"):
        sound_of(song(), HALF, 0, 1).signal()
    with pytest.raises(ValueError, match="Hz"):
        short.at(StftSpec(sample_rate_hz=48_000, n_fft=64, hop=32))
