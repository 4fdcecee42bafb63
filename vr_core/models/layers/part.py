"""What parts of a block are asked for; tokens are frames.

Legend, for all of `layers/`: B batch, T frame, D feature (a model's width), H head, K feature of a head.
"""

from abc import abstractmethod

from jaxtyping import Float
from torch import Tensor, nn

from vr_core.draws import Draws
from vr_core.models.layers.past import Past


class Part(nn.Module):
    """Frames to the same shape, its norm included; a block adds the result to what the part was given."""

    @abstractmethod
    def forward(
        self, x_btd: Float[Tensor, "B T D"], draws: Draws | None = None, past: Past | None = None
    ) -> Float[Tensor, "B T D"]:
        """Of any number of frames.

        Args:
            x_btd: frames.
            draws: of dropout inside the part; the block drops of its result. None means evaluation.
            past: what a causal part has kept of earlier frames, and keeps more of; None where these are all there are.
        """


def apply_dropout(x: Float[Tensor, "*any"], rate: float, draws: Draws | None, layer: int) -> Float[Tensor, "*any"]:
    """Dropout by counter (`Draws`); `draws` None means evaluation, in which nothing is dropped."""
    return x if draws is None or rate == 0 else draws.fold(layer).dropout(x, rate)
