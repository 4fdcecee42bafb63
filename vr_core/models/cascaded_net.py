"""The network of tsurumeso's vocal-remover v5 and v6: three stages of U-nets over two bands, then over both.

Takahashi and Mitsufuji's bands (2017, arXiv:1706.09588) with the U-net of Jansson et al. (2017), dilated convolutions
at its bottom and an LSTM over frames (Takahashi et al. 2018, arXiv:1805.02410). Parameters have the names and shapes of
the published files: `channels` 32 and `lstm` 128, or 96 and 512; `phase` for the complex ones, which bound a mask m to
tanh|m|; two stems for v6, whose masks of them are apart.

Legend: B batch, C channel of the network, F bin, T frame.

Departures: a norm takes its statistics over an item (`norm: item`) unless a file is read (`frozen_batch`), because a
batch is cut anywhere. Any numbers of bins and frames are padded with zeros to multiples of 32 and 16; published are
multiples. The auxiliary output, which only training used, is not computed; v5 files hold its weights (`auxiliary`).
"""

from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float, Inexact, Int
from torch import Tensor, nn

from vr_core.draws import Draws
from vr_core.models.heads import Answer, require_per_bin
from vr_core.models.layers.part import apply_dropout
from vr_core.models.model import Model
from vr_core.specs.fronts import STEREO
from vr_core.specs.heads import HeadSpec
from vr_core.specs.models import CascadedNetSpec

_HALVINGS = 4
_DILATIONS = ((4, 2), (8, 4), (12, 6))


