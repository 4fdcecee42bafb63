"""What the multi-band dense nets share: dense blocks in U-shaped nets, one for each band and one for all of them.

Takahashi and Mitsufuji 2017, "Multi-scale multi-band DenseNets for audio source separation" (arXiv:1706.09588), and
Takahashi, Goswami and Mitsufuji 2018, "MMDenseLSTM" (arXiv:1805.02410). The papers leave sizes open; these are those of
the one open implementation that trains them (tky823, DNN-based_source_separation), whose numbers of parameters ours
have. There a layer's maps are normed once for all later layers of a block, and a block gives its last layer's maps.

Legend: B batch, C channel of the network, F bin, T frame.

Departures: a norm takes its statistics over an item, since a batch is cut anywhere. Odd numbers of bins and frames are
padded with a zero at the end, there at both sides. Magnitudes are heard on a logarithmic scale before the affine map of
each bin.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vr_core.draws import Draws
from vr_core.models.heads import Answer, require_per_bin
from vr_core.models.layers.magnitude import CompressedMagnitude
from vr_core.models.model import Model
from vr_core.specs.fronts import STEREO, Front
from vr_core.specs.heads import HeadSpec

Kernel = tuple[int, int]
"""Bins, frames."""


@dataclass(frozen=True)
class NetShape:
    """Of one U-shaped net: half of its blocks on the way down, one at the bottom, half on the way up."""

    maps: int
    """Of the first convolution."""
    growth: tuple[int, ...]
    """k of each block: the maps that a layer adds."""
    layers: tuple[int, ...]
    """L of each block."""
    kernel: Kernel
    lstm: dict[int, int] = field(default_factory=dict)
    """Number of a block → units over both directions of the LSTM beside it."""


class SameConv(nn.Module):
    """A convolution whose output is as large as its input, kernels of even size included."""

    def __init__(self, inputs: int, outputs: int, kernel: Kernel, dilation: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, dilation=dilation)
        self.more = [dilation * (size - 1) for size in reversed(kernel)]

    def forward(self, x: Float[Tensor, "B C F T"]) -> Float[Tensor, "B _C F T"]:
        left, above = (more // 2 for more in self.more)
        return self.conv(F.pad(x, (left, self.more[0] - left, above, self.more[1] - above)))


class DenseBlock(nn.Module):
    """Layer l is the sum of convolutions of the input and of all layers before it, each normed and rectified."""

    def __init__(self, inputs: int, growth: int, layers: int, kernel: Kernel, *, dilated: bool = False) -> None:
        """`dilated`: layer l with a dilation of 2^l."""
        super().__init__()
        self.growth = growth
        widths = [inputs, *[growth] * (layers - 1)]
        self.norms = nn.ModuleList(nn.GroupNorm(1, width) for width in widths)
        # One convolution gives what all later layers have of these maps.
        self.convs = nn.ModuleList(
            SameConv(width, growth * (layers - i), kernel, 2**i if dilated else 1) for i, width in enumerate(widths)
        )

    def forward(self, x: Float[Tensor, "B C F T"]) -> Float[Tensor, "B {self.growth} F T"]:
        later: Tensor | None = None
        for norm, conv in zip(self.norms, self.convs, strict=True):
            found = conv(F.relu(norm(x)))
            later = found if later is None else later + found
            x, later = later[:, : self.growth], later[:, self.growth :]
        return x


class LstmMap(nn.Module):
    """All maps to one, an LSTM over its frames in both directions with the bins as features, and back to the bins."""

    def __init__(self, inputs: int, bins: int, units: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, 1, 1)
        self.lstm = nn.LSTM(bins, units // 2, batch_first=True, bidirectional=True)
        self.linear = nn.Linear(units // 2 * 2, bins)

    def forward(self, x: Float[Tensor, "B C F T"]) -> Float[Tensor, "B 1 F T"]:
        found, _ = self.lstm(self.conv(x)[:, 0].transpose(1, 2))
        return self.linear(found).transpose(1, 2)[:, None]


class BesideLstm(nn.Module):
    """A dense block, and an LSTM's map beside it where there is one."""

    def __init__(self, shape: NetShape, number: int, inputs: int, bins: int) -> None:
        super().__init__()
        self.dense = DenseBlock(inputs, shape.growth[number], shape.layers[number], shape.kernel)
        units = shape.lstm.get(number)
        self.lstm = LstmMap(inputs, bins, units) if units is not None else None
        self.outputs = shape.growth[number] + (units is not None)

    def forward(self, x: Float[Tensor, "B C F T"]) -> Float[Tensor, "B {self.outputs} F T"]:
        found = self.dense(x)
        return found if self.lstm is None else torch.cat([found, self.lstm(x)], dim=1)


class Up(nn.Module):
    """Twice as many bins and frames, cut to what the way down had there."""

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.GroupNorm(1, maps), nn.ConvTranspose2d(maps, maps, 2, 2)

    def forward(self, x: Float[Tensor, "B C f t"], like: Float[Tensor, "B _C F T"]) -> Float[Tensor, "B C F T"]:
        return self.conv(self.norm(x))[..., : like.shape[2], : like.shape[3]]


