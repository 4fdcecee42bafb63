"""Blocks over frames against the papers' equations, written out slowly in float64, number by number."""

import math
import typing
from collections.abc import Callable, Iterable
from itertools import product

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from vr_core.draws import Draws
from vr_core.models.blocks.dense import DenseBlock
from vr_core.models.blocks.registry import BLOCKS
from vr_core.models.blocks.shape import BlockShape
from vr_core.models.layers.part import Part
from vr_core.specs.models import BlockName, DenseFrameTransformerSpec, Positions

WIDTH, HEADS, HIDDEN, REACH, FRAMES = 8, 2, 16, 4, 9
CHOICES = [
    (block, positions, causal)
    for block, positions in product(typing.get_args(BlockName), typing.get_args(Positions))
    for causal in (False, True)
]
"""Of each block, with each kind of positions."""


def shape_of(positions: str, *, causal: bool, dropout: float = 0.0) -> BlockShape:
    return BlockShape(WIDTH, HEADS, HIDDEN, REACH, typing.cast(Positions, positions), causal, dropout)


def parts_of(block: str, shape: BlockShape) -> list[Part]:
    """With random numbers in all that is learned."""
    torch.manual_seed(1)
    parts = [part.double() for part in BLOCKS[block](shape)]
    for part in parts:
        for parameter in part.parameters():
            parameter.data = torch.randn_like(parameter)
    return parts


def normed(x: Tensor, norm: nn.Module) -> Tensor:
    """A frame at a time: its mean taken off, over its deviation, then scale and shift."""
    rows = []
    for row in x:
        mean = sum(row) / len(row)
        variance = sum((number - mean) ** 2 for number in row) / len(row)
        rows.append((row - mean) / torch.sqrt(variance + 1e-5) * norm.weight + norm.bias)
    return torch.stack(rows)


def linear(x: Tensor, layer: nn.Module) -> Tensor:
    return torch.stack([layer.weight @ row + layer.bias for row in x])


def convolved(x: Tensor, conv: nn.Module, *, causal: bool) -> Tensor:
    """`[frame, feature]`: tap k is of frame t - before + k; what is outside is zero."""
    weight = conv.weight[:, :, 0]  # [output, input, tap], or one input where it is depthwise
    taps = weight.shape[2]
    before = taps - 1 if causal else taps // 2
    found = torch.zeros(len(x), len(weight), dtype=x.dtype)
    for t, tap in product(range(len(x)), range(taps)):
        if 0 <= (source := t - before + tap) < len(x):
            depthwise = weight.shape[1] == 1
            found[t] += weight[:, 0, tap] * x[source] if depthwise else weight[:, :, tap] @ x[source]
    return found if conv.bias is None else found + conv.bias


