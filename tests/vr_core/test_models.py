"""Every model: the keys of the dict are the tags of the specs, shapes, any length, no leak of the cut into the mask."""

import itertools
import typing

import pytest
import torch
from pydantic import ValidationError

from tests.masking import mask_of
from vr_core.draws import Draws
from vr_core.errors import ModelError
from vr_core.models.registry import MODELS, build
from vr_core.specs.heads import HeadSpec, Kind
from vr_core.specs.models import (
    BsRoformerSpec,
    CascadedNetSpec,
    DenseFrameTransformerSpec,
    FrameUNetSpec,
    MelRoformerSpec,
    MMDenseLstmSpec,
    MMDenseNetSpec,
    ModelSpec,
    PlainStackSpec,
    SeedFrameTransformerSpec,
    UNetSpec,
)
from vr_core.specs.stft import StftSpec

TINY = [
    DenseFrameTransformerSpec(width=8, blocks=2, heads=2, feedforward=8, max_distance_frames=6, dropout=0.5),
    DenseFrameTransformerSpec(width=16, blocks=1, heads=2, feedforward=8, dropout=0.5),  # width = bins: no projection
    PlainStackSpec(width=8, blocks=2, kernel_frames=3, expansion=2, dropout=0.5),
    CascadedNetSpec(channels=4, lstm=4, dropout=0.5),
    CascadedNetSpec(channels=8, lstm=8, dropout=0.5, norm="frozen_batch", auxiliary=True),
    UNetSpec(channels=4, levels=2, dropout=0.5),
    MMDenseNetSpec(),
    MMDenseLstmSpec(),
    *(
        DenseFrameTransformerSpec(
            width=8, blocks=2, heads=2, feedforward=8, block=block, positions=positions, dropout=0.5
        )
        for block, positions in (
            ("evolved", "relative"),
            ("evolved_decoder", "scalar"),
            ("primer_ez", "rotary"),
            ("primer", "relative"),
        )
    ),
    FrameUNetSpec(channels=4, levels=2, heads=2, block_bins=8, dropout=0.5),
    SeedFrameTransformerSpec(blocks=2, heads=2, feedforward=8, crop_frames=20, dropout=0.5),
]


def told(spec: ModelSpec) -> str:
    own = [getattr(spec, key) for key in ("width", "norm", "block", "positions") if hasattr(spec, key)]
    return "-".join(map(str, [spec.name, *own]))


def test_every_tag_has_a_constructor_and_a_test() -> None:
    specs = typing.get_args(typing.get_args(ModelSpec)[0])
    assert {spec.model_fields["name"].default for spec in specs} == set(MODELS)
    # What hears phase has a module of its own.
    assert set(MODELS) == {spec.name for spec in TINY} | {"bs_roformer", "mel_roformer"}


ROFORMERS = [
    kind(width=8, blocks=1, heads=2, head_width=4, stft=StftSpec(n_fft=64, hop=16), **bands)
    for kind, bands in ((BsRoformerSpec, {}), (MelRoformerSpec, {"mel_bands": 6}))
]


@pytest.mark.parametrize("spec", [*TINY, *ROFORMERS], ids=told)
@pytest.mark.parametrize(("kind", "factor"), [("amplitude", 0.25), ("mask", 1.0)])
def test_amplitudes_alone_are_on_the_scale_that_is_told(spec: ModelSpec, kind: Kind, factor: float) -> None:
    bins = 16 if spec.front.stft is None else spec.front.bins_on(spec.front.stft)
    heard, answers = torch.rand(1, 2, bins, 8, dtype=torch.cfloat if spec.front.phase else torch.float), []
    for scale in (1.0, 0.25):
        torch.manual_seed(0)
        model = build(spec.model_copy(update={"answer_scale": scale}), bins, HeadSpec(kind=kind))
        answers.append(model(heard)[kind])
    assert answers[0].max() > 0
    torch.testing.assert_close(answers[1], answers[0] * factor)


@pytest.mark.parametrize("spec", TINY, ids=told)
@pytest.mark.parametrize("frames", [1, 7, 20])
def test_forward_and_backward_at_any_length(spec: ModelSpec, frames: int) -> None:
    model = build(spec, bins=16)
    x = torch.rand(3, 2, 16, frames)
    mask = mask_of(model, x, Draws.of_items(0, range(3)))
    assert mask.shape == x.shape
    assert ((mask > 0) & (mask < 1)).all()
    mask.sum().backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None]
    assert not missing


