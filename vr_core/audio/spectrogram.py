"""The one spectrogram convention, shared by preparation, training and separation.

Legend: `[channel, sample]` signals; `[channel, bin, frame]` spectrograms; any leading dimensions are batch.

Scale: a full-scale sine (amplitude 1.0) at a bin's centre has magnitude 1.0. That is the STFT times 2/Σw, w the
window; it is applied in `stft` and undone in `istft` and nowhere else. Models see these magnitudes.

Framing: the signal is zero-padded at its end to a whole number of hops plus one more hop, then framed centred
(reflected ends; zeros where the signal is shorter than half a window), so that every sample lies under full frames.
Without the extra hop the last hop of the signal is divided by a nearly vanishing window sum in synthesis.

Bins: n_fft/2 of them. The Nyquist bin is dropped in analysis and zero in synthesis unless the caller gives it back.
"""

import torch
from jaxtyping import Complex, Float, Inexact
from torch import Tensor

from vr_core.specs.stft import StftSpec


def stft(
    signal: Float[Tensor, "*batch sample"], spec: StftSpec
) -> tuple[Complex[Tensor, "*batch {spec.bins} frame"], Complex[Tensor, "*batch frame"]]:
    """Spectrogram of a signal.

    Args:
        signal: full scale ±1.
        spec: settings.

    Returns:
        The spectrogram without the Nyquist bin, and the Nyquist bin.
    """
    samples = signal.shape[-1]
    padded = torch.nn.functional.pad(signal, (0, spec.padded_samples(samples) - samples))
    window, scale = window_of(spec, signal)
    shape = padded.shape
    full = torch.stft(
        padded.reshape(-1, shape[-1]), spec.n_fft, spec.hop, window=window, center=True,
        pad_mode="reflect" if shape[-1] > spec.n_fft // 2 else "constant", return_complex=True,
    )  # fmt: skip
    full = (full * scale).reshape(*shape[:-1], spec.bins + 1, -1)
    return full[..., : spec.bins, :], full[..., spec.bins, :]


def istft(
    spectrogram: Complex[Tensor, "*batch {spec.bins} frame"],
    samples: int,
    spec: StftSpec,
    nyquist: Complex[Tensor, "*batch frame"] | None = None,
) -> Float[Tensor, "*batch {samples}"]:
    """Signal of a spectrogram; the inverse of `stft` up to the Nyquist bin, exact with it.

    Args:
        spectrogram: without the Nyquist bin.
        samples: the true length; synthesis cuts back to it.
        spec: settings.
        nyquist: zeros when not given.
    """
    last = torch.zeros_like(spectrogram[..., :1, :]) if nyquist is None else nyquist.unsqueeze(-2)
    full = torch.cat([spectrogram, last], dim=-2)
    window, scale = window_of(spec, spectrogram)
    shape = full.shape
    signal = torch.istft(
        (full / scale).reshape(-1, *shape[-2:]), spec.n_fft, spec.hop, window=window, center=True,
        length=spec.padded_samples(samples),
    )  # fmt: skip
    return signal.reshape(*shape[:-2], -1)[..., :samples]


def window_of(spec: StftSpec, like: Inexact[Tensor, "*any"]) -> tuple[Float[Tensor, " {spec.n_fft}"], float]:
    """Periodic Hann window `[n_fft]` on the device of `like`, and the scale 2/Σw = 4/n_fft."""
    dtype = torch.float64 if like.dtype in (torch.float64, torch.complex128) else torch.float32
    return torch.hann_window(spec.n_fft, periodic=True, dtype=dtype, device=like.device), 4.0 / spec.n_fft