def rotated(row: Tensor, place: int) -> Tensor:
    """Each pair of numbers turned by an angle of its own; the model keeps these in float32."""
    turned = torch.empty_like(row)
    for pair in range(len(row) // 2):
        angle = place * float(torch.tensor(10_000.0) ** (-torch.tensor(2.0 * pair) / len(row)))
        a, b = row[2 * pair], row[2 * pair + 1]
        turned[2 * pair] = a * math.cos(angle) - b * math.sin(angle)
        turned[2 * pair + 1] = a * math.sin(angle) + b * math.cos(angle)
    return turned


def attended(part: nn.Module, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """The softmax over all frames, or those up to the present one, of each head."""
    size, found = WIDTH // heads, torch.zeros_like(v)
    for head, i in product(range(heads), range(len(q))):
        own = slice(head * size, (head + 1) * size)
        logits = []
        seen = range(i + 1) if part.causal else range(len(q))
        for j in seen:
            query, key = q[i, own], k[j, own]
            distance = max(-(REACH - 1), min(REACH - 1, j - i))
            if part.positions == "rotary":
                query, key = rotated(query, i), rotated(key, j)
            logit = (query * key).sum() / size**0.5
            if part.positions == "relative":
                logit = logit + (query * part.distance[head, distance + REACH - 1]).sum() / size**0.5
            elif part.positions == "scalar":
                logit = logit + part.distance[head, distance + REACH - 1]
            logits.append(logit)
        weights = (torch.stack(logits) - max(logits)).exp()
        weights = weights / weights.sum()
        found[i, own] = sum(weights[n] * v[j, own] for n, j in enumerate(seen))
    return linear(found, part.out)


def of_attention(part: nn.Module, x: Tensor, heads: int = HEADS) -> Tensor:
    qkv = linear(normed(x, part.norm), part.query_key_value)
    if part.conv is not None:
        qkv = convolved(qkv, part.conv, causal=part.causal)
    return attended(part, qkv[:, :WIDTH], qkv[:, WIDTH : 2 * WIDTH], qkv[:, 2 * WIDTH :], heads)


def of_gates(part: nn.Module, x: Tensor) -> Tensor:
    both = linear(normed(x, part.norm), part.linear)
    return both[:, :WIDTH] / (1 + torch.exp(-both[:, WIDTH:]))


def padded(x: Tensor, width: int) -> Tensor:
    return torch.cat([x, torch.zeros(len(x), width - x.shape[1], dtype=x.dtype)], dim=1)


def of_separable_branches(part: nn.Module, x: Tensor, narrow: int, *, causal: bool) -> Tensor:
    """`narrow`: outputs on the right."""
    x = normed(x, part.norm)
    left = linear(convolved(x, part.left[0], causal=causal), part.left[1]).clamp_min(0)
    right = linear(convolved(x, part.right[0], causal=causal), part.right[1])
    assert (left.shape[1], right.shape[1]) == (HIDDEN // 2, narrow)
    mixed = normed(left + padded(right, left.shape[1]), part.mid_norm)
    return linear(convolved(mixed, part.out[0], causal=causal), part.out[1])


def of_encoder_branches(part: nn.Module, x: Tensor, *, causal: bool) -> Tensor:
    x = normed(x, part.norm)
    left, right = linear(x, part.left).clamp_min(0), convolved(x, part.right, causal=causal).clamp_min(0)
    assert (left.shape[1], right.shape[1]) == (HIDDEN, HIDDEN // 8)  # 4d and d/2
    mixed = normed(left + padded(right, HIDDEN), part.mid_norm)
    narrow = linear(convolved(mixed, part.out[0], causal=causal), part.out[1])
    assert narrow.shape[1] == WIDTH // 2
    return padded(narrow, WIDTH)


def relu(x: Tensor) -> Tensor:
    return x.clamp_min(0)


def relu_squared(x: Tensor) -> Tensor:
    return x.clamp_min(0) ** 2


def swish(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def of_feed(part: nn.Module, x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
    return linear(activation(linear(normed(x, part.norm), part.up)), part.down)


def of_decoder_feed(part: nn.Module, x: Tensor) -> Tensor:
    return linear(normed(swish(linear(normed(x, part.norm), part.up)), part.hidden_norm), part.down)


def of_shared_attention(part: nn.Module, x: Tensor) -> Tensor:
    kv = convolved(linear(normed(x, part.norm), part.key_value), part.key_value_conv, causal=part.causal)
    k, v = kv[:, :WIDTH], kv[:, WIDTH:]
    return attended(part, linear(k, part.query), k, v, HEADS)


def of_feed_normed_after(part: nn.Module, x: Tensor) -> Tensor:
    return normed(linear(relu_squared(linear(x, part.part.up)), part.part.down), part.norm)


def slowly(block: str, parts: list[Part], x: Tensor, *, causal: bool) -> Iterable[Tensor]:
    """What each part gives, its input being what the papers' order says."""
    references: dict[str, list[Callable[[nn.Module, Tensor], Tensor]]] = {
        "frame_transformer": [
            of_gates, lambda p, x: of_separable_branches(p, x, HIDDEN // 4, causal=causal), of_attention,
            lambda p, x: of_feed(p, x, relu_squared),
        ],
        "evolved": [
            of_gates, lambda p, x: of_encoder_branches(p, x, causal=causal), of_attention,
            lambda p, x: of_feed(p, x, relu),
        ],
        "evolved_decoder": [
            lambda p, x: of_attention(p, x, 2 * HEADS),
            lambda p, x: of_separable_branches(p, x, HIDDEN // 8, causal=causal), of_attention, of_decoder_feed,
        ],
        "primer_ez": [of_attention, lambda p, x: of_feed(p, x, relu_squared)],
        "primer": [of_shared_attention, of_feed_normed_after],
    }  # fmt: skip
    for reference, part in zip(references[block], parts, strict=True):
        found = reference(part, x)
        yield found
        x = x + found


@pytest.mark.parametrize(("block", "positions", "causal"), CHOICES)
def test_each_part_is_that_of_the_equations(block: str, positions: str, causal: bool) -> None:
    parts = parts_of(block, shape_of(positions, causal=causal))
    x = torch.randn(1, FRAMES, WIDTH, dtype=torch.float64)
    with torch.no_grad():
        for part, expected in zip(parts, slowly(block, parts, x[0], causal=causal), strict=True):
            found = part(x)
            torch.testing.assert_close(found[0], expected, rtol=1e-9, atol=1e-9)
            x = x + found


@pytest.mark.parametrize("block", typing.get_args(BlockName))
def test_a_block_adds_its_parts_to_the_weighted_sum_of_the_maps(block: BlockName) -> None:
    torch.manual_seed(0)
    dense = DenseBlock(3, block, shape_of("relative", causal=False, dropout=0.5), index=1).double()
    maps = torch.randn(2, FRAMES, 3, WIDTH, dtype=torch.float64)
    weight, bias = dense.bottleneck.weight[0], dense.bottleneck.bias
    x = dropped = sum(weight[m] * maps[:, :, m] for m in range(3)) + bias
    draws = Draws.of_items(0, [7, 8])
    for layer, part in enumerate(dense.parts, len(dense.parts)):
        x = x + part(x)
        own = draws.fold(layer)  # of the part's own dropout too, so that no two parts drop the same
        dropped = dropped + own.dropout(part(dropped, own), 0.5)
    torch.testing.assert_close(dense(maps), x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(dense(maps, draws), dropped, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("block", ["evolved", "evolved_decoder"])
def test_both_branches_and_the_feed_forward_have_dropout_of_their_own(block: str) -> None:
    """A part with everything dropped but one path gives what that path gives."""
    _, branches, _, feed = parts_of(block, shape_of("relative", causal=False, dropout=0.5))
    plain, _, _ = parts_of(block, shape_of("relative", causal=False))[1:]
    draws, x = Draws.of_items(0, [3]), torch.randn(1, FRAMES, WIDTH, dtype=torch.float64)
    with torch.no_grad():
        inner = plain.norm(x)
        if block == "evolved":
            left, right = torch.relu(plain.left(inner)), torch.relu(plain.right(inner))
        else:
            left, right = plain.left(inner), plain.right(inner)
        left, right = draws.fold(0).dropout(left, 0.5), draws.fold(1).dropout(right, 0.5)
        mixed = left + torch.nn.functional.pad(right, (0, left.shape[-1] - right.shape[-1]))
        found = plain.out(plain.mid_norm(mixed))
        expected = torch.nn.functional.pad(found, (0, WIDTH - found.shape[-1]))
        torch.testing.assert_close(branches(x, draws), expected, rtol=1e-10, atol=1e-10)
        hidden = feed.activation(feed.up(feed.norm(x)))
        dropped = draws.fold(0).dropout(hidden, 0.5)
        torch.testing.assert_close(feed(x, draws), feed.down(feed.hidden_norm(dropped)), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("block", ["primer", "primer_ez"])
@pytest.mark.parametrize("causal", [False, True])
def test_primers_convolutions_have_no_bias_and_begin_as_published(block: str, causal: bool) -> None:
    attention = BLOCKS[block](shape_of("relative", causal=causal))[0]
    conv = attention.key_value_conv if block == "primer" else attention.conv
    assert conv.bias is None
    present = [0.5 / 3, 0.5 / 3, 0.5] if causal else [0.5 / 3, 0.5, 0.5 / 3]
    expected = torch.tensor(present).expand(len(conv.weight), 1, 1, 3)
    torch.testing.assert_close(conv.weight.detach(), expected)


def test_primers_own_norm_is_a_layer_norm_in_exact_arithmetic() -> None:
    """x̄ / sqrt(mean(x · x̄) + ε): the mean of x · x̄ is that of x̄²."""
    x = torch.randn(5, WIDTH, dtype=torch.float64)
    centred = x - x.mean(-1, keepdim=True)
    published = centred * ((x * centred).mean(-1, keepdim=True) + 1e-5).rsqrt()
    torch.testing.assert_close(nn.functional.layer_norm(x, (WIDTH,)), published, rtol=1e-12, atol=1e-12)


def test_every_name_of_a_block_has_parts() -> None:
    assert set(typing.get_args(BlockName)) == set(BLOCKS)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"block": "evolvd"}, "evolved"),
        ({"width": 12, "heads": 8}, "width must be a multiple of heads, got width 12 and heads 8"),
        ({"width": 12, "heads": 4, "positions": "rotary"}, "8 with block frame_transformer and positions rot"),
        ({"width": 12, "heads": 4, "block": "evolved_decoder"}, "multiple of 8 with block evolved_decoder"),
        ({"width": 256, "heads": 12, "block": "evolved_decoder"}, "multiple of 48 with block evolved_decoder"),
        ({"block": "evolved", "feedforward": 12}, "feedforward must be a multiple of 8 with block evolved, got 12"),
    ],
)  # fmt: skip
def test_sizes_that_do_not_fit_are_told(settings: dict[str, typing.Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        DenseFrameTransformerSpec(**settings)
