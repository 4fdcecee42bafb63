"""What an optimiser and its schedule are made from: the schema, without torch.

Reading, checking and submitting a recipe imports none.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from vr_core.config import Spec
from vr_core.specs.bounds import Count, Fraction, Positive

BODY = "body"
"""In place of a pattern: all of a model but its heads (`vr_core.models.model.Model.head_prefixes`)."""


def _patterns(value: Any) -> Any:
    """The word alone is a list of it."""
    if value == BODY:
        return (BODY,)
    return tuple(value) if isinstance(value, list) else value


@dataclass(frozen=True)
class GroupRow:
    """Layers that are trained alike, as a user is told of them."""

    layers: tuple[str, ...]
    """Their names, from the input to the output; a layer that is frozen in part is in two rows."""
    parameters: int
    lr: float
    """Peak rate; 0 where it stays as it is."""
    trained_from_step: int | None
    """0 from the beginning, None never."""


class OptimSpec(Spec):
    """An optimiser with warm-up and decay by step, clipping, layer-wise rates and freezing."""

    name: Literal["adamw", "muon", "schedule_free"] = "adamw"
    """`muon`: for the matrices between the first layer and the heads, with AdamW for the rest. `schedule_free`: AdamW
    that averages its steps in place of a decay (`vr_core/optimisers.py`)."""
    lr: Positive = 1e-3
    """Peak rate of the last layer (of all layers where `layer_decay` is 1)."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.98)
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """On matrices only; biases, norms and position vectors are not decayed."""
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    decay: Literal["cosine", "linear", "constant", "polynomial", "wsd"] = "cosine"
    """Way down from the peak. `wsd`: the peak until `cooldown` of the steps are left, then linearly (warm-up, stable,
    decay; Hu et al. 2024, "MiniCPM", arXiv:2404.06395, section 4.2, with the linear cool-down of Hägele et al. 2024,
    arXiv:2405.18392)."""
    power: Positive = 2.0
    """With `polynomial`: the share of the way that is left, to this power."""
    cooldown: Annotated[float, Field(gt=0, le=1)] = 0.2
    """With `wsd`: share of the steps after the warm-up in which the rate falls."""
    final_lr: Fraction = 0.01
    """Rate at the last step as a share of the peak."""
    clip_norm: Positive = 1.0
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Rate of each layer as a share of the rate of the layer after it (fine-tuning)."""
    layer_rule: Literal["geometric", "lineage"] = "geometric"
    """`lineage`, as in the project that this one comes from: layer i of N has `lr` / (N - i + 1), without
    `layer_decay`."""
    freeze: Annotated[tuple[str, ...], BeforeValidator(_patterns)] = ()
    """Names of layers or parameters that stay as they are, as shell patterns: `blocks.0.*`; or `body`."""
    unfreeze: dict[str, Count] = {}
    """Shell pattern → step until which what it names stays as it is: the last layers are trained first (Howard and
    Ruder 2018, "Universal Language Model Fine-tuning for Text Classification", section 3.3, gradual unfreezing)."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Exponential moving average of the weights; 0 turns it off."""

    @model_validator(mode="after")
    def _one_average(self) -> "OptimSpec":
        if self.name == "schedule_free" and (self.decay != "constant" or self.ema_decay):
            raise ValueError("name schedule_free averages its steps itself: give decay constant and ema_decay 0")
        if self.name == "schedule_free" and self.unfreeze:
            raise ValueError("name schedule_free averages from the first step on: leave out unfreeze, or use adamw")
        if self.name == "schedule_free" and not self.betas[0]:
            raise ValueError("name schedule_free needs betas above 0: the first one weighs its average")
        return self

    @model_validator(mode="after")
    def _one_rule(self) -> "OptimSpec":
        if self.layer_rule == "lineage" and self.layer_decay != 1:
            raise ValueError("layer_decay is of the geometric rule; leave it out with layer_rule lineage")
        return self
