"""A residual U-Net that halves bins and no frames, with a block over frames at each level.

In github.com/kingoomieiii/frame-transformer it removed vocals best of three: blocks at each level, blocks at the bottom
alone, and the stack without halving (its README of 2022-07-23). Its sizes of that time are not published: these are
ours.

Legend: B batch, C channel of the network, T frame, F bin, D bins of a level, which are its block's features.

| level, of 1,024 bins | bins | maps, of `channels` 8 | what is there |
|---|--:|--:|---|
| input | 1,024 | 8 | convolution over 3 bins |
| 0 | 1,024 | 8 + 1 | two convolutions over 3 bins, added to the input (He et al. 2016, arXiv:1603.05027), a block |
| 1, 2 … `levels` | 512, 256 … | 16, 24 … + 1 | the same, the first convolution of stride 2 |
| up again | … 1,024 | … 8 + 1 | a transposed convolution over 2 bins, the maps of the way down beside it, the same |
| output | 1,024 | a mask and channel | a norm, a 1 × 1 convolution |

A block takes the weighted sum of a level's maps and gives one more, as in a dense net (`blocks/dense.py`). Levels of
more than `block_bins` bins have none. Convolutions and norms are within a frame, so only blocks join frames: any number
of them is heard, and with `causal` blocks the model is causal. Bins are padded with silence to a multiple of 2^levels.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vr_core.draws import Draws
from vr_core.errors import ModelError
from vr_core.models.blocks.dense import DenseBlock
from vr_core.models.blocks.shape import BlockShape
from vr_core.models.heads import Answer, require_per_bin
from vr_core.models.layers.magnitude import CompressedMagnitude
from vr_core.models.layers.past import Past, require_causal
from vr_core.models.model import Model
from vr_core.specs.fronts import STEREO
from vr_core.specs.heads import HeadSpec
from vr_core.specs.models import FrameUNetSpec


class Residual(nn.Module):
    """Norm, ReLU and convolution, twice, added to its input; the first convolution may halve the bins."""

    def __init__(self, inputs: int, outputs: int, bins: int, output_bins: int) -> None:
        super().__init__()
        stride = bins // output_bins
        self.first_norm, self.second_norm = nn.LayerNorm(bins), nn.LayerNorm(output_bins)
        self.first = nn.Conv2d(inputs, outputs, (1, 3), (1, stride), (0, 1))
        self.second = nn.Conv2d(outputs, outputs, (1, 3), padding=(0, 1))
        plain = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if plain else nn.Conv2d(inputs, outputs, 1, (1, stride))

    def forward(self, x: Float[Tensor, "B C T F"]) -> Float[Tensor, "B _C T _F"]:
        y = self.second(F.relu(self.second_norm(self.first(F.relu(self.first_norm(x))))))
        return y + self.shortcut(x)


class Level(nn.Module):
    """A residual, then the block's map beside its result."""

    def __init__(self, residual: Residual, block: DenseBlock | None) -> None:
        super().__init__()
        self.residual, self.block = residual, block
        self.outputs = residual.second.out_channels + (block is not None)

    def forward(
        self, x: Float[Tensor, "B C T F"], draws: Draws | None, past: Past | None
    ) -> Float[Tensor, "B {self.outputs} T _F"]:
        x = self.residual(x)
        if self.block is None:
            return x
        return torch.cat([x, self.block(x.transpose(1, 2), draws, past)[:, None]], dim=1)


class UpLevel(nn.Module):
    """Twice the bins, the maps that were there on the way down beside them, then a level."""

    def __init__(self, inputs: int, outputs: int, level: Level) -> None:
        super().__init__()
        self.larger, self.level = nn.ConvTranspose2d(inputs, outputs, (1, 2), (1, 2)), level

    def forward(
        self, x: Float[Tensor, "B C T F"], skip: Float[Tensor, "B _S T 2*F"], draws: Draws | None, past: Past | None
    ) -> Float[Tensor, "B _C T 2*F"]:
        return self.level(torch.cat([self.larger(x), skip], dim=1), draws, past)


