"""Layers against naive references in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vr_core.models.layers.attention import FrameAttention, relative_logits
from vr_core.models.layers.frame_conv import FrameConv
from vr_core.models.layers.magnitude import CompressedMagnitude


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 17), st.integers(1, 5))
def test_skewed_logits_equal_a_gather(batch: int, heads: int, frames: int, width: int) -> None:
    generator = torch.Generator().manual_seed(frames)
    q = torch.randn(batch, heads, frames, width, generator=generator, dtype=torch.float64)
    e = torch.randn(heads, 2 * frames - 1, width, generator=generator, dtype=torch.float64)
    naive = torch.empty(batch, heads, frames, frames, dtype=torch.float64)
    for i in range(frames):
        for j in range(frames):
            naive[:, :, i, j] = (q[:, :, i] * e[:, j - i + frames - 1]).sum(-1)
    torch.testing.assert_close(relative_logits(q, e), naive)


@pytest.mark.parametrize("frames", [5, 8, 9, 23])
def test_attention_equals_a_naive_one_at_any_length(frames: int) -> None:
    torch.manual_seed(0)
    layer = FrameAttention(width=6, heads=2, max_distance_frames=8, mdha=True).double()
    torch.nn.init.normal_(layer.distance)
    x = torch.randn(2, frames, 6, dtype=torch.float64)
    qkv = layer.conv(layer.query_key_value(layer.norm(x)))
    q, k, v = (part.reshape(2, frames, 2, 3) for part in qkv.split(6, dim=-1))
    y = torch.zeros(2, frames, 2, 3, dtype=torch.float64)
    for b in range(2):
        for h in range(2):
            for i in range(frames):
                far = [max(-7, min(7, j - i)) + 7 for j in range(frames)]
                logits = torch.stack([q[b, i, h] @ (k[b, j, h] + layer.distance[h, far[j]]) for j in range(frames)])
                y[b, i, h] = torch.softmax(logits / 3**0.5, 0) @ v[b, :, h]
    torch.testing.assert_close(layer(x), layer.out(y.reshape(2, frames, 6)))


def test_frame_convolution_is_depthwise_centred_and_starts_as_primer_does() -> None:
    conv = FrameConv(4, 3, identity=True).double()
    x = torch.randn(1, 9, 4, dtype=torch.float64)
    padded = torch.nn.functional.pad(x, (0, 0, 1, 1))
    expected = 0.5 * x + 0.5 / 3 * (padded[:, :-2] + padded[:, 2:])
    torch.testing.assert_close(conv(x), expected)
    # Without symmetry a reversed kernel would show.
    torch.nn.init.normal_(conv.weight)
    w = conv.weight[:, 0, 0]
    torch.testing.assert_close(conv(x), sum(w[:, k] * padded[:, k : k + 9] for k in range(3)) + conv.bias)


def test_compressed_magnitudes_are_monotonic_and_finite_at_silence() -> None:
    m = torch.tensor([0.0, 1e-9, 1e-5, 1e-3, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
    y = CompressedMagnitude()(m)
    assert (y.diff() > 0).all()
    y.sum().backward()
    assert torch.isfinite(m.grad).all()
