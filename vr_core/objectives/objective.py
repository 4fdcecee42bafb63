"""What a training step minimises: losses of single items, as functions of a model and magnitudes.

The loss of an item is the mean over its counted elements (masked frames, or all); what the loop minimises is the mean
of the items' losses, so that the number of items is the only divisor however the batch is cut.

Losses are stated in thousandths of full scale. Magnitudes of music are 1e-4 to 1e-2 of a full-scale sine, and with
gradients that small AdamW's epsilon of 1e-8 would act as a brake and clipping by norm would never act: measured on the
shared songs, the same stack after 600 steps was 3 dB worse.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from vr_core.audio.sound import Sound, Sounds, heard_by
from vr_core.draws import Draws
from vr_core.models.heads import Answer
from vr_core.specs.fronts import AS_STORED, Front

LOSS_SCALE = 1000.0


@dataclass(frozen=True)
class Posed:
    """A batch as an objective puts it to a model."""

    heard: Sound
    """What the model is given."""
    targets: dict[str, Sound]
    """Stem → what the model should say it is."""
    counted: Float[Tensor, "item frame"] | None = None
    """0 or 1: frames that count. None where all do."""


@runtime_checkable  # what takes one is checked in tests
class Objective(Protocol):
    """Poses a batch to a model and judges the answer."""

    def pose(self, sounds: Sounds, draws: Draws) -> Posed:
        """What the model hears, and what is wanted of it; `draws` has one stream an item."""
        ...

    def judge(self, answer: Answer, posed: Posed) -> dict[str, Float[Tensor, " item"]]:
        """Term → losses; what is minimised is their sum.

        Args:
            answer: the model's, to `posed.heard`.
            posed: from `pose`.
        """
        ...


def item_losses(
    objective: Objective, model: nn.Module, sounds: Sounds, draws: Draws, *, training: bool, front: Front = AS_STORED
) -> dict[str, Float[Tensor, " item"]]:
    """Term → losses of a batch; with dropout where `training`.

    Args:
        objective: poses and judges.
        model: a `vr_core.models.model.Model`, or one that is wrapped for several ranks.
        sounds: with the STFT of `front`, and with phase where it or the objective needs it.
        draws: one stream an item.
        training: with dropout.
        front: the model's.
    """
    posed = objective.pose(sounds, draws)
    return objective.judge(model(heard_by(front, posed.heard), draws if training else None), posed)
