"""What a model is made from: the schema, without torch.

Reading, checking and submitting a recipe imports none.
"""

import itertools
from typing import Annotated, Literal

from pydantic import Field, model_validator

from vr_core.config import Spec
from vr_core.specs.bounds import Count
from vr_core.specs.fronts import AS_STORED, Front
from vr_core.specs.stft import StftSpec


class DenseFrameTransformerSpec(Spec):
    """The seed's stack with its slips corrected; tokens are frames (`vr_core/models/dense_frame_transformer.py`)."""

    name: Literal["dense_frame_transformer"] = "dense_frame_transformer"
    width: Count = 256
    """Features of a frame inside the blocks; equal to the number of bins means no in- and out-projection."""
    blocks: Count = 4
    heads: Count = 8
    feedforward: Count = 1024
    max_distance_frames: Count = 512
    """Relative positions further apart than this share a vector, so that any length works."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1

    @property
    def front(self) -> Front:
        """Magnitudes, as they are stored."""
        return AS_STORED

    @model_validator(mode="after")
    def _divisible(self) -> "DenseFrameTransformerSpec":
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads, got width {self.width} and heads {self.heads}")
        if self.feedforward % 4:
            raise ValueError(f"feedforward must be a multiple of 4, got {self.feedforward}")
        return self


class PlainStackSpec(Spec):
    """A baseline without attention: what any gain of the transformer is measured against."""

    name: Literal["plain_stack"] = "plain_stack"
    width: Count = 256
    blocks: Count = 3
    kernel_frames: Count = 11
    expansion: Count = 4
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @property
    def front(self) -> Front:
        """Magnitudes, as they are stored."""
        return AS_STORED


_BANDS = (*[2] * 24, *[4] * 12, *[12] * 8, *[24] * 8, *[48] * 8, 128, 129)
"""Bins of the 62 bands that all published files of an STFT of 2,048 have."""


class BsRoformerSpec(Spec):
    """Band-split RoFormer (`vr_core/models/bs_roformer.py`)."""

    name: Literal["bs_roformer"] = "bs_roformer"
    width: Count = 384
    blocks: Count = 6
    """Each is a transformer over time and one over bands."""
    heads: Count = 8
    head_width: Annotated[int, Field(gt=0, multiple_of=2)] = 64
    expansion: Count = 4
    mask_hidden_layers: Count = 1
    """Of each band's mask; its width is `mask_expansion` times that of the model."""
    mask_expansion: Count = 4
    bands: tuple[Count, ...] = ()
    """Bins of each band; by default the published 62, or such with the same borders at another size of STFT."""
    stft: StftSpec = StftSpec(hop=441)
    """Its own, whatever a data set is stored with; the sample rate must be the data set's."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    recompute: bool = False
    """Compute each transformer again in the backward pass: a third more time, and memory of one of them at a time."""

    @property
    def front(self) -> Front:
        """Complex spectrograms with their Nyquist bin."""
        return Front(self.stft, nyquist=True, phase=True)

    def bands_of(self, bins: int) -> tuple[int, ...]:
        """Bins of each band of so many bins in all.

        Raises:
            ValueError: `bands` add up to another number.
        """
        if self.bands:
            if sum(self.bands) != bins:
                raise ValueError(f"model.bands: add up to {sum(self.bands)} bins, the STFT has {bins}")
            return self.bands
        ends = [round(end * bins / sum(_BANDS)) for end in itertools.accumulate(_BANDS)]
        return tuple(b - a for a, b in itertools.pairwise([0, *ends]) if b > a)

    @model_validator(mode="after")
    def _bands(self) -> "BsRoformerSpec":
        self.bands_of(self.front.bins_on(self.stft))
        return self


ModelSpec = Annotated[BsRoformerSpec | DenseFrameTransformerSpec | PlainStackSpec, Field(discriminator="name")]
