"""The block of the stack of 2022, its errors corrected: half Evolved Transformer, half Primer.

Gated linear unit and order are the Evolved Transformer's encoder, the convolutions its decoder's (kernels 11, 7, 7),
attention over convolved queries, keys and values and the squared ReLU are Primer's.
"""

from vr_core.models.blocks.shape import BlockShape
from vr_core.models.layers.feedforward import FeedForward, GatedLinear, squared_relu
from vr_core.models.layers.frame_conv import BranchedConv
from vr_core.models.layers.part import Part


def frame_transformer(shape: BlockShape) -> list[Part]:
    """Its parts, each added to its input."""
    width, hidden = shape.width, shape.feedforward
    return [
        GatedLinear(width),
        BranchedConv(width, hidden // 2, hidden // 4, causal=shape.causal),
        shape.attention(mdha=True),
        FeedForward(width, hidden, squared_relu),
    ]