class DenseUNet(nn.Module):
    """Dense blocks, each at half of the size of the one before it, and up again with what was there on the way down."""

    def __init__(self, shape: NetShape, bins: int, outputs: int | None = None) -> None:
        """`outputs`: maps that it gives; by default those of its last block."""
        super().__init__()
        half, sizes = len(shape.growth) // 2, [bins]
        for _ in range(half):
            sizes.append(-(-sizes[-1] // 2))
        self.first = SameConv(STEREO, shape.maps, shape.kernel)
        self.down, self.larger, self.up = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        maps, skips = shape.maps, []
        for number in range(half):
            block = BesideLstm(shape, number, maps, sizes[number])
            self.down.append(block)
            maps = block.outputs
            skips.append(maps)
        self.bottom = BesideLstm(shape, half, maps, sizes[half])
        maps = self.bottom.outputs
        for number, skip in zip(range(half + 1, len(shape.growth)), reversed(skips), strict=True):
            self.larger.append(Up(maps))
            block = BesideLstm(shape, number, maps + skip, sizes[len(shape.growth) - 1 - number])
            self.up.append(block)
            maps = block.outputs
        widened = outputs is not None and outputs != maps
        self.last = nn.Sequential(nn.GroupNorm(1, maps), nn.Conv2d(maps, outputs or maps, 1)) if widened else None
        self.outputs = outputs or maps

    def forward(self, x: Float[Tensor, "B C F T"]) -> Float[Tensor, "B {self.outputs} F T"]:
        x, skips = self.first(x), []
        for block in self.down:
            skips.append(block(x))
            x = F.avg_pool2d(F.pad(skips[-1], (0, skips[-1].shape[3] % 2, 0, skips[-1].shape[2] % 2)), 2)
        x = self.bottom(x)
        for larger, block, skip in zip(self.larger, self.up, reversed(skips), strict=True):
            x = block(torch.cat([larger(x, skip), skip], dim=1))
        return x if self.last is None else self.last(x)


class MultiBandDense(Model):
    """Mixture magnitude in; a net of each band and one of all, and a last dense block over both."""

    def __init__(
        self, bins: int, head: HeadSpec, front: Front, *,
        bands: Sequence[tuple[int, NetShape]], full: NetShape, final: tuple[int, int, Kernel, bool],
    ) -> None:  # fmt: skip
        """Of any number of bands.

        Args:
            bins: of what is heard.
            head: what is answered.
            front: what is heard.
            bands: of each its bins, and the shape of its net.
            full: shape of the net of all bins.
            final: k, L and kernel of the last dense block, and whether it is dilated.
        """
        super().__init__()
        require_per_bin(head, type(self).__name__)
        self.bins, self.head, self.front = bins, head, front
        self.compress = CompressedMagnitude()
        self.sections = [count for count, _ in bands]
        self.input = BinAffine(bins)
        widest = max(shape.growth[-1] for _, shape in bands)
        self.bands = nn.ModuleList(DenseUNet(shape, count, widest) for count, shape in bands)
        self.full = DenseUNet(full, bins)
        growth, layers, kernel, dilated = final
        self.final = DenseBlock(widest + self.full.outputs, growth, layers, kernel, dilated=dilated)
        self.output = GatedOutput(growth, STEREO * head.maps, bins)

    def layer_prefixes(self) -> tuple[str, ...]:
        """As `Model.layer_prefixes`."""
        return ("input.", *(f"bands.{i}." for i in range(len(self.bands))), "full.", "final.", "output.")

    def forward(self, magnitude_bcft: Float[Tensor, "B C {self.bins} T"], draws: Draws | None = None) -> Answer:
        """What the head asks for, of magnitudes of any number of frames."""
        values = self.output(self._maps(magnitude_bcft))
        return self.answer(values.permute(0, 3, 1, 2).flatten(2), magnitude_bcft.shape[1])

    def features(
        self, magnitude_bcft: Float[Tensor, "B C {self.bins} T"], draws: Draws | None = None
    ) -> Float[Tensor, "B T n"]:
        """As `Model.features`: the last block's maps of all bins."""
        return self._maps(magnitude_bcft).permute(0, 3, 1, 2).flatten(2)

    def _maps(self, magnitude_bcft: Float[Tensor, "B C {self.bins} T"]) -> Float[Tensor, "B _C {self.bins} T"]:
        x = self.input(self.compress(magnitude_bcft))
        parts = [net(band) for net, band in zip(self.bands, x.split(self.sections, dim=2), strict=True)]
        found: Tensor = self.final(torch.cat([torch.cat(parts, dim=2), self.full(x)], dim=1))
        return found


class BinAffine(nn.Module):
    """(x − bias) / |scale| of each bin."""

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.scale, self.bias = nn.Parameter(torch.ones(bins)), nn.Parameter(torch.zeros(bins))

    def forward(self, x: Float[Tensor, "B C F T"]) -> Float[Tensor, "B C F T"]:
        return (x - self.bias[:, None]) / (self.scale.abs()[:, None] + 1e-12)


class GatedOutput(nn.Module):
    """A 1 x 1 convolution, one that gates it, and an affine map of each bin; the head's own function comes after it."""

    def __init__(self, maps: int, outputs: int, bins: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.GroupNorm(1, maps), nn.Conv2d(maps, 2 * outputs, 1)
        self.scale, self.bias = nn.Parameter(torch.ones(bins)), nn.Parameter(torch.zeros(bins))

    def forward(self, x: Float[Tensor, "B C F T"]) -> Float[Tensor, "B _C F T"]:
        return F.glu(self.conv(self.norm(x)), dim=1) * self.scale[:, None] + self.bias[:, None]


def sections_of(bins: int, shares: Sequence[int]) -> list[int]:
    """Bins of each band, as near to these numbers' shares as whole bins are.

    Raises:
        ValueError: a band would have none.
    """
    ends, total = [0], sum(shares)
    for i in range(len(shares)):
        ends.append(round(bins * sum(shares[: i + 1]) / total))
    found = [end - start for start, end in zip(ends, ends[1:], strict=False)]
    if min(found) < 1:
        raise ValueError(f"{bins} bins are too few for {len(shares)} bands")
    return found
