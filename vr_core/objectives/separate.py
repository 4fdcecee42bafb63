"""Fine-tuning: stems out of the mixture."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from vr_core.audio.estimates import estimate
from vr_core.audio.sound import Sound, Sounds
from vr_core.draws import Draws
from vr_core.models.heads import Answer
from vr_core.objectives.objective import LOSS_SCALE, Posed
from vr_core.specs.objectives import SeparateSpec


class Separate:
    """L1 between what the model says of each stem and the stem, over all elements."""

    def __init__(self, spec: SeparateSpec) -> None:
        """`spec` says which stems, what is answered, and what is compared."""
        self._spec = spec

    def pose(self, sounds: Sounds, draws: Draws) -> Posed:
        """The mixture, of which the stems are wanted; a stem that no item of the batch has is silent."""
        return Posed(sounds["mixture"], {stem: sounds[stem] for stem in self._spec.stems})

    def judge(self, answer: Answer, posed: Posed) -> dict[str, Float[Tensor, " item"]]:
        """As `Objective.judge`; of several stems the mean."""
        estimates = estimate(self._spec.head, answer, posed.heard)
        compared = _COMPARED[self._spec.loss]
        losses = []
        for stem in self._spec.stems:
            error = (compared(estimates[stem]) - compared(posed.targets[stem])).abs()
            # Over the axes as they lie in memory: to flatten them first would copy transposed frames.
            losses.append(error.mean(dim=tuple(range(1, error.ndim))) * LOSS_SCALE)
        return {"l1": losses[0] if len(losses) == 1 else torch.stack(losses).mean(dim=0)}


_COMPARED: dict[str, Callable[[Sound], Tensor]] = {
    "magnitude": lambda sound: sound.magnitude,
    "spectrum": lambda sound: torch.view_as_real(sound.phased()),
    "waveform": Sound.signal,
}
"""What of a sound is compared, for each loss."""
