"""How far an estimate is from what was wanted: one pure function a loss, and the table of them.

Legend: I item, C channel, F bin, T frame, N sample.

Each gives a loss `[item]`, over all channels, bins, frames or samples of the item, in thousandths of full scale; the
squared one in squares of that, `log_snr` in decibels. A sound is reduced over its axes as they lie in memory: to
flatten them first would copy transposed frames.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from vr_core.audio.sound import Sound
from vr_core.objectives.objective import LOSS_SCALE
from vr_core.specs.objectives import LossName
from vr_core.specs.stft import StftSpec

ItemLoss = Float[Tensor, " item"]

WINDOWS = (4096, 2048, 1024, 512, 256)
"""Samples of each window of `multi_stft`."""
WINDOW_HOP = 147
LEAST_N_FFT = 2048
BINS_A_MEL_BAND = 8
_QUIET_POWER = 1e-8
"""Mean square of -80 dB of full scale: without it a silent stem would have no signal-to-noise ratio."""


def magnitude(estimated: Sound, wanted: Sound) -> ItemLoss:
    """L1 of magnitudes."""
    return _mean((estimated.magnitude - wanted.magnitude).abs())


def magnitude_mse(estimated: Sound, wanted: Sound) -> ItemLoss:
    """Mean square of differences of magnitudes, each in thousandths of full scale."""
    error = (estimated.magnitude - wanted.magnitude) * LOSS_SCALE
    return error.square().mean(dim=(1, 2, 3))


def spectrum(estimated: Sound, wanted: Sound) -> ItemLoss:
    """L1 of complex spectrograms, real and imaginary parts apart."""
    return _mean((torch.view_as_real(estimated.phased()) - torch.view_as_real(wanted.phased())).abs())


def waveform(estimated: Sound, wanted: Sound) -> ItemLoss:
    """L1 of samples."""
    return _mean((estimated.signal() - wanted.signal()).abs())


def multi_stft(estimated: Sound, wanted: Sound) -> ItemLoss:
    """Mean modulus of the difference of complex spectrograms, over STFTs with windows of `WINDOWS` samples.

    Lu et al., "Music source separation with band-split RoPE transformer" (arXiv:2309.02612), section 3.3. As in the
    public code, a frame of fewer than 2,048 samples is filled up with zeros. Ours is the mean over the windows and not
    their sum, and a full-scale sine has magnitude 1 in all of them. What lies beyond the crop is silence in both.
    """
    difference = (estimated.signal() - wanted.signal()).flatten(0, 1)
    channels = estimated.magnitude.shape[1]
    return torch.stack([_mean(_modulus(difference, window).unflatten(0, (-1, channels))) for window in WINDOWS]).mean(0)


def mel(estimated: Sound, wanted: Sound) -> ItemLoss:
    """L1 of magnitudes in mel bands, one for each eight bins: low frequencies have more weight than among bins.

    A band's value is the mean of its bins, weighted by torchaudio's triangular filter on Slaney's scale.
    """
    difference = estimated.magnitude - wanted.magnitude
    filters = _filters(wanted.stft, difference.shape[2]).to(difference)
    with torch.autocast(difference.device.type, enabled=False):
        return _mean(torch.einsum("bf,icft->icbt", filters, difference).abs())


def log_snr(estimated: Sound, wanted: Sound) -> ItemLoss:
    """Power of the error over that of what was wanted, of samples, in decibels: the negative signal-to-noise ratio.

    Heitkaemper et al., "Demystifying TasNet: a dissecting approach" (arXiv:1911.08895), equation 3, with -80 dB of full
    scale added to both powers, so that the loss is bounded where a stem is silent or met exactly.
    """
    target = wanted.signal()
    error_power = (estimated.signal() - target).square().mean(dim=(1, 2)) + _QUIET_POWER
    return 10 * torch.log10(error_power / (target.square().mean(dim=(1, 2)) + _QUIET_POWER))


LOSSES: Mapping[LossName, Callable[[Sound, Sound], ItemLoss]] = {
    "magnitude": magnitude,
    "magnitude_mse": magnitude_mse,
    "spectrum": spectrum,
    "waveform": waveform,
    "multi_stft": multi_stft,
    "mel": mel,
    "log_snr": log_snr,
}


def _mean(error: Tensor) -> ItemLoss:
    return error.mean(dim=tuple(range(1, error.ndim))) * LOSS_SCALE


def _modulus(signal: Float[Tensor, "IC N"], window: int) -> Float[Tensor, "IC F T"]:
    """Of an STFT whose frames are centred on every `WINDOW_HOP`-th sample, from the first one on."""
    hann = torch.hann_window(window, dtype=signal.dtype, device=signal.device)
    values = torch.stft(
        signal, max(window, LEAST_N_FFT), WINDOW_HOP, window, hann, center=True, pad_mode="constant",
        return_complex=True,
    )  # fmt: skip
    return values.abs() * (2 / hann.sum())


@lru_cache(maxsize=8)
def _filters(stft: StftSpec, bins: int) -> Float[Tensor, "band {bins}"]:
    """Float64 weights of the first `bins` bins in each band; those of a band add up to one."""
    from torchaudio.functional import melscale_fbanks  # of all losses only this one has need of the package

    nyquist_hz, bands = stft.sample_rate_hz / 2, max(1, stft.bins // BINS_A_MEL_BAND)
    with torch.inference_mode(False):  # a validation may be the first to ask, and training goes on with them
        every = melscale_fbanks(
            stft.bins + 1, 0.0, nyquist_hz, bands, stft.sample_rate_hz, norm=None, mel_scale="slaney"
        )  # fmt: skip
        filters = every[:bins].T.double()
        return filters / filters.sum(dim=1, keepdim=True)
