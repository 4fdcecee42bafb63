"""What band-split RoFormers share: bands of a complex spectrogram, attention over time and over bands in turns, masks.

Lu et al., "Music source separation with band-split RoPE transformer", 2023 (arXiv:2309.02612). Parameters have the
names and shapes of the files that the community trains, so that these load as they are.

Legend: B batch, C channel, F bin, T frame, N band, D width, H head, K feature of a head, S stem.

Where the published code and the paper differ, this follows the code: heads are 64 wide whatever the width, each head's
result is gated (to_gates), and attention and feed-forward have no dropout unless told. Bin 0 of every mask is zero
(`zero_dc`), as in Music-Source-Separation-Training; audio-separator 0.47.1 has that setting and does not heed it.
"""

import itertools

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vr_core.draws import Draws
from vr_core.models.heads import Answer, require_per_bin
from vr_core.models.layers.attention import Rotary
from vr_core.models.layers.part import apply_dropout
from vr_core.models.model import Model
from vr_core.specs.fronts import STEREO
from vr_core.specs.heads import HeadSpec
from vr_core.specs.models import RoformerSpec


class RmsNorm(nn.Module):
    """x / ‖x‖ · √D · γ (Zhang and Sennrich 2019, eq. 4, without the epsilon inside the root)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = width**0.5
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        return F.normalize(x, dim=-1) * self.scale * self.gamma


class Attention(nn.Module):
    """Pre-norm attention over all positions, each head's result times a sigmoid gate."""

    def __init__(self, spec: RoformerSpec, rotary: Rotary) -> None:
        super().__init__()
        self.heads, inner = spec.heads, spec.heads * spec.head_width
        self.norm = RmsNorm(spec.width)
        self.rotary_embed = rotary
        self.to_qkv = nn.Linear(spec.width, 3 * inner, bias=False)
        self.to_gates = nn.Linear(spec.width, spec.heads)
        self.to_out = nn.Sequential(nn.Linear(inner, spec.width, bias=False))

    def forward(self, x_btd: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        batch, positions, _ = x_btd.shape
        x = self.norm(x_btd)
        q, k, v = self.to_qkv(x).reshape(batch, positions, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        found = F.scaled_dot_product_attention(self.rotary_embed(q), self.rotary_embed(k), v)
        gates = self.to_gates(x).sigmoid().transpose(1, 2).unsqueeze(-1)
        return self.to_out((found * gates).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Pre-norm, GELU in between."""

    def __init__(self, spec: RoformerSpec) -> None:
        super().__init__()
        hidden = spec.expansion * spec.width
        self.net = nn.ModuleDict(
            {"0": RmsNorm(spec.width), "1": nn.Linear(spec.width, hidden), "4": nn.Linear(hidden, spec.width)}
        )

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return self.net["4"](F.gelu(self.net["1"](self.net["0"](x))))


class Transformer(nn.Module):
    """Attention and feed-forward, each added to its input; then a norm where there is to be one."""

    def __init__(self, spec: RoformerSpec, rotary: Rotary, first_layer: int, *, norm: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.ModuleList([Attention(spec, rotary), FeedForward(spec)])])
        self.norm = RmsNorm(spec.width) if norm else nn.Identity()
        self.dropout, self.first_layer = spec.dropout, first_layer

    def forward(self, x: Float[Tensor, "B T D"], draws: Draws | None) -> Float[Tensor, "B T D"]:
        for offset, part in enumerate(self.layers[0].children()):
            x = x + _dropped(part(x), self.dropout, draws, self.first_layer + offset)
        return self.norm(x)


class BandSplit(nn.Module):
    """Each band's numbers (bin, channel, real or imaginary) to a vector."""

    def __init__(self, inputs: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.inputs = inputs
        self.to_features = nn.ModuleList(nn.Sequential(RmsNorm(n), nn.Linear(n, width)) for n in inputs)

    def forward(self, x_btf: Float[Tensor, "B T n"]) -> Float[Tensor, "B T N D"]:
        pieces = x_btf.split(self.inputs, dim=-1)
        return torch.stack([to(piece) for to, piece in zip(self.to_features, pieces, strict=True)], dim=-2)


class MaskEstimator(nn.Module):
    """Each band's vector to that band's mask: tanh between linear maps, a gate at the end."""

    def __init__(self, outputs: tuple[int, ...], spec: RoformerSpec) -> None:
        super().__init__()
        hidden = spec.mask_expansion * spec.width
        self.to_freqs = nn.ModuleList()
        for n in outputs:
            widths = [spec.width, *[hidden] * spec.mask_hidden_layers, 2 * n]
            maps = [nn.Linear(a, b) for a, b in zip(widths, widths[1:], strict=False)]
            layers = [layer for linear in maps for layer in (linear, nn.Tanh())][:-1]
            self.to_freqs.append(nn.Sequential(nn.Sequential(*layers), nn.GLU(dim=-1)))

    def forward(self, x_btnd: Float[Tensor, "B T N D"]) -> Float[Tensor, "B T n"]:
        return torch.cat([to(x) for to, x in zip(self.to_freqs, x_btnd.unbind(dim=-2), strict=True)], dim=-1)


class Roformer(Model):
    """A mixture's complex spectrogram in, masks out; an architecture says which bins its bands have, and its norms."""

    places: Int[Tensor, " place"]
    """The bins of all bands, one band after the other; there where bands overlap."""
    share: Float[Tensor, "{self.bins} 1 1"]
    """One over the bands that a bin is in."""

    def __init__(self, spec: RoformerSpec, bins: int, head: HeadSpec, *, norm_each: bool) -> None:
        """`norm_each`: a norm after each transformer; else one before the masks."""
        super().__init__()
        require_per_bin(head, type(self).__name__)
        self.bins, self.head, self.front, self.recompute = bins, head, spec.front, spec.recompute
        self.zero_dc, bands = spec.zero_dc, spec.bands_of(bins)
        places = list(itertools.chain(*bands))
        self.overlapping = len(places) > bins
        if self.overlapping:
            share = [1 / places.count(place) for place in range(bins)]
            # Neither is in a file: both follow from the spec.
            self.register_buffer("places", torch.tensor(places), persistent=False)
            self.register_buffer("share", torch.tensor(share)[:, None, None], persistent=False)
        self.band_split = BandSplit(tuple(2 * STEREO * len(band) for band in bands), spec.width)
        over_time, over_bands = Rotary(spec.head_width), Rotary(spec.head_width)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                Transformer(spec, rotary, 4 * i + first, norm=norm_each)
                for first, rotary in ((0, over_time), (2, over_bands))
            )
            for i in range(spec.blocks)
        )
        if not norm_each:
            self.final_norm = RmsNorm(spec.width)
        outputs = tuple(head.planes * STEREO * len(band) for band in bands)
        self.mask_estimators = nn.ModuleList(MaskEstimator(outputs, spec) for _ in head.stems)

    def layer_prefixes(self) -> tuple[str, ...]:
        """As `Model.layer_prefixes`."""
        last = ("final_norm.",) if hasattr(self, "final_norm") else ()
        return ("band_split.", *(f"layers.{i}." for i in range(len(self.layers))), *last, "mask_estimators.")

    def head_prefixes(self) -> tuple[tuple[str, ...], ...]:
        """One for each stem."""
        return tuple((f"mask_estimators.{i}.",) for i in range(len(self.mask_estimators)))

    def forward(self, spectrum_bcft: Complex[Tensor, "B C {self.bins} T"], draws: Draws | None = None) -> Answer:
        """What the head asks for, of any number of frames."""
        batch, channels, bins, frames = spectrum_bcft.shape
        x_btnd = self._bands(spectrum_bcft, draws)
        values = torch.stack([estimator(x_btnd) for estimator in self.mask_estimators], dim=2)
        values = values.reshape(batch, frames, len(self.head.stems), -1, channels, self.head.planes)
        if self.overlapping:
            summed = values.new_zeros(*values.shape[:3], bins, *values.shape[4:]).index_add(3, self.places, values)
            values = summed * self.share
        answer = self.answer(values.permute(0, 1, 2, 5, 4, 3).reshape(batch, frames, -1), channels)
        if not self.zero_dc:
            return answer
        keep = torch.ones(bins, 1, device=values.device, dtype=values.dtype)
        keep[0] = 0
        return {kind: values * keep for kind, values in answer.items()}

    def features(
        self, spectrum_bcft: Complex[Tensor, "B C {self.bins} T"], draws: Draws | None = None
    ) -> Float[Tensor, "B T n"]:
        """As `Model.features`: the vectors of all bands, one after the other."""
        return self._bands(spectrum_bcft, draws).flatten(2)

    def _bands(
        self, spectrum_bcft: Complex[Tensor, "B C {self.bins} T"], draws: Draws | None
    ) -> Float[Tensor, "B T N D"]:
        # To frames of (bin, channel, real or imaginary).
        x = torch.view_as_real(spectrum_bcft).permute(0, 3, 2, 1, 4)
        x = x[:, :, self.places] if self.overlapping else x
        x_btnd = self.band_split(x.flatten(2))
        for layer in self.layers:
            over_time, over_bands = layer.children()
            x_btnd = self._along(over_time, x_btnd.transpose(1, 2), draws).transpose(1, 2)
            x_btnd = self._along(over_bands, x_btnd, draws)
        if hasattr(self, "final_norm"):
            x_btnd = self.final_norm(x_btnd)
        return x_btnd

    def _along(
        self, part: nn.Module, x_bnpd: Float[Tensor, "B M P D"], draws: Draws | None
    ) -> Float[Tensor, "B M P D"]:
        """A transformer along P, for each of the M others."""
        if self.recompute and self.training:
            return checkpoint(_rows_through, part, x_bnpd, draws, use_reentrant=False)
        return _rows_through(part, x_bnpd, draws)


def _rows_through(part: nn.Module, x_bnpd: Float[Tensor, "B M P D"], draws: Draws | None) -> Float[Tensor, "B M P D"]:
    found: Tensor = part(x_bnpd.flatten(0, 1), draws).reshape(x_bnpd.shape)
    return found


def _dropped(x: Float[Tensor, "M P D"], share: float, draws: Draws | None, layer: int) -> Float[Tensor, "M P D"]:
    """Dropout of items, each of which is several rows: an item's rows are numbered one after the other."""
    if draws is None or not share:
        return x
    items = len(draws.keys)
    return apply_dropout(x.reshape(items, -1, x.shape[-1]), share, draws, layer).reshape(x.shape)
