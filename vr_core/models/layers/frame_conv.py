"""Convolutions over frames, and two separable ones side by side."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vr_core.draws import Draws
from vr_core.models.layers.part import Part, apply_dropout
from vr_core.models.layers.past import Past


class FrameConv(nn.Module):
    """Convolution over time: centred, or over the past and the present frame."""

    def __init__(
        self, width: int, kernel_frames: int, *,
        outputs: int | None = None, bias: bool = True, identity: bool = False, causal: bool = False,
    ) -> None:  # fmt: skip
        """Depthwise, unless it is told how many outputs there are.

        `identity` starts as Primer's MDHA does: 0.5 on the present frame, 0.5 / kernel on each of the others
        (google-research/primer, t5_models.py).
        """
        super().__init__()
        self.kernel_frames, self.causal = kernel_frames, causal
        self.groups = width if outputs is None else 1
        inputs = width // self.groups
        self.weight = nn.Parameter(torch.empty(outputs or width, inputs, 1, kernel_frames))
        self.bias = nn.Parameter(torch.zeros(outputs or width)) if bias else None
        if identity:
            nn.init.constant_(self.weight, 0.5 / kernel_frames)
            with torch.no_grad():
                self.weight[..., -1 if causal else kernel_frames // 2] = 0.5
        else:
            reach = (inputs * kernel_frames) ** -0.5
            nn.init.uniform_(self.weight, -reach, reach)

    def forward(self, x_btd: Float[Tensor, "B T D"], past: Past | None = None) -> Float[Tensor, "B T _D"]:
        """Of any number of frames; `past` as in `Part`."""
        # As a 2-D convolution over [B, D, 1, T] with D innermost: 2 to 4 times faster on CPU than conv1d.
        x_bd1t = x_btd.transpose(1, 2).unsqueeze(2)
        padding, before = self.kernel_frames // 2, self.kernel_frames - 1
        if self.causal:
            frames, padding = x_btd.shape[1], 0
            if past is not None:
                x_bd1t = past.joined(self, "x", x_bd1t, dim=3, most=before)
            x_bd1t = F.pad(x_bd1t, (frames + before - x_bd1t.shape[3], 0))
        y = F.conv2d(x_bd1t, self.weight, self.bias, padding=(0, padding), groups=self.groups)
        return y.squeeze(2).transpose(1, 2)


class SeparableConv(nn.Sequential):
    """A depthwise convolution over frames, then what changes each frame by itself."""

    def forward(self, x_btd: Float[Tensor, "B T D"], past: Past | None = None) -> Float[Tensor, "B T _D"]:
        """`past` as in `Part`."""
        depthwise, *others = self
        x = depthwise(x_btd, past)
        for layer in others:
            x = layer(x)
        return x


class BranchedConv(Part):
    """Two separable convolutions over time side by side, then a third (Evolved Transformer; So et al. 2019, fig. 3).

    Left: kernel 11, ReLU. Right: kernel 7, no activation (as in the stack of 2022), zero-padded and added. Then a norm
    and kernel 7 back to the width.
    """

    def __init__(self, width: int, left: int, right: int, *, causal: bool = False, dropout: float = 0.0) -> None:
        """`left` and `right`: outputs of each; `dropout` is of both, before their sum."""
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.left = SeparableConv(FrameConv(width, 11, causal=causal), nn.Linear(width, left), nn.ReLU())
        self.right = SeparableConv(FrameConv(width, 7, causal=causal), nn.Linear(width, right))
        self.mid_norm = nn.LayerNorm(left)
        self.out = SeparableConv(FrameConv(left, 7, causal=causal), nn.Linear(left, width))
        self.dropout = dropout

    def forward(
        self, x_btd: Float[Tensor, "B T D"], draws: Draws | None = None, past: Past | None = None
    ) -> Float[Tensor, "B T D"]:
        """As `Part.forward`."""
        x_btd = self.norm(x_btd)
        mixed = sum_of_branches(self.left(x_btd, past), self.right(x_btd, past), self.dropout, draws)
        return self.out(self.mid_norm(mixed), past)


def sum_of_branches(
    left: Float[Tensor, "B T L"], right: Float[Tensor, "B T R"], dropout: float, draws: Draws | None
) -> Float[Tensor, "B T L"]:
    """Both with dropout, the narrower one with zeros to the width of the other."""
    left, right = (apply_dropout(branch, dropout, draws, number) for number, branch in enumerate((left, right)))
    return left + F.pad(right, (0, left.shape[-1] - right.shape[-1]))