@pytest.mark.parametrize("spec", TINY, ids=told)
def test_an_item_is_the_same_in_any_batch_dropout_on(spec: ModelSpec) -> None:
    model = build(spec, bins=16).double()
    x = torch.rand(4, 2, 16, 9, dtype=torch.float64)
    whole = mask_of(model, x, Draws.of_items(5, [10, 11, 12, 13]))
    alone = torch.cat([mask_of(model, x[i : i + 1], Draws.of_items(5, [10 + i])) for i in range(4)])
    torch.testing.assert_close(whole, alone, rtol=1e-12, atol=1e-14)
    if getattr(spec, "dropout", 0):
        assert not torch.equal(whole, mask_of(model, x))  # dropout did something


@pytest.mark.parametrize("spec", TINY, ids=told)
def test_in_bfloat16_its_mask_is_nearly_the_same_and_its_gradients_are_numbers(spec: ModelSpec) -> None:
    torch.manual_seed(0)
    model, x = build(spec, bins=16), torch.rand(2, 2, 16, 9)
    exact = mask_of(model, x).detach()
    with torch.autocast("cpu", torch.bfloat16):
        mask = mask_of(model, x)
    assert (mask.float() - exact).abs().max() < 0.1
    mask.float().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("spec", TINY, ids=told)
def test_layers_cover_every_parameter_once_from_input_to_output(spec: ModelSpec) -> None:
    model = build(spec, bins=16)
    prefixes = model.layer_prefixes()
    for name, _ in model.named_parameters():
        assert sum(name.startswith(prefix) for prefix in prefixes) == 1, name
    assert (prefixes[0], prefixes[-1]) in {
        ("input.", "output."), ("stg1_low_band_net.", "out."), ("down.0.", "output."),
        ("blocks.0.", "output."),
    }  # fmt: skip


def test_stereo_channels_are_told_apart() -> None:
    """A mask for left that ignored right could not tell a centred voice from a panned guitar."""
    for spec in TINY:
        model = build(spec, bins=16)
        x = torch.rand(1, 2, 16, 5)
        louder = x.clone()
        louder[:, 1] *= 4
        assert not torch.allclose(mask_of(model, x)[:, 0], mask_of(model, louder)[:, 0])


def test_dense_blocks_see_every_earlier_map() -> None:
    spec = DenseFrameTransformerSpec(width=8, blocks=3, heads=2, feedforward=8)
    model = build(spec, bins=16)
    assert [block.bottleneck.in_features for block in model.blocks] == [2, 3, 4]
    assert model.output.mix.in_features == 5


@pytest.mark.parametrize("spec", TINY, ids=told)
def test_features_are_what_the_head_sees(spec: ModelSpec) -> None:
    """A head of zeros answers the same whatever they are; and they do not depend on the head."""
    torch.manual_seed(0)
    model, other = build(spec, bins=16).eval(), build(spec, bins=16, head=HeadSpec(stems=("vocals", "drums"))).eval()
    heads = tuple(itertools.chain(*model.head_prefixes()))
    body = [name for name in model.state_dict() if not name.startswith(heads)]
    other.load_state_dict({name: model.state_dict()[name] for name in body}, strict=False)
    heard = torch.rand(2, 2, 16, 9)
    found = model.features(heard)
    assert found.shape[:2] == (2, 9)
    assert torch.equal(found, other.features(heard))
    assert not torch.equal(found, model.features(heard + 1))


@pytest.mark.parametrize("spec", TINY[:3], ids=told)
def test_classes_are_answered_for_each_frame(spec: ModelSpec) -> None:
    model = build(spec, bins=16, head=HeadSpec(kind="logits", classes=5))
    logits = model(torch.rand(3, 2, 16, 7))["logits"]
    assert logits.shape == (3, 7, 5)
    assert (logits < 0).any()
    assert (logits > 0).any()
    torch.nn.functional.cross_entropy(logits.transpose(1, 2), torch.zeros(3, 7, dtype=torch.long)).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_model_that_answers_for_bins_alone_says_so() -> None:
    with pytest.raises(ModelError, match="CascadedNet: answers for bins, not with classes"):
        build(CascadedNetSpec(channels=4, lstm=4), bins=16, head=HeadSpec(kind="logits", classes=5))
    with pytest.raises(ValidationError, match="logits have at least one class"):
        HeadSpec(kind="mask", classes=5)
