"""A model's last numbers as the answer that was asked for."""

import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from vr_core.specs.heads import HeadSpec

Answer = dict[str, Inexact[Tensor, "item stem channel bin frame"]]
"""By the kind of the head; complex for `complex_mask`."""


def answer_of(head: HeadSpec, values_btn: Float[Tensor, "B T n"], channels: int) -> Answer:
    """`head.maps` numbers for each bin of each channel, in the order stem, plane, channel, bin, as an answer.

    Masks are sigmoids, amplitudes rectified. Complex masks are as they are (Kong et al., "Decoupling magnitude and
    phase estimation with deep ResUNet for music source separation", 2021, bound theirs; RoFormers do not).
    """
    batch, frames, _ = values_btn.shape
    if head.kind == "mask":
        values_btn = torch.sigmoid(values_btn)
    elif head.kind == "amplitude":
        values_btn = torch.relu(values_btn)
    values = values_btn.reshape(batch, frames, len(head.stems), head.planes, channels, -1).permute(0, 2, 3, 4, 5, 1)
    if head.kind == "complex_mask":
        # No complex number has bfloat16 parts.
        return {head.kind: torch.complex(*(values[:, :, plane].to(_wide(values.dtype)) for plane in (0, 1)))}
    return {head.kind: values[:, :, 0]}


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
