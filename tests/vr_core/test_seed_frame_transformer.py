"""The stack as it was published: its errors are there, against a slow loop, and what it cannot do is said."""

import math

import pytest
import torch

from tests.masking import mask_of
from vr_core.errors import ModelError
from vr_core.models.registry import build
from vr_core.models.seed_frame_transformer import SeedAttention
from vr_core.specs.models import SeedFrameTransformerSpec

SPEC = SeedFrameTransformerSpec(blocks=2, heads=2, feedforward=8, crop_frames=6)


def test_attention_is_the_published_sum_over_frames() -> None:
    torch.manual_seed(0)
    part, x = SeedAttention(8, 2, 6).double().requires_grad_(False), torch.randn(2, 6, 8, dtype=torch.float64)
    mean = x.mean(-1, keepdim=True)
    normed = (x - mean) / (x.var(-1, keepdim=True, correction=0) + 1e-5).sqrt() * part.norm.weight + part.norm.bias
    raw = normed @ part.query_key_value.weight.T + part.query_key_value.bias
    found = torch.zeros(2, 6, 8, dtype=torch.float64)
    for item in range(2):
        qkv = torch.zeros(6, 24, dtype=torch.float64)
        for t in range(6):
            for offset in (-1, 0, 1):
                if 0 <= t + offset < 6:
                    qkv[t] += raw[item, t + offset] * part.conv.weight[:, 0, 0, offset + 1]
            qkv[t] += part.conv.bias
        for head in range(2):
            q, k, v = (qkv[:, at + 4 * head : at + 4 * head + 4] for at in (0, 8, 16))
            for i in range(6):
                logits = torch.tensor(
                    [float(q[i] @ k[j] + q[j] @ part.places[:, i]) / math.sqrt(8) for j in range(6)],
                    dtype=torch.float64,
                )
                weights = torch.exp(logits - logits.max())
                found[item, i, 4 * head : 4 * head + 4] = (weights / weights.sum()) @ v
    torch.testing.assert_close(part(x), found @ part.out.weight.T + part.out.bias, rtol=1e-9, atol=1e-11)


def test_a_block_sees_every_earlier_map_normed_and_rectified() -> None:
    torch.manual_seed(0)
    model = build(SPEC, 8).double().eval()
    maps = torch.rand(1, 6, 3, 8, dtype=torch.float64)
    block = model.blocks[1]
    x = sum(torch.relu(block.norm(maps[:, :, m])) * block.bottleneck.weight[0, m] for m in range(3))
    x = x + block.bottleneck.bias
    for part in block.parts:
        x = x + part(x)
    torch.testing.assert_close(block(maps, None), x)
    assert [b.bottleneck.in_features for b in model.blocks] == [2, 3]


def test_fewer_frames_are_heard_with_silence_after_them_and_more_are_refused() -> None:
    torch.manual_seed(0)
    model, x = build(SPEC, 8).eval(), torch.rand(1, 2, 8, 4)
    silent = torch.cat([x, torch.zeros(1, 2, 8, 2)], dim=-1)
    torch.testing.assert_close(mask_of(model, x), mask_of(model, silent)[..., :4])
    with pytest.raises(ModelError, match="hears at most 6 frames at once, not 7"):
        model(torch.rand(1, 2, 8, 7))
    with pytest.raises(ModelError, match="model.heads 3: 8 bins are no multiple"):
        build(SPEC.model_copy(update={"heads": 3}), 8)
