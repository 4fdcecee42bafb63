"""What a model, an objective, an optimiser and a spectrogram are made from: the schema, without torch.

Kept apart from the code it configures so that reading, checking and submitting a recipe takes no torch import.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from vr_core.config import Spec

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


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


class DenseFrameTransformerSpec(Spec):
    """The seed's stack with its slips corrected; tokens are frames (`vr_core/dense_frame_transformer.py`)."""

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


class MaskedFramesSpec(Spec):
    """Pretraining: hide runs of frames of a mixture and predict their magnitudes."""

    name: Literal["masked_frames"] = "masked_frames"
    rate: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of tokens chosen; at least one an item."""
    token_frames: Count = 16
    """Width of a token: a chosen token hides this many neighbouring frames."""
    ones: Fraction = 0.8
    """Share of chosen tokens set to one, so that a mask times the input can carve out the answer."""
    noise: Fraction = 0.1
    """Share of chosen tokens replaced by uniform noise; what remains is left as it is."""

    @model_validator(mode="after")
    def _shares(self) -> "MaskedFramesSpec":
        if self.ones + self.noise > 1:
            raise ValueError(f"ones + noise must be at most 1, got {self.ones} + {self.noise}")
        return self


class SeparateSpec(Spec):
    """Fine-tuning: the instrumental's magnitude out of the mixture's, L1."""

    name: Literal["separate"] = "separate"
    remix: Fraction = 0.8
    """Share of items whose vocals come from another song or place; the rest keep the song's own."""
    gain_db: Annotated[float, Field(ge=0, le=24)] = 6.0
    """Vocals are scaled by a gain drawn uniformly from ± this many decibels when remixed."""
    swap_channels: Fraction = 0.5
    """Share of items whose left and right are exchanged, drawn for each stem apart."""
    silent_vocals: Fraction = 0.02
    """Share of items without vocals: nothing to remove."""


ObjectiveSpec = Annotated[MaskedFramesSpec | SeparateSpec, Field(discriminator="name")]


class OptimSpec(Spec):
    """AdamW with warm-up and decay by step, clipping, layer-wise rates and freezing."""

    lr: Positive = 1e-3
    """Peak rate of the last layer (of all layers where `layer_decay` is 1)."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.98)
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """On matrices only; biases, norms and position vectors are not decayed."""
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    decay: Literal["cosine", "linear", "constant"] = "cosine"
    final_lr: Fraction = 0.01
    """Rate at the last step as a share of the peak."""
    clip_norm: Positive = 1.0
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Rate of each layer as a share of the rate of the layer after it (fine-tuning)."""
    freeze: tuple[str, ...] = ()
    """Names of layers or parameters that stay as they are, as shell patterns: `blocks.0.*`."""
    unfreeze: dict[str, Count] = {}
    """Shell pattern → step until which what it names stays as it is: the last layers are trained first (Howard and
    Ruder 2018, "Universal Language Model Fine-tuning for Text Classification", section 3.3, gradual unfreezing)."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Exponential moving average of the weights; 0 turns it off."""
