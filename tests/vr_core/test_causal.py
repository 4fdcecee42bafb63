"""Causal models: nothing of a later frame reaches an earlier answer, and a song in pieces is answered as the whole."""

import typing

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.masking import mask_of
from vr_core.draws import Draws
from vr_core.errors import ModelError
from vr_core.models.layers.attention import FrameAttention, past_logits
from vr_core.models.layers.frame_conv import BranchedConv, FrameConv
from vr_core.models.layers.past import Past
from vr_core.models.model import Model
from vr_core.models.registry import build
from vr_core.specs.models import BlockName, DenseFrameTransformerSpec, FrameUNetSpec, ModelSpec, Positions

BINS = 32
SPEC = DenseFrameTransformerSpec(
    width=8, blocks=2, heads=2, feedforward=8, max_distance_frames=5, dropout=0.5, causal=True
)
UNET = FrameUNetSpec(channels=3, levels=2, heads=2, expansion=4, max_distance_frames=5, dropout=0.5, causal=True)
SPECS = [
    spec.model_copy(update={"block": block, "positions": positions})
    for spec in (SPEC, UNET)
    for block in typing.get_args(BlockName)
    for positions in typing.get_args(Positions)
]


def told(spec: ModelSpec) -> str:
    return f"{spec.name}-{spec.block}-{spec.positions}"


def model_of(spec: ModelSpec = SPEC, bins: int = BINS) -> Model:
    torch.manual_seed(0)
    model = build(spec, bins).eval()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("spec", SPECS, ids=told)
@settings(deadline=None, max_examples=10)
@given(st.integers(2, 14), st.data())
def test_no_later_frame_changes_an_earlier_answer_by_a_bit(spec: ModelSpec, frames: int, data: st.DataObject) -> None:
    last = data.draw(st.integers(0, frames - 2))
    model, heard = model_of(spec), torch.rand(1, 2, BINS, frames)
    other = heard.clone()
    other[..., last + 1 :] = torch.rand(1, 2, BINS, frames - last - 1) * 9
    before, after = mask_of(model, heard), mask_of(model, other)
    assert torch.equal(before[..., : last + 1], after[..., : last + 1])
    assert not torch.equal(before[..., last + 1 :], after[..., last + 1 :])


def test_every_earlier_frame_is_heard() -> None:
    model, heard = model_of(), torch.rand(1, 2, BINS, 9, requires_grad=True)
    mask_of(model, heard)[..., 8].sum().backward()
    assert (heard.grad.abs().sum((0, 1, 2)) > 0).all()


@pytest.mark.parametrize("spec", SPECS, ids=told)
@settings(deadline=None, max_examples=8)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_a_song_in_pieces_is_answered_as_the_whole(spec: ModelSpec, pieces: list[int]) -> None:
    model, heard = model_of(spec).double(), torch.rand(2, 2, BINS, sum(pieces), dtype=torch.float64)
    past = Past()
    with torch.no_grad():
        found = torch.cat([model(piece, past=past)["mask"] for piece in heard.split(pieces, dim=3)], dim=-1)
        torch.testing.assert_close(found, model(heard)["mask"], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("spec", [SPEC, UNET], ids=told)
def test_a_model_that_hears_later_frames_takes_no_pieces(spec: ModelSpec) -> None:
    model = model_of(spec.model_copy(update={"causal": False}))
    with pytest.raises(ModelError, match=r"in pieces; train one with model\.causal"):
        model(torch.rand(1, 2, BINS, 3), past=Past())


def test_convolutions_keep_as_many_frames_as_they_reach_back() -> None:
    model, past = model_of(), Past()
    with torch.no_grad():
        for _ in range(7):
            model(torch.rand(1, 2, BINS, 6), past=past)
    for module in model.modules():
        if isinstance(module, FrameConv):
            assert past.frames(module, "x", dim=3) == module.kernel_frames - 1
    for kept in past._kept.values():
        assert kept.untyped_storage().nbytes() == 4 * kept.numel()  # no more is held than what is needed
    for module in model.modules():
        if isinstance(module, FrameAttention):
            assert past.frames(module, "k", dim=2) == 7 * 6


def test_the_centred_stack_hears_later_frames() -> None:
    model, heard = model_of(SPEC.model_copy(update={"causal": False})), torch.rand(1, 2, BINS, 9)
    other = heard.clone()
    other[..., 8] += 1
    assert not torch.equal(mask_of(model, heard)[..., :8], mask_of(model, other)[..., :8])


@pytest.mark.parametrize("frames", [1, 2, 5, 9])
def test_the_relative_term_is_that_of_a_gather(frames: int) -> None:
    torch.manual_seed(0)
    layer = FrameAttention(6, 2, max_distance_frames=5, causal=True).double()
    layer.distance.data.normal_()
    q = torch.randn(2, 2, frames, 3, dtype=torch.float64)
    found = past_logits(q, layer.distance_terms(1 - frames, 1))
    for i in range(frames):
        for j in range(i + 1):
            vector = layer.distance[:, 4 - min(i - j, 4)]  # the last is of distance 0; far ones share the first
            torch.testing.assert_close(found[:, :, i, j], (q[:, :, i] * vector).sum(-1), rtol=1e-12, atol=1e-12)


def test_attention_is_the_softmax_over_the_past_written_out() -> None:
    torch.manual_seed(0)
    layer = FrameAttention(6, 2, max_distance_frames=4, causal=True, mdha=True).double().requires_grad_(False)
    layer.distance.normal_()
    x = torch.randn(1, 7, 6, dtype=torch.float64)
    qkv = layer.conv(layer.query_key_value(layer.norm(x)))[0]
    found = torch.zeros(7, 6, dtype=torch.float64)
    for head in range(2):
        q, k, v = (qkv[:, at + 3 * head : at + 3 * head + 3] for at in (0, 6, 12))
        for i in range(7):
            logits = (
                torch.stack([q[i] @ (k[j] + layer.distance[head, 3 - min(i - j, 3)]) for j in range(i + 1)]) / 3**0.5
            )
            found[i, 3 * head : 3 * head + 3] = torch.softmax(logits, 0) @ v[: i + 1]
    torch.testing.assert_close(layer(x)[0], found @ layer.out.weight.T + layer.out.bias, rtol=1e-10, atol=1e-12)


def test_a_causal_convolution_begins_on_the_present_frame() -> None:
    conv = FrameConv(2, 3, identity=True, causal=True)
    x = torch.zeros(1, 5, 2)
    x[0, 2] = 1
    torch.testing.assert_close(conv(x)[0, :, 0].detach(), torch.tensor([0, 0, 0.5, 0.5 / 3, 0.5 / 3]))
    branched, x = BranchedConv(4, 4, 2, causal=True), torch.randn(1, 20, 4)
    other = x.clone()
    other[0, 12] += 1
    changed = (branched(x) != branched(other)).any(-1)[0].nonzero().flatten()
    assert (int(changed[0]), int(changed[-1])) == (12, 19)


def test_an_item_is_the_same_in_any_batch_with_dropout() -> None:
    model, heard = model_of().double(), torch.rand(3, 2, BINS, 7, dtype=torch.float64)
    whole = mask_of(model, heard, Draws.of_items(1, range(3)))
    alone = torch.cat([mask_of(model, heard[i : i + 1], Draws.of_items(1, [i])) for i in range(3)])
    torch.testing.assert_close(whole, alone, rtol=1e-12, atol=1e-14)
