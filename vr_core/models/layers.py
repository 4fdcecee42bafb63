"""Parts that the frame models are built from; tokens are frames.

Legend: B batch, T frame, D feature (a model's width), H head, K feature of a head. Parts map `[batch, frame, feature]`
to the same shape and carry their own pre-normalisation, so that a block adds their result to its input.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vr_core.draws import Draws


class FrameConv(nn.Module):
    """Depthwise convolution over time: centred, or over the past and the present frame."""

    def __init__(self, width: int, kernel_frames: int, *, identity: bool = False, causal: bool = False) -> None:
        """`identity` starts as Primer's MDHA does: 0.5 on the present frame, the rest spread over the others."""
        super().__init__()
        self.kernel_frames, self.causal = kernel_frames, causal
        self.weight = nn.Parameter(torch.empty(width, 1, 1, kernel_frames))
        self.bias = nn.Parameter(torch.zeros(width))
        if identity:
            # google-research/primer t5_models.py: 0.5 and 0.5/(k-1)... stated for k = 3 as 0.5/3.
            nn.init.constant_(self.weight, 0.5 / kernel_frames)
            with torch.no_grad():
                self.weight[..., -1 if causal else kernel_frames // 2] = 0.5
        else:
            nn.init.uniform_(self.weight, -(kernel_frames**-0.5), kernel_frames**-0.5)

    def forward(self, x_btd: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        # As a 2-D convolution over [B, D, 1, T] with D innermost: 2 to 4 times faster on CPU than conv1d.
        x_bd1t = x_btd.transpose(1, 2).unsqueeze(2)
        padding = self.kernel_frames // 2
        if self.causal:
            x_bd1t, padding = F.pad(x_bd1t, (self.kernel_frames - 1, 0)), 0
        y = F.conv2d(x_bd1t, self.weight, self.bias, padding=(0, padding), groups=self.weight.shape[0])
        return y.squeeze(2).transpose(1, 2)


class MapSum(nn.Linear):
    """Weights of a sum of maps, which the model reads: it is never called, so that nothing may take its place."""


class GatedLinear(nn.Module):
    """Pre-norm gated linear unit: D -> 2D, half of it gating the other (Dauphin et al. 2017, eq. 1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, 2 * width)

    def forward(self, x_btd: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return F.glu(self.linear(self.norm(x_btd)), dim=-1)


class BranchedConv(nn.Module):
    """Two separable convolutions over time side by side, then a third (Evolved Transformer; So et al. 2019, fig. 3).

    Left: kernel 11 to `hidden`/2, ReLU. Right: kernel 7 to `hidden`/4, no activation (as the seed has it), zero-padded
    and added. Then a norm and kernel 7 back to the width.
    """

    def __init__(self, width: int, hidden: int, *, causal: bool = False) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.left = nn.Sequential(FrameConv(width, 11, causal=causal), nn.Linear(width, hidden // 2), nn.ReLU())
        self.right = nn.Sequential(FrameConv(width, 7, causal=causal), nn.Linear(width, hidden // 4))
        self.mid_norm = nn.LayerNorm(hidden // 2)
        self.out = nn.Sequential(FrameConv(hidden // 2, 7, causal=causal), nn.Linear(hidden // 2, width))

    def forward(self, x_btd: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        x_btd = self.norm(x_btd)
        left, right = self.left(x_btd), self.right(x_btd)
        mixed = left + F.pad(right, (0, left.shape[-1] - right.shape[-1]))
        return self.out(self.mid_norm(mixed))


class RelativeAttention(nn.Module):
    """Self-attention over frames with a relative term for each head and distance.

    logits[i, j] = (q_i · k_j + q_i · e_{j-i}) / sqrt(K), K the width of a head: Shaw et al. 2018, eq. 5, computed by
    the skewing of Music Transformer (Huang et al. 2019, sec. 3.4.1) in its two-sided form with 2L-1 vectors. q, k and
    v each pass a depthwise convolution over 3 frames (Primer's MDHA, So et al. 2021, sec. 3), centred unless the model
    is causal. The seed scaled by the whole width and added q_j · e_i; both are corrected.

    Causal: a frame attends to itself and to those before it, with L vectors and the one-sided skew (sec. 3.4.1).
    """

    def __init__(self, width: int, heads: int, max_distance_frames: int, *, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.max_distance_frames, self.causal = heads, max_distance_frames, causal
        self.norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.conv = FrameConv(3 * width, 3, identity=True, causal=causal)
        distances = max_distance_frames if causal else 2 * max_distance_frames - 1
        self.distance = nn.Parameter(torch.zeros(heads, distances, width // heads))
        self.out = nn.Linear(width, width)

    def forward(self, x_btd: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        batch, frames, width = x_btd.shape
        qkv = self.conv(self.query_key_value(self.norm(x_btd)))
        q, k, v = qkv.reshape(batch, frames, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # each [B, H, T, K]
        q = q * (width // self.heads) ** -0.5
        logits = q @ k.transpose(-1, -2)
        if self.causal:
            ahead = torch.ones(frames, frames, dtype=torch.bool, device=x_btd.device).triu(1)
            logits = (logits + past_logits(q, self.past_vectors(frames))).masked_fill(ahead, -torch.inf)
        else:
            logits = logits + relative_logits(q, self.distance_vectors(frames))
        y_bhtk = torch.softmax(logits, dim=-1) @ v
        return self.out(y_bhtk.transpose(1, 2).reshape(batch, frames, width))

    def distance_vectors(self, frames: int) -> Float[Tensor, "{self.heads} 2*{frames}-1 K"]:
        """Vectors for distances -(frames-1) .. frames-1; far ones share the outermost."""
        reach = self.max_distance_frames - 1
        if frames - 1 <= reach:
            return self.distance[:, reach - frames + 1 : reach + frames]
        far = torch.arange(-(frames - 1), frames, device=self.distance.device).clamp(-reach, reach)
        return self.distance[:, far + reach]

    def past_vectors(self, frames: int) -> Float[Tensor, "{self.heads} {frames} K"]:
        """Vectors for distances -(frames-1) .. 0; far ones share the outermost."""
        reach = self.max_distance_frames
        if frames <= reach:
            return self.distance[:, reach - frames :]
        far = torch.arange(-(frames - 1), 1, device=self.distance.device).clamp(-(reach - 1), 0)
        return self.distance[:, far + reach - 1]


def past_logits(q_bhtk: Float[Tensor, "B H T K"], vectors_htk: Float[Tensor, "H T K"]) -> Float[Tensor, "B H T T"]:
    """q_i · e_{j-i} for frames j up to i; what stands at later ones means nothing.

    Args:
        q_bhtk: queries.
        vectors_htk: e, for distances -(T-1) .. 0.

    Returns:
        Row i, column j.
    """
    batch, heads, frames, _ = q_bhtk.shape
    by_distance = q_bhtk @ vectors_htk.transpose(-1, -2)  # column c: distance c - (T-1)
    # Skew: after one column in front, the same memory in rows of T begins row i + 1 at what was column T-1-i of row i.
    return F.pad(by_distance, (1, 0)).reshape(batch, heads, frames + 1, frames)[:, :, 1:]


def relative_logits(
    q_bhtk: Float[Tensor, "B H T K"], vectors_hdk: Float[Tensor, "H 2*T-1 K"]
) -> Float[Tensor, "B H T T"]:
    """q_i · e_{j-i} for all pairs of frames i, j.

    Args:
        q_bhtk: queries.
        vectors_hdk: e, for distances -(T-1) .. T-1.

    Returns:
        Row i, column j.
    """
    batch, heads, frames, _ = q_bhtk.shape
    by_distance = q_bhtk @ vectors_hdk.transpose(-1, -2)  # [B, H, T, 2T-1]
    # Skew: after one column of padding row i starts one element later than it would in rows of 2T-1, so that the
    # same memory read in rows of 2T-1 has distance j - i at column j + T - 1.
    flat = F.pad(by_distance, (0, 1)).reshape(batch, heads, 2 * frames * frames)
    rows = flat[..., : frames * (2 * frames - 1)].reshape(batch, heads, frames, 2 * frames - 1)
    return rows[..., frames - 1 :]


class SquaredReluFeedForward(nn.Module):
    """Pre-norm feed-forward with the squared ReLU of Primer (So et al. 2021, sec. 3)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x_btd: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return self.down(F.relu(self.up(self.norm(x_btd))).square())


class CompressedMagnitude(nn.Module):
    """Magnitudes on a scale that a network can see: log10 above a floor, shifted and scaled to mean 0 and variance 1.

    The three constants are those of the shared songs' mixtures, rounded. Without shift and scale the same stack was
    2.2 dB worse after 300 steps (`jobs/training/LOG.md`). The floor keeps silence finite: below it the scale is linear.
    """

    FLOOR, MEAN, DEVIATION = 3e-5, -3.7, 0.65

    def forward(self, magnitude: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        return (torch.log10(magnitude + self.FLOOR) - self.MEAN) * (1 / self.DEVIATION)

    @classmethod
    def expanded(cls, compressed: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """Magnitudes of what `forward` gave; what lies below silence is silence."""
        return (10 ** (compressed * cls.DEVIATION + cls.MEAN) - cls.FLOOR).clamp_min(0)


def apply_dropout(x: Float[Tensor, "*any"], rate: float, draws: Draws | None, layer: int) -> Float[Tensor, "*any"]:
    """Dropout by counter (`Draws`); `draws` None means evaluation, in which nothing is dropped."""
    return x if draws is None or rate == 0 else draws.fold(layer).dropout(x, rate)
