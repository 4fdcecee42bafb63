"""Fine-tuning: stems out of the mixture."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vr_core.audio.estimates import estimate
from vr_core.audio.sound import Sound, Sounds
from vr_core.draws import Draws
from vr_core.models.heads import Answer
from vr_core.objectives.losses import LOSSES
from vr_core.objectives.objective import Posed
from vr_core.specs.objectives import SeparateSpec


class Separate:
    """Losses between what the model says of each stem and the stem, added up by weight."""

    def __init__(self, spec: SeparateSpec) -> None:
        """`spec` says which stems, what is answered, and what is compared."""
        self._spec = spec

    def pose(self, sounds: Sounds, draws: Draws) -> Posed:
        """The mixture, of which the stems are wanted; a stem that no item of the batch has is silent."""
        return Posed(sounds["mixture"], {stem: sounds[stem] for stem in self._spec.stems})

    def judge(self, answer: Answer, posed: Posed) -> dict[str, Float[Tensor, " item"]]:
        """As `Objective.judge`; of several stems the mean. Terms are named by their loss, and times their weight."""
        estimates = estimate(self._spec.head, answer, posed.heard)
        pairs = [(estimates[stem], posed.targets[stem]) for stem in self._spec.stems]
        if not self._spec.losses:
            return {"l1": _mean_of(LOSSES[self._spec.loss], pairs)}
        return {name: _mean_of(LOSSES[name], pairs) * weight for name, weight in self._spec.losses.items()}


def _mean_of(
    loss: Callable[[Sound, Sound], Float[Tensor, " item"]], pairs: Sequence[tuple[Sound, Sound]]
) -> Float[Tensor, " item"]:
    """Over pairs of what is estimated and what is wanted."""
    found = [loss(estimated, wanted) for estimated, wanted in pairs]
    return found[0] if len(found) == 1 else torch.stack(found).mean(dim=0)
