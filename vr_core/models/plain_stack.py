"""A baseline without attention: residual blocks of depthwise convolution and squared ReLU over frames.

Legend: B batch, C channel, F bin, T frame, D feature (width).
"""

from jaxtyping import Float
from torch import Tensor, nn

from vr_core.draws import Draws
from vr_core.models.heads import Answer
from vr_core.models.layers.feedforward import FeedForward, squared_relu
from vr_core.models.layers.frame_conv import FrameConv
from vr_core.models.layers.magnitude import CompressedMagnitude
from vr_core.models.layers.part import apply_dropout
from vr_core.models.model import Model
from vr_core.specs.fronts import STEREO
from vr_core.specs.heads import HeadSpec
from vr_core.specs.models import PlainStackSpec


class PlainBlock(nn.Module):
    """Depthwise convolution over time, then a squared-ReLU feed-forward, each added to its input."""

    def __init__(self, spec: PlainStackSpec, index: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.LayerNorm(spec.width), FrameConv(spec.width, spec.kernel_frames))
        self.feed = FeedForward(spec.width, spec.expansion * spec.width, squared_relu)
        self.dropout, self.layer = spec.dropout, index

    def forward(self, x_btd: Float[Tensor, "B T D"], draws: Draws | None) -> Float[Tensor, "B T D"]:
        x_btd = x_btd + self.conv(x_btd)
        return x_btd + apply_dropout(self.feed(x_btd), self.dropout, draws, self.layer)


class PlainStack(Model):
    """Mixture magnitude in, masks out; both channels' bins are one vector a frame."""

    def __init__(self, spec: PlainStackSpec, bins: int, head: HeadSpec) -> None:
        super().__init__()
        self.bins, self.head, self.front = bins, head, spec.front
        self.compress = CompressedMagnitude()
        self.input = nn.Linear(STEREO * bins, spec.width)
        self.blocks = nn.ModuleList(PlainBlock(spec, i) for i in range(spec.blocks))
        outputs = head.classes or head.maps * STEREO * bins
        self.output = nn.Sequential(nn.LayerNorm(spec.width), nn.Linear(spec.width, outputs))

    def layer_prefixes(self) -> tuple[str, ...]:
        """Parameter-name prefixes from the input to the output, for layer-wise learning rates."""
        return ("input.", *(f"blocks.{i}." for i in range(len(self.blocks))), "output.")

    def forward(self, magnitude_bcft: Float[Tensor, "B C {self.bins} T"], draws: Draws | None = None) -> Answer:
        """What the head asks for, of magnitudes of any number of frames."""
        return self.answer(self.output(self.features(magnitude_bcft, draws)), magnitude_bcft.shape[1])

    def features(
        self, magnitude_bcft: Float[Tensor, "B C {self.bins} T"], draws: Draws | None = None
    ) -> Float[Tensor, "B T D"]:
        """As `Model.features`."""
        batch, channels, bins, frames = magnitude_bcft.shape
        x = self.input(self.compress(magnitude_bcft).permute(0, 3, 1, 2).reshape(batch, frames, channels * bins))
        for block in self.blocks:
            x = block(x, draws)
        return x
