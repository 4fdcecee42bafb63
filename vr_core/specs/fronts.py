"""What a model wants to hear: its STFT, with the Nyquist bin or without, magnitudes or complex numbers. No torch."""

from dataclasses import dataclass
from typing import Literal

from vr_core.specs.stft import StftSpec

STEREO = 2
"""Channels of all that models hear and answer."""


@dataclass(frozen=True)
class Front:
    """How stored frames, or a song, become a model's input."""

    stft: StftSpec | None = None
    """Its own; None: the data set's."""
    nyquist: bool = False
    """Whether the Nyquist bin is its last one; it needs an own STFT, since data sets store none."""
    phase: bool = False
    """Whether it hears complex spectrograms."""
    context_frames: int = 0
    """Frames at either side of a window that it hears and whose answer does not count."""
    scale: Literal["none", "song_peak"] = "none"
    """`song_peak`: what it hears is divided by the largest magnitude of the whole song."""
    receptive_frames: int | None = None
    """Frames that one frame of the answer depends on; None: all that it hears at once."""
    least_frames: int = 1
    """With fewer it gives no answer."""
    causal: bool = False
    """Whether a frame of the answer depends on that frame and earlier ones alone."""

    @property
    def takes_phase(self) -> bool:
        """Whether stored phase is needed: to hear it, or to come to another STFT, by way of the signal."""
        return self.phase or self.stft is not None

    def stft_on(self, data: StftSpec) -> StftSpec:
        """The STFT of what it hears of a data set with `data`."""
        return self.stft or data

    def bins_on(self, data: StftSpec) -> int:
        """Bins of what it hears."""
        return self.stft_on(data).bins + self.nyquist

    def frames_on(self, data: StftSpec, frames: int) -> int:
        """Frames that it hears of so many stored ones: those whose windows lie between the outer centres."""
        if self.stft is None:
            return frames
        return max(0, ((frames - 1) * data.hop - self.stft.n_fft) // self.stft.hop + 1)

    def frames_for(self, data: StftSpec, frames: int) -> int:
        """Fewest stored frames of which it hears so many."""
        if self.stft is None:
            return frames
        return -(-((frames - 1) * self.stft.hop + self.stft.n_fft) // data.hop) + 1


AS_STORED = Front()
"""Magnitudes of the data set's own STFT."""
