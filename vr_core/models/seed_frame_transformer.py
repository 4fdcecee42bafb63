"""The stack of frame transformers that this project began with, as it was published on 2022-05-10, its errors kept.

github.com/kingoomieiii/frame-transformer at 53e3a11, lib/frame_transformer.py. `dense_frame_transformer` is that stack
corrected; `vr_core/README.md` lists what was changed. A frame is a token and its bins are its features, so that a
block is as wide as the spectrogram; block i sees 2 + i maps, and its result is one more. With 1,024 bins and frames it
has 33,436,177, 66,872,352 and 133,744,714 parameters for 2, 4 and 8 blocks.

Legend: B batch, C channel, F bin, T frame, L frames of its training crops, H head, K feature of a head.

Errors, which make it what it was:
- the relative term of frames i and j is q_j · e_i (no skew), so it has L vectors and hears no more than L frames;
- one set of these vectors serves all heads, and logits are divided by the root of the whole width;
- magnitudes come in as they are, and no norm is before the masks.

Departures: dropout is drawn for each number, there for whole features. Fewer than L frames are heard with silence after
them.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vr_core.draws import Draws
from vr_core.errors import ModelError
from vr_core.models.blocks.dense import MapSum
from vr_core.models.heads import Answer, require_per_bin
from vr_core.models.layers.feedforward import FeedForward, GatedLinear, squared_relu
from vr_core.models.layers.frame_conv import BranchedConv, FrameConv
from vr_core.models.layers.part import apply_dropout
from vr_core.models.model import Model
from vr_core.specs.fronts import STEREO
from vr_core.specs.heads import HeadSpec
from vr_core.specs.models import SeedFrameTransformerSpec


class SeedAttention(nn.Module):
    """logits[i, j] = (q_i · k_j + q_j · e_i) / sqrt(bins); q, k and v each pass a convolution over 3 frames."""

    def __init__(self, bins: int, heads: int, frames: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(bins)
        self.query_key_value = nn.Linear(bins, 3 * bins)
        self.conv = FrameConv(3 * bins, 3)
        self.places = nn.Parameter(torch.randn(bins // heads, frames))
        self.out = nn.Linear(bins, bins)

    def forward(self, x_btf: Float[Tensor, "B L F"]) -> Float[Tensor, "B L F"]:
        batch, frames, bins = x_btf.shape
        qkv = self.conv(self.query_key_value(self.norm(x_btf)))
        q, k, v = qkv.reshape(batch, frames, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # each [B, H, T, K]
        logits = (q @ k.transpose(-1, -2) + (q @ self.places).transpose(-1, -2)) * bins**-0.5
        y_bhtk = torch.softmax(logits, dim=-1) @ v
        return self.out(y_bhtk.transpose(1, 2).reshape(batch, frames, bins))


class SeedBlock(nn.Module):
    """`maps` maps in, normed and rectified; their weighted sum is refined by four parts, each added to its input."""

    def __init__(self, maps: int, bins: int, spec: SeedFrameTransformerSpec, index: int) -> None:
        super().__init__()
        self.norm, self.bottleneck = nn.LayerNorm(bins), MapSum(maps, 1)
        self.parts = nn.ModuleList(
            [
                GatedLinear(bins),
                BranchedConv(bins, spec.feedforward // 2, spec.feedforward // 4),
                SeedAttention(bins, spec.heads, spec.crop_frames),
                FeedForward(bins, spec.feedforward, squared_relu),
            ]
        )
        self.dropout, self.first_layer = spec.dropout, index * len(self.parts)

    def forward(self, x_btmf: Float[Tensor, "B L maps F"], draws: Draws | None) -> Float[Tensor, "B L F"]:
        heard = F.relu(self.norm(x_btmf))
        x = torch.einsum("btmf,m->btf", heard, self.bottleneck.weight[0]) + self.bottleneck.bias
        for offset, part in enumerate(self.parts):
            x = x + apply_dropout(part(x), self.dropout, draws, self.first_layer + offset)
        return x


class SeedFrameTransformer(Model):
    """Mixture magnitude in, masks out, of at most `crop_frames` frames."""

    def __init__(self, spec: SeedFrameTransformerSpec, bins: int, head: HeadSpec) -> None:
        super().__init__()
        require_per_bin(head, type(self).__name__)
        if bins % spec.heads:
            raise ModelError(
                f"model.heads {spec.heads}: {bins} bins are no multiple of it; give another number of heads"
            )
        self.bins, self.head, self.front, self.most_frames = bins, head, spec.front, spec.crop_frames
        self.blocks = nn.ModuleList(SeedBlock(STEREO + i, bins, spec, i) for i in range(spec.blocks))
        self.output = MapSum(STEREO + spec.blocks, STEREO * head.maps)

    def layer_prefixes(self) -> tuple[str, ...]:
        """As `Model.layer_prefixes`."""
        return (*(f"blocks.{i}." for i in range(len(self.blocks))), "output.")

    def forward(self, magnitude_bcft: Float[Tensor, "B C {self.bins} T"], draws: Draws | None = None) -> Answer:
        """What the head asks for.

        Raises:
            ModelError: of more frames than it was made for.
        """
        maps = self._maps(magnitude_bcft, draws)
        values = torch.einsum("btmf,om->btof", maps, self.output.weight) + self.output.bias[:, None]
        return self.answer(values.flatten(2), magnitude_bcft.shape[1])

    def features(
        self, magnitude_bcft: Float[Tensor, "B C {self.bins} T"], draws: Draws | None = None
    ) -> Float[Tensor, "B T n"]:
        """As `Model.features`: the maps, one after the other."""
        return self._maps(magnitude_bcft, draws).flatten(2)

    def _maps(
        self, magnitude_bcft: Float[Tensor, "B C {self.bins} T"], draws: Draws | None
    ) -> Float[Tensor, "B T maps {self.bins}"]:
        frames = magnitude_bcft.shape[-1]
        if frames > self.most_frames:
            raise ModelError(
                f"seed_frame_transformer: hears at most {self.most_frames} frames at once, not {frames}: its positions "
                "are those of its training; give shorter crops or windows, or take dense_frame_transformer"
            )
        maps = F.pad(magnitude_bcft, (0, self.most_frames - frames)).permute(0, 3, 1, 2)
        for block in self.blocks:
            maps = torch.cat([maps, block(maps, draws)[:, :, None]], dim=2)
        return maps[:, :frames]
