"""What a model is made from: the schema, without torch.

Reading, checking and submitting a recipe imports none.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from vr_core.config import Spec
from vr_core.specs.bounds import Count


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


ModelSpec = Annotated[DenseFrameTransformerSpec | PlainStackSpec, Field(discriminator="name")]
