"""What a training step minimises: losses of single items, as functions of a model and magnitudes.

The loss of an item is the mean over its counted elements (masked frames, or all); what the loop minimises is the mean
of the items' losses, so that the number of items is the only divisor however the batch is cut.

Losses are stated in thousandths of full scale. Magnitudes of music are 1e-4 to 1e-2 of a full-scale sine, and with
gradients that small AdamW's epsilon of 1e-8 would act as a brake and clipping by norm would never act: measured on the
shared songs, the same stack after 600 steps was 3 dB worse.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from vr_core.draws import Draws

LOSS_SCALE = 1000.0


Sounds = Mapping[str, Float[Tensor, "item channel bin frame"]]
"""Magnitudes of a batch, by the names that the objective's spec gives its sounds (`vr_core.specs.slots.Signals`)."""


@dataclass(frozen=True)
class Posed:
    """A batch as an objective puts it to a model."""

    heard: Float[Tensor, "item channel bin frame"]
    """What the model is given."""
    target: Float[Tensor, "item channel bin frame"]
    """What its mask times `heard` should be."""
    counted: Float[Tensor, "item frame"] | None = None
    """0 or 1: frames that count. None where all do."""


@runtime_checkable  # what takes one is checked in tests
class Objective(Protocol):
    """Poses a batch to a model and judges the answer."""

    def pose(self, sounds: Sounds, draws: Draws) -> Posed:
        """What the model hears, and what is wanted of it; `draws` has one stream an item."""
        ...

    def judge(self, mask: Float[Tensor, "item channel bin frame"], posed: Posed) -> dict[str, Float[Tensor, " item"]]:
        """Term → losses; what is minimised is their sum.

        Args:
            mask: the model's answer to `posed.heard`.
            posed: from `pose`.
        """
        ...


def item_losses(
    objective: Objective, model: nn.Module, sounds: Sounds, draws: Draws, *, training: bool
) -> dict[str, Float[Tensor, " item"]]:
    """Term → losses of a batch; with dropout where `training`."""
    posed = objective.pose(sounds, draws)
    return objective.judge(model(posed.heard, draws if training else None), posed)
