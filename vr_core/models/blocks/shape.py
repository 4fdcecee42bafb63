"""What the blocks of a model are made from, whichever model it is."""

from dataclasses import dataclass

from vr_core.models.layers.attention import FrameAttention
from vr_core.specs.models import FrameBlocksSpec, Positions


@dataclass(frozen=True)
class BlockShape:
    """Sizes and choices of a block; `[B, T, D]` with D its width."""

    width: int
    heads: int
    feedforward: int
    max_distance_frames: int
    positions: Positions
    causal: bool
    dropout: float

    @classmethod
    def of(cls, spec: FrameBlocksSpec, width: int, feedforward: int) -> "BlockShape":
        """A model's block of that width."""
        return cls(
            width=width, heads=spec.heads, feedforward=feedforward, max_distance_frames=spec.max_distance_frames,
            positions=spec.positions, causal=spec.causal, dropout=spec.dropout,
        )  # fmt: skip

    def attention(
        self, *, kind: type[FrameAttention] = FrameAttention, heads: int | None = None,
        mdha: bool = False, mdha_bias: bool = True,
    ) -> FrameAttention:  # fmt: skip
        """Over the frames of such a block, with its number of heads unless told."""
        return kind(
            self.width, heads or self.heads, self.max_distance_frames,
            positions=self.positions, causal=self.causal, mdha=mdha, mdha_bias=mdha_bias,
        )  # fmt: skip