class FrozenBatchNorm(nn.Module):
    """Batch norm by the statistics that it was given: (x − mean) / √(var + 1e-5) · weight + bias, in training too."""

    running_mean: Float[Tensor, " C"]
    running_var: Float[Tensor, " C"]
    num_batches_tracked: Int[Tensor, ""]
    """Of the training that made the file; nothing here counts."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Float[Tensor, "B C *place"]) -> Float[Tensor, "B C *place"]:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, training=False)


def norm_of(spec: CascadedNetSpec, channels: int) -> nn.Module:
    """The norm that `spec` asks for; that of an item is over its channels, bins and frames."""
    return nn.GroupNorm(1, channels) if spec.norm == "item" else FrozenBatchNorm(channels)


class ConvNorm(nn.Module):
    """Convolution without bias, norm, ReLU: of negative numbers `leak` is left."""

    def __init__(
        self, spec: CascadedNetSpec, inputs: int, outputs: int, *,
        kernel: int = 3, stride: int = 1, dilation: tuple[int, int] = (1, 1), leak: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        padding = (dilation[0] * (kernel // 2), dilation[1] * (kernel // 2))
        conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False)
        self.conv = nn.Sequential(conv, norm_of(spec, outputs), nn.LeakyReLU(leak))

    def forward(self, x: Float[Tensor, "B C F T"]) -> Float[Tensor, "B _C _F _T"]:
        return self.conv(x)


class Encoder(nn.Module):
    """Two convolutions, the first of which halves bins and frames."""

    def __init__(self, spec: CascadedNetSpec, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(spec, inputs, outputs, stride=2, leak=0.01)
        self.conv2 = ConvNorm(spec, outputs, outputs, leak=0.01)

    def forward(self, x: Float[Tensor, "B C F T"]) -> Float[Tensor, "B _C F//2 T//2"]:
        return self.conv2(self.conv1(x))


class Decoder(nn.Module):
    """Twice as many bins and frames, what the encoder had there beside them, and a convolution."""

    def __init__(self, spec: CascadedNetSpec, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(spec, inputs, outputs)

    def forward(
        self, x: Float[Tensor, "B C h t"], skip: Float[Tensor, "B _C 2*h 2*t"]
    ) -> Float[Tensor, "B _D 2*h 2*t"]:
        larger = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        return self.conv1(torch.cat([larger, skip], dim=1))


class DilatedPyramid(nn.Module):
    """The mean over bins, a 1×1 and three dilated convolutions side by side, then one of all (Chen et al. 2017)."""

    def __init__(self, spec: CascadedNetSpec, channels: int, net: int) -> None:
        super().__init__()
        self.dropout, self.net = spec.dropout, net
        conv = partial(ConvNorm, spec, channels, channels)
        self.conv1 = nn.Sequential(nn.AdaptiveAvgPool2d((1, None)), conv(kernel=1))
        self.conv2 = conv(kernel=1)
        self.conv3, self.conv4, self.conv5 = (conv(dilation=dilation) for dilation in _DILATIONS)
        self.bottleneck = ConvNorm(spec, 5 * channels, channels, kernel=1)

    def forward(self, x: Float[Tensor, "B C F T"], draws: Draws | None) -> Float[Tensor, "B C F T"]:
        parts = [self.conv1(x).expand_as(x), *(conv(x) for conv in (self.conv2, self.conv3, self.conv4, self.conv5))]
        found = self.bottleneck(torch.cat(parts, dim=1))
        # Whole channels are dropped.
        kept = apply_dropout(torch.ones_like(found[:, :, 0, 0]), self.dropout, draws, self.net)
        return found * kept[:, :, None, None]


class LstmMap(nn.Module):
    """All channels to one map, an LSTM over its frames in both directions, and back to the bins."""

    def __init__(self, spec: CascadedNetSpec, channels: int, bins: int, width: int) -> None:
        super().__init__()
        self.conv = ConvNorm(spec, channels, 1, kernel=1)
        self.lstm = nn.LSTM(bins, width // 2, bidirectional=True)
        self.dense = nn.ModuleList([nn.Linear(width, bins), norm_of(spec, bins)])

    def forward(self, x: Float[Tensor, "B C F T"]) -> Float[Tensor, "B 1 F T"]:
        linear, norm = self.dense
        x_tbd, _ = self.lstm(self.conv(x)[:, 0].permute(2, 0, 1))
        return F.relu(norm(linear(x_tbd).permute(1, 2, 0)))[:, None]


class UNet(nn.Module):
    """Four halvings, the pyramid, four doublings; the LSTM's map joins before the last one."""

    def __init__(self, spec: CascadedNetSpec, inputs: int, channels: int, bins: int, lstm: int, net: int) -> None:
        super().__init__()
        one, two, four, six, eight = (channels * n for n in (1, 2, 4, 6, 8))
        self.enc1 = ConvNorm(spec, inputs, one)
        self.enc2, self.enc3 = Encoder(spec, one, two), Encoder(spec, two, four)
        self.enc4, self.enc5 = Encoder(spec, four, six), Encoder(spec, six, eight)
        self.aspp = DilatedPyramid(spec, eight, net)
        self.dec4, self.dec3 = Decoder(spec, six + eight, six), Decoder(spec, four + six, four)
        self.dec2 = Decoder(spec, two + four, two)
        self.lstm_dec2 = LstmMap(spec, two, bins // 2, lstm)
        self.dec1 = Decoder(spec, one + two + 1, one)

    def forward(self, x: Float[Tensor, "B C F T"], draws: Draws | None) -> Float[Tensor, "B _C F T"]:
        first = self.enc1(x)
        second = self.enc2(first)
        third = self.enc3(second)
        fourth = self.enc4(third)
        x = self.aspp(self.enc5(fourth), draws)
        x = self.dec2(self.dec3(self.dec4(x, fourth), third), second)
        return self.dec1(torch.cat([x, self.lstm_dec2(x)], dim=1), first)


class CascadedNet(Model):
    """A mixture over its song's peak in, masks out."""

    def __init__(self, spec: CascadedNetSpec, bins: int, head: HeadSpec) -> None:
        super().__init__()
        require_per_bin(head, type(self).__name__)
        self.bins, self.head, self.front = bins, head, spec.front
        heard = bins - self.front.nyquist
        self.computed = _up_to_multiple(heard, 2**_HALVINGS * 2)
        inputs, n, half = STEREO * (1 + spec.phase), spec.channels, self.computed // 2

        def narrowed(net: UNet, channels: int) -> nn.ModuleList:
            return nn.ModuleList([net, ConvNorm(spec, channels, channels // 2, kernel=1)])

        self.stg1_low_band_net = narrowed(UNet(spec, inputs, n // 2, half, spec.lstm, 0), n // 2)
        self.stg1_high_band_net = UNet(spec, inputs, n // 4, half, spec.lstm // 2, 1)
        self.stg2_low_band_net = narrowed(UNet(spec, n // 4 + inputs, n, half, spec.lstm, 2), n)
        self.stg2_high_band_net = UNet(spec, n // 4 + inputs, n // 2, half, spec.lstm // 2, 3)
        self.stg3_full_band_net = UNet(spec, 3 * n // 4 + inputs, n, self.computed, spec.lstm, 4)
        self.out = nn.Conv2d(n, STEREO * head.maps, 1, bias=False)
        if spec.auxiliary:
            self.aux_out = nn.Module()
            self.aux_out.register_buffer("weight", torch.zeros(STEREO * head.maps, 3 * n // 4, 1, 1))

    def layer_prefixes(self) -> tuple[str, ...]:
        """As `Model.layer_prefixes`."""
        return (
            "stg1_low_band_net.", "stg1_high_band_net.", "stg2_low_band_net.", "stg2_high_band_net.",
            "stg3_full_band_net.", "out.",
        )  # fmt: skip

    def head_prefixes(self) -> tuple[tuple[str, ...], ...]:
        """One for all, with the weights of the auxiliary output where a file holds them."""
        return (("out.", *(["aux_out."] if hasattr(self, "aux_out") else [])),)

    def forward(self, heard_bcft: Inexact[Tensor, "B C {self.bins} T"], draws: Draws | None = None) -> Answer:
        """What the head asks for, of any number of frames; a Nyquist bin is told what the bin below it is."""
        bins, frames = self.bins - self.front.nyquist, heard_bcft.shape[-1]
        values = self.out(self._maps(heard_bcft, draws))[:, :, :bins, :frames]
        values = F.pad(values, (0, 0, 0, self.bins - bins), mode="replicate")
        answer = self.answer(values.permute(0, 3, 1, 2).flatten(2), heard_bcft.shape[1])
        if self.head.kind != "complex_mask":
            return answer
        size = answer[self.head.kind].abs()
        return {self.head.kind: answer[self.head.kind] * (torch.tanh(size) / (size + 1e-8))}

    def features(
        self, heard_bcft: Inexact[Tensor, "B C {self.bins} T"], draws: Draws | None = None
    ) -> Float[Tensor, "B T n"]:
        """As `Model.features`: the last stage's channels of all bins that it computes."""
        return self._maps(heard_bcft, draws)[..., : heard_bcft.shape[-1]].permute(0, 3, 1, 2).flatten(2)

    def _maps(
        self, heard_bcft: Inexact[Tensor, "B C {self.bins} T"], draws: Draws | None
    ) -> Float[Tensor, "B _C {self.computed} _T"]:
        bins = self.bins - self.front.nyquist
        x = self._padded(self._parts(heard_bcft) if self.front.phase else heard_bcft, bins)
        low, high = x.chunk(2, dim=2)
        maps = [x]
        for lower, higher in (
            (self.stg1_low_band_net, self.stg1_high_band_net), (self.stg2_low_band_net, self.stg2_high_band_net),
        ):  # fmt: skip
            net, narrow = lower
            below, above = narrow(net(low, draws)), higher(high, draws)
            maps.append(torch.cat([below, above], dim=2))
            low, high = torch.cat([low, below], dim=1), torch.cat([high, above], dim=1)
        found: Tensor = self.stg3_full_band_net(torch.cat(maps, dim=1), draws)
        return found

    def _parts(self, x: Complex[Tensor, "B C F T"]) -> Float[Tensor, "B 2*C F T"]:
        """The real parts of both channels, then the imaginary ones."""
        return torch.cat([x.real, x.imag], dim=1)

    def _padded(self, x: Float[Tensor, "B _C F T"], bins: int) -> Float[Tensor, "B _C {self.computed} _T"]:
        """The first bins, and zeros up to what can be halved."""
        frames = x.shape[-1]
        more = _up_to_multiple(frames, 2**_HALVINGS) - frames
        return F.pad(x[:, :, :bins], (0, more, 0, self.computed - bins))


def _up_to_multiple(count: int, of: int) -> int:
    return -(-count // of) * of
