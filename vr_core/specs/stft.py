"""What a spectrogram is made with: the schema, without torch.

Reading, checking and submitting a recipe imports none.
"""

from typing import Annotated

from pydantic import Field, model_validator

from vr_core.config import Spec


class StftSpec(Spec):
    """Settings of the spectrogram; a model and a data set must agree on them."""

    sample_rate_hz: Annotated[int, Field(ge=8000, le=192_000)] = 44_100
    n_fft: Annotated[int, Field(ge=64, le=16_384)] = 2048
    hop: Annotated[int, Field(ge=16, le=8192)] = 1024
    """Samples between frames."""

    @model_validator(mode="after")
    def _invertible(self) -> "StftSpec":
        if self.n_fft % 2 or self.hop * 2 > self.n_fft:
            raise ValueError(f"n_fft must be even and at least 2 × hop, got n_fft {self.n_fft} and hop {self.hop}")
        return self

    @property
    def bins(self) -> int:
        """Stored bins: the Nyquist bin is not one of them."""
        return self.n_fft // 2

    def padded_samples(self, samples: int) -> int:
        """Length after the padding at the end: a whole number of hops, plus one."""
        return (-(-samples // self.hop) + 1) * self.hop

    def frames(self, samples: int) -> int:
        """Frames of a signal of `samples` samples."""
        return self.padded_samples(samples) // self.hop + 1
