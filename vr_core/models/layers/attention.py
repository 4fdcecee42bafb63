"""Self-attention over frames, with three positional encodings."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vr_core.draws import Draws
from vr_core.models.layers.frame_conv import FrameConv
from vr_core.models.layers.part import Part
from vr_core.models.layers.past import Past
from vr_core.specs.models import Positions

_ROTARY_BASE = 10_000.0


class Rotary(nn.Module):
    """Rotary positions (Su et al. 2021, eq. 34), neighbours in pairs; the frequencies are stored and not trained."""

    freqs: Float[Tensor, " pair"]

    def __init__(self, head_width: int) -> None:
        super().__init__()
        powers = torch.arange(0, head_width, 2).float() / head_width
        self.register_buffer("freqs", _ROTARY_BASE**-powers)

    def forward(self, x_bhtk: Float[Tensor, "B H T K"], first: int = 0) -> Float[Tensor, "B H T K"]:
        """Turned by their positions, which begin at `first`."""
        places = torch.arange(first, first + x_bhtk.shape[-2], device=x_bhtk.device, dtype=self.freqs.dtype)
        angle = torch.outer(places, self.freqs)
        cos, sin = (part.repeat_interleave(2, dim=-1) for part in (angle.cos(), angle.sin()))
        even, odd = x_bhtk[..., 0::2], x_bhtk[..., 1::2]
        turned = torch.stack([-odd, even], dim=-1).flatten(-2)
        return (x_bhtk * cos + turned * sin).to(x_bhtk.dtype)


class FrameAttention(Part):
    """Self-attention over frames; far ones beyond `max_distance_frames` share what is learned of the distance.

    | positions | logits[i, j], before the softmax |
    |---|---|
    | `relative` | (q_i · k_j + q_i · e_{j-i}) / sqrt(K): Shaw et al. 2018, eq. 5, a vector for each head and distance |
    | `scalar` | q_i · k_j / sqrt(K) + b_{j-i}: a number for each head and distance; Raffel et al. 2020, sec. 2.1 |
    | `rotary` | R_i q_i · R_j k_j / sqrt(K): Su et al. 2021, nothing learned |

    The relative term is computed by the skewing of Music Transformer (Huang et al. 2019, sec. 3.4.1), in its two-sided
    form with 2L-1 vectors, or in its one-sided form with L where the model is causal: a frame then attends to itself
    and to those before it. With rotary positions torch's fused attention keeps no logits.

    Raffel et al. share the numbers among all layers and put distances into logarithmic buckets; here neither is done.

    With `mdha`, q, k and v each pass a depthwise convolution over 3 frames (Primer's, So et al. 2021, sec. 3), centred
    unless the model is causal.
    """

    def __init__(
        self, width: int, heads: int, max_distance_frames: int, *,
        positions: Positions = "relative", causal: bool = False, mdha: bool = False, mdha_bias: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.heads, self.max_distance_frames = heads, max_distance_frames
        self.positions, self.causal = positions, causal
        self.norm = nn.LayerNorm(width)
        self._make_projections(width, mdha=mdha, bias=mdha_bias)
        distances = max_distance_frames if causal else 2 * max_distance_frames - 1
        if positions == "relative":
            self.distance = nn.Parameter(torch.zeros(heads, distances, width // heads))
        elif positions == "scalar":
            self.distance = nn.Parameter(torch.zeros(heads, distances))
        else:
            self.rotary = Rotary(width // heads)
        self.out = nn.Linear(width, width)

    def forward(
        self, x_btd: Float[Tensor, "B T D"], draws: Draws | None = None, past: Past | None = None
    ) -> Float[Tensor, "B T D"]:
        """As `Part.forward`."""
        q, k, v = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self._projected(self.norm(x_btd), past)
        )
        if self.positions == "rotary":
            first = 0 if past is None else past.frames(self, "k", dim=2)
            q, k = self.rotary(q, first), self.rotary(k, first)
        if past is not None:
            k, v = past.joined(self, "k", k, dim=2), past.joined(self, "v", v, dim=2)
        return self.out(self.attended(q, k, v).transpose(1, 2).flatten(2))

    def attended(
        self, q: Float[Tensor, "B H T K"], k: Float[Tensor, "B H L K"], v: Float[Tensor, "B H L K"]
    ) -> Float[Tensor, "B H T K"]:
        """The softmax of the table above, times the values.

        Args:
            q: queries of the last T frames of L, turned where positions are rotary.
            k: keys, turned likewise.
            v: values.
        """
        frames, whole = q.shape[2], k.shape[2]
        if self.positions == "relative":
            q = q * q.shape[-1] ** -0.5
            logits = q @ k.transpose(-1, -2)
            if self.causal:
                logits = logits + past_logits(q, self.distance_terms(1 - whole, 1))
                logits = logits.masked_fill(_ahead(frames, whole, q.device), -torch.inf)
            else:
                logits = logits + relative_logits(q, self.distance_terms(1 - frames, frames))
            return torch.softmax(logits, dim=-1) @ v
        mask = None
        if self.positions == "scalar":
            numbers = self.distance_terms(1 - whole, 1 if self.causal else frames)
            if self.causal:
                numbers = F.pad(numbers, (0, frames - 1), value=-torch.inf)
            # Row i begins frames - 1 - i numbers after the first, where distance j - i is at column j.
            mask = numbers.unfold(1, whole, 1).flip(1).to(q.dtype)
        elif self.causal and frames < whole:
            mask = ~_ahead(frames, whole, q.device)
        # Without a mask of its own the fused attention skips what is ahead.
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=self.causal and mask is None)

    def distance_terms(self, first: int, end: int) -> Float[Tensor, "H distance *K"]:
        """What is learned of the distances `first` .. `end` - 1; far ones share the outermost."""
        reach = self.max_distance_frames - 1
        if -reach <= first:
            return self.distance[:, first + reach : end + reach]
        return self.distance[:, torch.arange(first, end, device=self.distance.device).clamp(-reach, reach) + reach]

    def _make_projections(self, width: int, *, mdha: bool, bias: bool) -> None:
        self.query_key_value = nn.Linear(width, 3 * width)
        self.conv = FrameConv(3 * width, 3, identity=True, causal=self.causal, bias=bias) if mdha else None

    def _projected(self, x_btd: Float[Tensor, "B T D"], past: Past | None) -> tuple[Tensor, ...]:
        """Queries, keys and values, each `[B, T, D]`."""
        qkv = self.query_key_value(x_btd)
        return (qkv if self.conv is None else self.conv(qkv, past)).chunk(3, dim=-1)


def _ahead(frames: int, whole: int, device: torch.device) -> Tensor:
    """`[frame, frame of the whole]`: which are later, where the frames are the last of the whole."""
    return torch.ones(frames, whole, dtype=torch.bool, device=device).triu(1 + whole - frames)


def past_logits(q_bhtk: Float[Tensor, "B H T K"], vectors_hlk: Float[Tensor, "H L K"]) -> Float[Tensor, "B H T L"]:
    """q_i · e_{j-i} for frames j up to i; what stands at later ones means nothing.

    Args:
        q_bhtk: queries of the last T frames of L.
        vectors_hlk: e, for distances -(L-1) .. 0.

    Returns:
        Row i, column j.
    """
    frames, whole = q_bhtk.shape[2], vectors_hlk.shape[1]
    by_distance = q_bhtk @ vectors_hlk.transpose(-1, -2)  # column c: distance c - (L-1)
    # Skew: with a column in front and T numbers dropped, rows of L begin where distance j - i is at column j.
    return F.pad(by_distance, (1, 0)).flatten(-2)[..., frames:].unflatten(-1, (frames, whole))


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
