"""The U-Net of Jansson et al. 2017, "Singing voice separation with deep U-Net convolutional networks" (ISMIR 2017).

Legend: B batch, C channel of the network, F bin, T frame.

| layers, each with a norm | channels | its output, of 512 bins x 128 frames |
|---|--:|---|
| down: six 5 x 5 convolutions of stride 2, leaky ReLU 0.2 | 16, 32 … 512 | 256 x 64 … 8 x 2 |
| up: five transposed ones, ReLU, then what was there on the way down | 256, 128 … 16 | 16 x 4 … 256 x 64 |
| dropout 0.5 after the first three of these | | |
| output: one more, sigmoid, no norm | one a mask and channel | 512 x 128 |

The paper hears 512 of 513 bins of a mono signal of 8,192 Hz at 1,024/768, over the song's peak; a data set of that rate
gives it just that, but for the second channel. By its convolutions a frame depends on at most 248 to either side, and
by its norms on all that is heard at once.

Departures: a norm takes its statistics over an item, since a batch is cut anywhere; both channels are heard and masked;
any numbers of bins and frames are padded with zeros to multiples of 64; magnitudes are heard on a logarithmic scale
(`scale: song_peak` is the paper's).
"""

import itertools

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vr_core.draws import Draws
from vr_core.models.heads import Answer, require_per_bin
from vr_core.models.layers.magnitude import CompressedMagnitude
from vr_core.models.layers.part import apply_dropout
from vr_core.models.model import Model
from vr_core.specs.fronts import STEREO
from vr_core.specs.heads import HeadSpec
from vr_core.specs.models import UNetSpec

_KERNEL, _PADDING, _DROPPED = 5, 2, 3
"""`_DROPPED` layers of the way up have dropout."""


class Down(nn.Module):
    """Half as many bins and frames."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, _KERNEL, 2, _PADDING, bias=False)
        self.norm = nn.GroupNorm(1, outputs)

    def forward(self, x: Float[Tensor, "B C F T"]) -> Float[Tensor, "B _C F//2 T//2"]:
        return F.leaky_relu(self.norm(self.conv(x)), 0.2)


class Up(nn.Module):
    """Twice as many bins and frames."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(inputs, outputs, _KERNEL, 2, _PADDING, output_padding=1, bias=False)
        self.norm = nn.GroupNorm(1, outputs)

    def forward(self, x: Float[Tensor, "B C f t"]) -> Float[Tensor, "B _C 2*f 2*t"]:
        return F.relu(self.norm(self.conv(x)))


class UNet(Model):
    """Mixture magnitude in, masks out."""

    def __init__(self, spec: UNetSpec, bins: int, head: HeadSpec) -> None:
        super().__init__()
        require_per_bin(head, type(self).__name__)
        self.bins, self.head, self.front = bins, head, spec.front
        self.multiple, self.dropout = 2**spec.levels, spec.dropout
        self.compress = CompressedMagnitude() if spec.scale == "log" else nn.Identity()
        widths = [STEREO, *(spec.channels * 2**level for level in range(spec.levels))]
        self.down = nn.ModuleList(Down(a, b) for a, b in itertools.pairwise(widths))
        # Each but the lowest has what the way down left at its size beside it.
        self.up = nn.ModuleList(
            Up(widths[level + 1] * (1 if level + 1 == spec.levels else 2), widths[level])
            for level in range(spec.levels - 1, 0, -1)
        )
        last = widths[1] * (1 if spec.levels == 1 else 2)
        self.output = nn.ConvTranspose2d(last, STEREO * head.maps, _KERNEL, 2, _PADDING, output_padding=1)

    def layer_prefixes(self) -> tuple[str, ...]:
        """As `Model.layer_prefixes`."""
        down, up = (tuple(f"{way}.{i}." for i in range(len(getattr(self, way)))) for way in ("down", "up"))
        return (*down, *up, "output.")

    def forward(self, magnitude_bcft: Float[Tensor, "B C {self.bins} T"], draws: Draws | None = None) -> Answer:
        """What the head asks for, of magnitudes of any number of frames."""
        frames = magnitude_bcft.shape[-1]
        values = self.output(self._maps(magnitude_bcft, draws))[:, :, : self.bins, :frames]
        return self.answer(values.permute(0, 3, 1, 2).flatten(2), magnitude_bcft.shape[1])

    def features(
        self, magnitude_bcft: Float[Tensor, "B C {self.bins} T"], draws: Draws | None = None
    ) -> Float[Tensor, "B T n"]:
        """As `Model.features`: the last maps, each twice as wide, cut to the frames that were heard."""
        maps = self._maps(magnitude_bcft, draws).repeat_interleave(2, dim=3)
        return maps[..., : magnitude_bcft.shape[-1]].permute(0, 3, 1, 2).flatten(2)

    def _maps(
        self, magnitude_bcft: Float[Tensor, "B C {self.bins} T"], draws: Draws | None
    ) -> Float[Tensor, "B _C _F _T"]:
        more_bins, more_frames = (-count % self.multiple for count in magnitude_bcft.shape[2:])
        x = self.compress(F.pad(magnitude_bcft, (0, more_frames, 0, more_bins)))
        skips = []
        for layer in self.down:
            x = layer(x)
            skips.append(x)
        skips.pop()
        for number, layer in enumerate(self.up):
            x = layer(x)
            if number < _DROPPED:
                x = apply_dropout(x, self.dropout, draws, number)
            x = torch.cat([x, skips.pop()], dim=1)
        return x