class FrameUNet(Model):
    """Mixture magnitude in, masks out."""

    def __init__(self, spec: FrameUNetSpec, bins: int, head: HeadSpec) -> None:
        """Of any number of bins.

        Raises:
            ModelError: a level's block cannot be made of its bins.
        """
        super().__init__()
        require_per_bin(head, type(self).__name__)
        self.bins, self.head, self.front = bins, head, spec.front
        self.compress = CompressedMagnitude()
        self.more_bins = -bins % (1 << spec.levels)
        levels = range(spec.levels + 1)
        sizes = [(bins + self.more_bins) >> level for level in levels]
        maps = [spec.channels * (level + 1) for level in levels]
        blocked = [bins >> level <= spec.block_bins for level in levels]

        def level_of(place: int, level: int, inputs: int, bins: int) -> Level:
            """`place`: among all levels from the input to the output, which numbers the block's dropout."""
            block = DenseBlock(maps[level], spec.block, _shape(spec, sizes[level]), place) if blocked[level] else None
            return Level(Residual(inputs, maps[level], bins, sizes[level]), block)

        self.input = nn.Conv2d(STEREO, spec.channels, (1, 3), padding=(0, 1))
        down: list[Level] = []
        for level in levels:
            above = (down[-1].outputs, sizes[level - 1]) if down else (spec.channels, sizes[0])
            down.append(level_of(level, level, *above))
        self.down, outputs = nn.ModuleList(down), [level.outputs for level in down]
        self.up = nn.ModuleList(
            UpLevel(outputs[level + 1], maps[level], level_of(place, level, maps[level] + outputs[level], sizes[level]))
            for place, level in enumerate(reversed(levels[:-1]), len(levels))
        )
        self.output = nn.Sequential(nn.LayerNorm(sizes[0]), nn.Conv2d(outputs[0], STEREO * head.maps, 1))

    def layer_prefixes(self) -> tuple[str, ...]:
        """As `Model.layer_prefixes`."""
        down, up = (tuple(f"{way}.{i}." for i in range(len(getattr(self, way)))) for way in ("down", "up"))
        return ("input.", *down, *up, "output.")

    def forward(
        self, magnitude_bcft: Float[Tensor, "B C {self.bins} T"], draws: Draws | None = None, past: Past | None = None
    ) -> Answer:
        """What the head asks for, of magnitudes of any number of frames; `past` as in `DenseFrameTransformer`."""
        values = self.output(self._maps(magnitude_bcft, draws, past))[..., : self.bins]
        return self.answer(values.transpose(1, 2).flatten(2), magnitude_bcft.shape[1])

    def features(
        self, magnitude_bcft: Float[Tensor, "B C {self.bins} T"], draws: Draws | None = None
    ) -> Float[Tensor, "B T n"]:
        """As `Model.features`: the last maps, one after the other."""
        return self._maps(magnitude_bcft, draws).transpose(1, 2).flatten(2)

    def _maps(
        self, magnitude_bcft: Float[Tensor, "B C {self.bins} T"], draws: Draws | None, past: Past | None = None
    ) -> Float[Tensor, "B _C T _F"]:
        require_causal(past, causal=self.front.causal)
        x = self.input(self.compress(F.pad(magnitude_bcft, (0, 0, 0, self.more_bins))).transpose(2, 3))
        skips = []
        for level in self.down:
            x = level(x, draws, past)
            skips.append(x)
        skips.pop()
        for level in self.up:
            x = level(x, skips.pop(), draws, past)
        return x


def _shape(spec: FrameUNetSpec, width: int) -> BlockShape:
    feedforward = spec.expansion * width
    try:
        spec.require_divisible(width, feedforward)
    except ValueError as error:
        raise ModelError(
            f"frame_unet, the level of {width} bins: {error}; give fewer model.levels or heads, or another expansion"
        ) from None
    return BlockShape.of(spec, width, feedforward)
