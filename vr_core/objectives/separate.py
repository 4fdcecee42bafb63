"""Fine-tuning: the instrumental's magnitude out of the mixture's."""

from jaxtyping import Float
from torch import Tensor

from vr_core.draws import Draws
from vr_core.objectives.objective import LOSS_SCALE, Posed, Sounds
from vr_core.specs.objectives import SeparateSpec


class Separate:
    """L1 between mask × mixture and the instrumental, over all elements."""

    def __init__(self, spec: SeparateSpec) -> None:
        """`spec` has what the order of items draws; the loss has no settings."""

    def pose(self, sounds: Sounds, draws: Draws) -> Posed:
        """The mixture, of which the instrumental is wanted."""
        return Posed(sounds["mixture"], sounds["instrumental"])

    def judge(self, mask: Float[Tensor, "item channel bin frame"], posed: Posed) -> dict[str, Float[Tensor, " item"]]:
        """As `Objective.judge`."""
        return {"l1": (mask * posed.heard - posed.target).abs().mean(dim=(1, 2, 3)) * LOSS_SCALE}
