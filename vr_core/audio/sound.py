"""A signal of a batch as its spectrogram.

Legend: I item, C channel, F bin, T frame, N sample.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Complex, Float, Inexact
from torch import Tensor

from vr_core.audio.spectrogram import window_of
from vr_core.specs.fronts import Front
from vr_core.specs.stft import StftSpec


@dataclass(frozen=True)
class Sound:
    """Frames of some items; with phase where it is stored and was asked for."""

    stft: StftSpec
    magnitude: Float[Tensor, "I C F T"]
    spectrum: Complex[Tensor, "I C F T"] | None = None

    def phased(self) -> Complex[Tensor, "I C F T"]:
        """The complex spectrogram.

        Raises:
            ValueError: it has none.
        """
        if self.spectrum is None:
            raise ValueError("this sound has no phase; ask for it in the objective's signals")
        return self.spectrum

    def signal(self) -> Float[Tensor, "I C N"]:
        """The (T - 1) × hop samples between the first and the last frame's centre.

        Every one of them lies under all the frames that it needs where frames overlap by half, so nothing is missing
        at the ends; the Nyquist bin is zero where it is not there.

        Several losses compare it: it is computed once.

        Raises:
            ValueError: it has no phase, or is a single frame.
        """
        return self._signal

    @cached_property
    def _signal(self) -> Float[Tensor, "I C N"]:
        spectrum = self.phased()
        frames = spectrum.shape[-1]
        if frames < 2:
            raise ValueError("a single frame has no samples between frames")
        window, scale = window_of(self.stft, spectrum)
        full = torch.nn.functional.pad(spectrum, (0, 0, 0, self.stft.bins + 1 - spectrum.shape[2])) / scale
        signal = torch.istft(
            full.flatten(0, 1), self.stft.n_fft, self.stft.hop, window=window, center=True,
            length=(frames - 1) * self.stft.hop,
        )  # fmt: skip
        return signal.reshape(*spectrum.shape[:2], -1)

    def at(self, stft: StftSpec, *, nyquist: bool = False) -> "Sound":
        """The same sound by another STFT, from full windows only: no sample beyond the stored frames is made up.

        Frame j is centred `stft.n_fft / 2 + j × stft.hop` samples after this sound's first centre.

        Args:
            stft: with the same sample rate.
            nyquist: keep the Nyquist bin, as the last one.

        Raises:
            ValueError: no phase, another sample rate, or fewer samples than a window.
        """
        if stft.sample_rate_hz != self.stft.sample_rate_hz:
            raise ValueError(f"{self.stft.sample_rate_hz} Hz cannot be seen at {stft.sample_rate_hz} Hz")
        signal = self.signal()
        if signal.shape[-1] < stft.n_fft:
            raise ValueError(f"{signal.shape[-1]} samples are fewer than a window of {stft.n_fft}; take longer crops")
        window, scale = window_of(stft, signal)
        full = scale * torch.stft(
            signal.flatten(0, 1), stft.n_fft, stft.hop, window=window, center=False, return_complex=True
        )
        full = full if nyquist else full[:, : stft.bins]
        spectrum = full.reshape(*signal.shape[:2], *full.shape[1:])
        return Sound(stft, spectrum.abs(), spectrum)


def seen_by(front: Front, sound: Sound) -> Sound:
    """A stored sound by the STFT of a model with that front: its own, else as it is; errors as `Sound.at`."""
    return sound if front.stft is None else sound.at(front.stft, nyquist=front.nyquist)


def heard_by(front: Front, sound: Sound, song_peak: float | None = None) -> Inexact[Tensor, "I C F T"]:
    """What a model with that front is given: the only place, of training, separation and checks.

    Args:
        front: the model's.
        sound: with its STFT (`seen_by`).
        song_peak: the largest magnitude of the song that all items are of; without it an item counts as a whole song.
    """
    heard = sound.phased() if front.phase else sound.magnitude
    if front.scale == "none":
        return heard
    of_items = sound.magnitude.amax(dim=(1, 2, 3), keepdim=True)
    peak = of_items if song_peak is None else torch.full_like(of_items, song_peak)
    return heard / torch.where(peak > 0, peak, 1)


Sounds = Mapping[str, Sound]
"""By the names that an objective's spec gives them (`vr_core.specs.slots.Signals`)."""
