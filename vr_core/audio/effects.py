"""What is done to the stems of an item in training, so that a model hears more than was recorded.

Pure functions of complex spectrograms, an item at a time: who is beside an item in a batch changes no bit of it. What
an item gets is drawn by the order of items (`vr_core.specs.slots.Effects` says it).

Legend: I item, C channel (left, right), F bin, T frame.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from vr_core.specs.slots import Effects
from vr_core.specs.stft import StftSpec

PIVOT_HZ = 1000.0
"""What a tilt leaves as loud as it is."""


def altered(
    spectrum: Complex[Tensor, "I C F T"], effects: Sequence[Effects], stft: StftSpec
) -> Complex[Tensor, "I C F T"]:
    """Each item of a stem with its effects; without any it stays as it is, bit for bit.

    Args:
        spectrum: one stem of the items.
        effects: one an item.
        stft: of the spectrogram.
    """
    device = spectrum.device
    if any(effect.invert for effect in effects):
        spectrum = inverted(spectrum, torch.tensor([effect.invert for effect in effects], device=device))
    if any(effect.channels != "both" for effect in effects):
        left, right, equal = (
            torch.tensor([effect.channels == kind for effect in effects], device=device)
            for kind in ("left", "right", "equal")
        )
        spectrum = one_channel(spectrum, left, right, equal)
    if any(effect.tilt_db for effect in effects):
        slopes = torch.tensor([effect.tilt_db for effect in effects], dtype=torch.float64, device=device)
        spectrum = tilted(spectrum, slopes, stft)
    return spectrum


def inverted(spectrum: Complex[Tensor, "I C F T"], which: Bool[Tensor, " I"]) -> Complex[Tensor, "I C F T"]:
    """Those of `which` with the opposite polarity."""
    return torch.where(which[:, None, None, None], -spectrum, spectrum)


def one_channel(
    spectrum: Complex[Tensor, "I C F T"],
    left: Bool[Tensor, " I"],
    right: Bool[Tensor, " I"],
    equal: Bool[Tensor, " I"],
) -> Complex[Tensor, "I C F T"]:
    """Those of `left` on the left channel alone, of `right` on the right, of `equal` with the mean on both."""
    silent = torch.stack([right, left], dim=1)[:, :, None, None]
    mean = spectrum.mean(dim=1, keepdim=True)
    return torch.where(equal[:, None, None, None], mean, torch.where(silent, 0, spectrum))


def tilted(
    spectrum: Complex[Tensor, "I C F T"], slope_db: Float[Tensor, " I"], stft: StftSpec
) -> Complex[Tensor, "I C F T"]:
    """With a gain that rises by `slope_db` decibels an octave and is one at `PIVOT_HZ`; bin 0 gets that of bin 1."""
    bins = torch.arange(spectrum.shape[2], dtype=torch.float64, device=spectrum.device).clamp_min(1)
    octaves = torch.log2(bins * (stft.sample_rate_hz / stft.n_fft / PIVOT_HZ))
    gain = 10 ** (slope_db.double()[:, None] * octaves / 20)
    return spectrum * gain.to(spectrum.real.dtype)[:, None, :, None]
