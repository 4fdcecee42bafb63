"""The cells of the Evolved Transformer: So, Liang and Le 2019 (arXiv:1901.11117), figure 3 and tensor2tensor's code.

The paper's feed-forward width 4d is `feedforward`; 2d is a half of it, and d/2 of the branches an eighth.

Departures: the positional encoding is the attention's own (`model.positions`), there sines added to the input.
Convolutions are centred unless the model is causal; there the encoder's are centred and the decoder's causal. There is
no encoder to attend to, so the decoder's two attentions to it fall away. Depthwise convolutions have biases, and
attention weights no dropout. The norm after the last cell is that before the masks.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vr_core.draws import Draws
from vr_core.models.blocks.shape import BlockShape
from vr_core.models.layers.feedforward import FeedForward, GatedLinear
from vr_core.models.layers.frame_conv import BranchedConv, FrameConv, SeparableConv, sum_of_branches
from vr_core.models.layers.part import Part
from vr_core.models.layers.past import Past
from vr_core.specs.models import decoder_heads


def evolved(shape: BlockShape) -> list[Part]:
    """The encoder's cell: gated linear unit, branches, attention, feed-forward."""
    return [
        GatedLinear(shape.width),
        EncoderBranches(shape),
        shape.attention(),
        FeedForward(shape.width, shape.feedforward, F.relu, dropout=shape.dropout),
    ]


def evolved_decoder(shape: BlockShape) -> list[Part]:
    """The decoder's cell: attention of twice the heads, branches, attention, feed-forward with a norm inside."""
    width, hidden = shape.width, shape.feedforward
    return [
        shape.attention(heads=decoder_heads(shape.heads)),
        BranchedConv(width, hidden // 2, hidden // 8, causal=shape.causal, dropout=shape.dropout),
        shape.attention(),
        FeedForward(width, hidden, F.silu, hidden_norm=True, dropout=shape.dropout),
    ]


class EncoderBranches(Part):
    """Left: a linear map to 4d, ReLU. Right: a convolution over 3 frames to d/2, ReLU, zero-padded and added.

    Then a norm and a separable convolution over 9 frames to d/2, no activation, zero-padded to d.
    """

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.width, self.dropout = shape.width, shape.dropout
        hidden, causal = shape.feedforward, shape.causal
        self.norm = nn.LayerNorm(self.width)
        self.left = nn.Linear(self.width, hidden)
        self.right = FrameConv(self.width, 3, outputs=hidden // 8, causal=causal)
        self.mid_norm = nn.LayerNorm(hidden)
        self.out = SeparableConv(FrameConv(hidden, 9, causal=causal), nn.Linear(hidden, self.width // 2))

    def forward(
        self, x_btd: Float[Tensor, "B T D"], draws: Draws | None = None, past: Past | None = None
    ) -> Float[Tensor, "B T D"]:
        """As `Part.forward`."""
        x_btd = self.norm(x_btd)
        mixed = sum_of_branches(F.relu(self.left(x_btd)), F.relu(self.right(x_btd, past)), self.dropout, draws)
        narrow = self.out(self.mid_norm(mixed), past)
        return F.pad(narrow, (0, self.width - narrow.shape[-1]))
