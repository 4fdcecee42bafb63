"""Parts that change each frame by itself."""

from collections.abc import Callable

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vr_core.draws import Draws
from vr_core.models.layers.part import Part, apply_dropout
from vr_core.models.layers.past import Past


class GatedLinear(Part):
    """Pre-norm gated linear unit: D -> 2D, half of it gating the other (Dauphin et al. 2017, eq. 1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, 2 * width)

    def forward(
        self, x_btd: Float[Tensor, "B T D"], draws: Draws | None = None, past: Past | None = None
    ) -> Float[Tensor, "B T D"]:
        """As `Part.forward`."""
        return F.glu(self.linear(self.norm(x_btd)), dim=-1)


class FeedForward(Part):
    """D -> `hidden`, a function, and back; its norm before it unless told."""

    def __init__(
        self, width: int, hidden: int, activation: Callable[[Tensor], Tensor], *,
        normed: bool = True, hidden_norm: bool = False, dropout: float = 0.0,
    ) -> None:  # fmt: skip
        """`normed` and `hidden_norm`: a norm before it, and one before the way back; `dropout`: between the two."""
        super().__init__()
        self.norm = nn.LayerNorm(width) if normed else nn.Identity()
        self.up = nn.Linear(width, hidden)
        self.hidden_norm = nn.LayerNorm(hidden) if hidden_norm else nn.Identity()
        self.down = nn.Linear(hidden, width)
        self.activation, self.dropout = activation, dropout

    def forward(
        self, x_btd: Float[Tensor, "B T D"], draws: Draws | None = None, past: Past | None = None
    ) -> Float[Tensor, "B T D"]:
        """As `Part.forward`."""
        hidden = apply_dropout(self.activation(self.up(self.norm(x_btd))), self.dropout, draws, 0)
        return self.down(self.hidden_norm(hidden))


def squared_relu(x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Primer's activation (So et al. 2021, sec. 3)."""
    return F.relu(x).square()
