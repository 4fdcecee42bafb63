"""What an optimiser and its schedule are made from: the schema, without torch.

Reading, checking and submitting a recipe imports none.
"""

from typing import Annotated, Literal

from pydantic import Field

from vr_core.config import Spec
from vr_core.specs.bounds import Count, Fraction, Positive


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
