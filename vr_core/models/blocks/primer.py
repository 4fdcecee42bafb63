"""Primer: So et al. 2021, "Primer: searching for efficient transformers" (arXiv:2109.08668), and its published code.

Primer-EZ changes two things of a transformer: the feed-forward's activation is a squared ReLU, and q, k and v each pass
a depthwise convolution over 3 frames, 0.5 on the present frame and 0.5/3 on the others at the start, without a bias.

All of Primer also derives the queries from the keys, and norms the feed-forward's result in place of its input. Its own
norm, x̄ / sqrt(mean(x · x̄) + ε), is LayerNorm in exact arithmetic, since mean(x · x̄) = mean(x̄²): that is used here.

Departures: the paper's convolutions are causal; here they are centred unless the model is. The positional encoding is
the attention's own (`model.positions`). Linear maps have biases.
"""

from jaxtyping import Float
from torch import Tensor, nn

from vr_core.draws import Draws
from vr_core.models.blocks.shape import BlockShape
from vr_core.models.layers.attention import FrameAttention
from vr_core.models.layers.feedforward import FeedForward, squared_relu
from vr_core.models.layers.frame_conv import FrameConv
from vr_core.models.layers.part import Part
from vr_core.models.layers.past import Past


def primer_ez(shape: BlockShape) -> list[Part]:
    """Attention over convolved queries, keys and values, then a feed-forward."""
    return [
        shape.attention(mdha=True, mdha_bias=False),
        FeedForward(shape.width, shape.feedforward, squared_relu),
    ]


def primer(shape: BlockShape) -> list[Part]:
    """The same with shared queries and keys, and the second norm at the end of its part."""
    feed = FeedForward(shape.width, shape.feedforward, squared_relu, normed=False)
    return [shape.attention(kind=SharedAttention, mdha=True, mdha_bias=False), NormedAfter(feed, shape.width)]


class SharedAttention(FrameAttention):
    """k = convolved W x, q = W' k: a linear map of the keys. It always convolves."""

    def _make_projections(self, width: int, *, mdha: bool, bias: bool) -> None:
        self.key_value, self.query = nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.key_value_conv = FrameConv(2 * width, 3, identity=True, causal=self.causal, bias=bias)

    def _projected(self, x_btd: Float[Tensor, "B T D"], past: Past | None) -> tuple[Tensor, ...]:
        k, v = self.key_value_conv(self.key_value(x_btd), past).chunk(2, dim=-1)
        return self.query(k), k, v


class NormedAfter(Part):
    """A part, and a norm of its result."""

    def __init__(self, part: Part, width: int) -> None:
        super().__init__()
        self.part, self.norm = part, nn.LayerNorm(width)

    def forward(
        self, x_btd: Float[Tensor, "B T D"], draws: Draws | None = None, past: Past | None = None
    ) -> Float[Tensor, "B T D"]:
        """As `Part.forward`."""
        return self.norm(self.part(x_btd, draws, past))
