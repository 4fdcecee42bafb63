"""A block among maps: what came before, summed to one map, refined by the block's parts, is one map more.

Legend: B batch, T frame, D feature (width).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vr_core.draws import Draws
from vr_core.models.blocks.registry import BLOCKS
from vr_core.models.blocks.shape import BlockShape
from vr_core.models.layers.past import Past
from vr_core.specs.models import BlockName


class MapSum(nn.Linear):
    """Weights of a sum of maps, which the model reads: it is never called, so that nothing may take its place."""


class DenseBlock(nn.Module):
    """`maps` maps in, one map out: a 1×1 convolution, then parts that are each added to their input."""

    def __init__(self, maps: int, block: BlockName, shape: BlockShape, index: int) -> None:
        """`index`: of this block among all of a model, for its dropout's random numbers."""
        super().__init__()
        self.bottleneck = MapSum(maps, 1)
        self.parts = nn.ModuleList(BLOCKS[block](shape))
        self.dropout, self.first_layer = shape.dropout, index * len(self.parts)

    def forward(
        self, x_btmd: Float[Tensor, "B T maps D"], draws: Draws | None = None, past: Past | None = None
    ) -> Float[Tensor, "B T D"]:
        """Of any number of frames; `past` as in `Part.forward`."""
        x = torch.einsum("btmd,m->btd", x_btmd, self.bottleneck.weight[0]) + self.bottleneck.bias
        for layer, part in enumerate(self.parts, self.first_layer):
            own = draws.fold(layer) if draws is not None and self.dropout else None
            found = part(x, own, past)
            x = x + (found if own is None else own.dropout(found, self.dropout))
        return x
