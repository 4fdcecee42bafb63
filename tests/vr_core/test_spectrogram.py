import numpy as np
import pytest
import scipy.signal
import torch

from vr_core.audio.spectrogram import istft, stft
from vr_core.specs.stft import StftSpec

SPEC = StftSpec()
# Lengths that leave remainders 0, 1, 512, 1016 and 1023 over a whole number of hops, and short ones: below half a
# window (1024), where there is nothing to reflect, and just around it.
LENGTHS = [*(40 * 1024 + r for r in (0, 1, 512, 1016, 1023)), 1, 2, 700, 1023, 1024, 1025, 2048, 2049]


def noise(samples: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """`[channel=2, sample]`."""
    generator = torch.Generator().manual_seed(samples)
    return torch.rand(2, samples, generator=generator, dtype=dtype) * 2 - 1


def snr_db(signal: torch.Tensor, estimate: torch.Tensor) -> float:
    return float(10 * torch.log10(signal.square().sum() / (signal - estimate).square().sum()))


@pytest.mark.parametrize("samples", LENGTHS)
@pytest.mark.parametrize("spec", [SPEC, StftSpec(n_fft=4096, hop=256)], ids=["default", "dense"])
def test_frames_equal_a_naive_transform_in_double_precision(samples, spec):
    signal = noise(samples)
    padded = np.pad(signal.numpy(), [(0, 0), (0, spec.padded_samples(samples) - samples)])
    width = [(0, 0), (spec.n_fft // 2, spec.n_fft // 2)]
    padded = np.pad(padded, width, "reflect") if padded.shape[1] > spec.n_fft // 2 else np.pad(padded, width)
    frames = np.lib.stride_tricks.sliding_window_view(padded, spec.n_fft, axis=1)[:, :: spec.hop]
    window = scipy.signal.get_window("hann", spec.n_fft, fftbins=True)
    expected = np.fft.rfft(frames * window, axis=-1).swapaxes(1, 2) * 2 / window.sum()
    bins, nyquist = stft(signal, spec)
    assert bins.shape == (2, spec.bins, spec.frames(samples))
    np.testing.assert_allclose(bins.numpy(), expected[:, :-1], rtol=0, atol=1e-12)
    np.testing.assert_allclose(nyquist.numpy(), expected[:, -1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("samples", LENGTHS)
def test_synthesis_is_exact_to_the_last_sample_with_the_nyquist_bin(samples):
    signal = noise(samples, torch.float32)
    bins, nyquist = stft(signal, SPEC)
    back = istft(bins, samples, SPEC, nyquist)
    assert back.shape == signal.shape
    assert snr_db(signal, back) > 120
    assert snr_db(signal[:, -2048:], back[:, -2048:]) > 120


@pytest.mark.parametrize("samples", LENGTHS[:5])
def test_noise_on_the_spectrogram_is_not_amplified_at_the_end(samples):
    # Without the extra hop the end is divided by a nearly vanishing window sum: 38 dB everywhere, 18 dB there.
    bins, nyquist = stft(noise(samples), SPEC)
    error = torch.randn(bins.shape, dtype=bins.dtype, generator=torch.Generator().manual_seed(0)) * 1e-3
    back = istft(error, samples, SPEC, torch.zeros_like(nyquist))
    rms = back.square().mean(0).sqrt()
    assert rms[-2048:].mean() < 1.3 * rms[2048:-2048].mean()
    assert back[:, -64:].abs().max() < 2 * back[:, 2048:-2048].abs().max()


@pytest.mark.parametrize("samples", LENGTHS[:5])
def test_without_the_nyquist_bin_only_that_bin_is_lost(samples):
    signal = noise(samples)
    bins, nyquist = stft(signal, SPEC)
    lost = istft(torch.zeros_like(bins), samples, SPEC, nyquist)
    torch.testing.assert_close(istft(bins, samples, SPEC), signal - lost, rtol=0, atol=1e-12)


@pytest.mark.parametrize("spec", [SPEC, StftSpec(n_fft=4096, hop=1024), StftSpec(n_fft=512, hop=128)])
def test_a_full_scale_sine_at_a_bins_centre_has_magnitude_one(spec):
    k = spec.n_fft // 8
    time = torch.arange(20 * spec.n_fft, dtype=torch.float64)
    bins, _ = stft(torch.sin(2 * torch.pi * k / spec.n_fft * time), spec)
    inner = bins[:, 4:-8].abs()
    torch.testing.assert_close(inner[k], torch.ones_like(inner[k]), rtol=0, atol=1e-9)
    # Hann's neighbours are half as high, and there is nothing beyond.
    torch.testing.assert_close(inner[k + 1], torch.full_like(inner[k], 0.5), rtol=0, atol=1e-9)
    assert inner[k + 3 :].max() < 1e-9


def test_the_scale_is_the_same_for_silence_single_precision_and_batches():
    signal = noise(5000)
    batch = torch.stack([signal, torch.zeros_like(signal), -2 * signal])
    bins, nyquist = stft(batch, SPEC)
    alone, alone_nyquist = stft(signal, SPEC)
    torch.testing.assert_close(bins, torch.stack([alone, alone * 0, -2 * alone]))
    torch.testing.assert_close(istft(bins, 5000, SPEC, nyquist), batch)
    assert stft(signal.float(), SPEC)[0].dtype == torch.complex64
    torch.testing.assert_close(stft(signal.float(), SPEC)[1], alone_nyquist.to(torch.complex64))


def test_the_padding_is_less_than_two_hops_and_at_least_one():
    for samples in range(1, 5000, 37):
        padded = SPEC.padded_samples(samples)
        assert padded % SPEC.hop == 0
        assert SPEC.hop <= padded - samples < 2 * SPEC.hop
        assert SPEC.frames(samples) == padded // SPEC.hop + 1
