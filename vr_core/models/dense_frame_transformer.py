"""The dense stack of 2022 (`seed_frame_transformer.py`), its errors corrected (`vr_core/README.md` lists them).

Legend: B batch, C channel, F bin, T frame, D feature (width). A frame is a token and its bins are its features. Block i
sees 2 + i maps `[D, T]`: a 1×1 convolution (a weighted sum) takes them to one, the block refines it, and the result is
one more map, as in a dense net. A last 1×1 convolution over all maps gives the stereo mask. Which block it is says
`model.block` (`blocks/registry.py`).

With `causal` a frame of the answer depends on no later one: convolutions are padded on the left, attention looks back.
A song can then come in pieces, with what was heard kept in a `Past`: the answers are those of the whole.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vr_core.draws import Draws
from vr_core.models.blocks.dense import DenseBlock, MapSum
from vr_core.models.blocks.shape import BlockShape
from vr_core.models.heads import Answer
from vr_core.models.layers.magnitude import CompressedMagnitude
from vr_core.models.layers.past import Past, require_causal
from vr_core.models.model import Model
from vr_core.specs.fronts import STEREO
from vr_core.specs.heads import HeadSpec
from vr_core.specs.models import DenseFrameTransformerSpec


class MaskHead(nn.Module):
    """All maps to the logits of the stereo masks, C·F of them a frame for each map of the head, or to its classes.

    The stack of 2022 has no norm here. As in every pre-norm stack the maps grow with depth, and without one the first
    hundred steps go into undoing their scale.
    """

    def __init__(self, maps: int, width: int, bins: int, head: HeadSpec) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        projected = width != bins or head.classes > 0
        self.mix = MapSum(maps, STEREO if projected else head.maps * STEREO)
        outputs = head.classes or head.maps * STEREO * bins
        self.project = nn.Linear(STEREO * width, outputs) if projected else nn.Identity()

    def forward(self, maps_btmd: Float[Tensor, "B T maps D"]) -> Float[Tensor, "B T n"]:
        mixed = torch.einsum("btmd,cm->btcd", self.norm(maps_btmd), self.mix.weight) + self.mix.bias[:, None]
        return self.project(mixed.flatten(2))


class DenseFrameTransformer(Model):
    """Mixture magnitude in, masks out."""

    def __init__(self, spec: DenseFrameTransformerSpec, bins: int, head: HeadSpec) -> None:
        super().__init__()
        self.bins, self.width, self.head = bins, spec.width, head
        self.compress = CompressedMagnitude()
        # Narrower than the bins, the stereo pair is projected jointly: the first block's weighted sum of two maps
        # could not compare left with right otherwise.
        self.input = nn.Linear(STEREO * bins, STEREO * spec.width) if spec.width != bins else nn.Identity()
        self.front = spec.front
        shape = BlockShape.of(spec, spec.width, spec.feedforward)
        self.blocks = nn.ModuleList(DenseBlock(STEREO + i, spec.block, shape, i) for i in range(spec.blocks))
        self.output = MaskHead(STEREO + spec.blocks, spec.width, bins, head)

    def layer_prefixes(self) -> tuple[str, ...]:
        """Parameter-name prefixes from the input to the output, for layer-wise learning rates."""
        return ("input.", *(f"blocks.{i}." for i in range(len(self.blocks))), "output.")

    def forward(
        self, magnitude_bcft: Float[Tensor, "B C {self.bins} T"], draws: Draws | None = None, past: Past | None = None
    ) -> Answer:
        """What the head asks for, of magnitudes of any number of frames.

        With a `past`, these are the frames after those that it has heard.

        Raises:
            ModelError: a past for a model that is not causal.
        """
        return self.answer(self.output(self._maps(magnitude_bcft, draws, past)), magnitude_bcft.shape[1])

    def features(
        self, magnitude_bcft: Float[Tensor, "B C {self.bins} T"], draws: Draws | None = None
    ) -> Float[Tensor, "B T n"]:
        """As `Model.features`: the maps, one after the other."""
        return self._maps(magnitude_bcft, draws).flatten(2)

    def _maps(
        self, magnitude_bcft: Float[Tensor, "B C {self.bins} T"], draws: Draws | None, past: Past | None = None
    ) -> Float[Tensor, "B T maps D"]:
        require_causal(past, causal=self.front.causal)
        batch, channels, bins, frames = magnitude_bcft.shape
        x = self.compress(magnitude_bcft).permute(0, 3, 1, 2).reshape(batch, frames, channels * bins)
        maps = self.input(x).reshape(batch, frames, channels, self.width)
        for block in self.blocks:
            maps = torch.cat([maps, block(maps, draws, past)[:, :, None]], dim=2)
        return maps
