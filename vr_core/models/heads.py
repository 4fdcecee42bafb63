"""A model's last numbers as the answer that was asked for."""

import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from vr_core.errors import ModelError
from vr_core.specs.heads import HeadSpec

Answer = dict[str, Inexact[Tensor, "*any"]]
"""By the kind of the head: `[item, stem, channel, bin, frame]`, complex for `complex_mask`; `logits` are `[item, frame,
class]`."""


def answer_of(head: HeadSpec, values_btn: Float[Tensor, "B T n"], channels: int, amplitude_scale: float) -> Answer:
    """`head.maps` numbers for each bin of each channel, in the order stem, plane, channel, bin, as an answer.

    Of logits, `head.classes` numbers of each frame. These and compressed magnitudes are as they are, masks are
    sigmoids, and amplitudes are rectified and multiplied by `amplitude_scale`. Complex masks are as they are too: Kong
    et al. ("Decoupling magnitude and phase estimation with deep ResUNet for music source separation", 2021) bound
    theirs, RoFormers do not.
    """
    if head.kind == "logits":
        return {head.kind: values_btn}
    batch, frames, _ = values_btn.shape
    if head.kind == "mask":
        values_btn = torch.sigmoid(values_btn)
    elif head.kind == "amplitude":
        values_btn = torch.relu(values_btn) * amplitude_scale
    values = values_btn.reshape(batch, frames, len(head.stems), head.planes, channels, -1).permute(0, 2, 3, 4, 5, 1)
    if head.kind == "complex_mask":
        # No complex number has bfloat16 parts.
        return {head.kind: torch.complex(*(values[:, :, plane].to(_wide(values.dtype)) for plane in (0, 1)))}
    return {head.kind: values[:, :, 0]}


def require_per_bin(head: HeadSpec, model: str) -> None:
    """Check that a head has an answer for each bin, which is all that `model` can give.

    Raises:
        ModelError: it asks for classes.
    """
    if head.kind == "logits":
        raise ModelError(f"{model}: answers for bins, not with classes; take dense_frame_transformer or plain_stack")


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
