"""What the loop, separation and the optimiser ask of a model."""

from abc import abstractmethod

from jaxtyping import Float, Inexact
from torch import Tensor, nn

from vr_core.draws import Draws
from vr_core.models.heads import Answer, answer_of
from vr_core.specs.fronts import AS_STORED, Front
from vr_core.specs.heads import HeadSpec


class Model(nn.Module):
    """Its `forward(heard, draws=None)` maps `[batch, channel, bin, frame]` to `vr_core.models.heads.Answer`.

    `heard` is complex where its front has phase, else magnitudes.
    """

    head: HeadSpec
    """What it answers."""
    front: Front = AS_STORED
    """What it hears."""
    answer_scale: float = 1.0
    """What amplitudes are multiplied by."""
    frozen_base: frozenset[str] = frozenset()
    """Names of the parameters that no training changes: all under low-rank factors (`vr_core.lora`)."""

    @abstractmethod
    def features(
        self, heard: Inexact[Tensor, "item channel bin frame"], draws: Draws | None = None
    ) -> Float[Tensor, "item frame feature"]:
        """What the head sees, for other tasks: `[item, frame, feature]`."""

    def answer(self, values_btn: Float[Tensor, "item frame n"], channels: int) -> Answer:
        """Its last numbers as `head` asks for them, in the order of `vr_core.models.heads.answer_of`."""
        return answer_of(self.head, values_btn, channels, self.answer_scale)

    @abstractmethod
    def layer_prefixes(self) -> tuple[str, ...]:
        """Parameter-name prefixes from the input to the output, for layer-wise learning rates."""

    def head_prefixes(self) -> tuple[tuple[str, ...], ...]:
        """Prefixes of names of all that depends on what is answered: a group for each stem of `head`, or one for all.

        The last layer, unless a model says otherwise; the others are its body, which fits a model of any other head.
        """
        return (self.layer_prefixes()[-1:],)
