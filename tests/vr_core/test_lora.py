"""Low-rank factors: what they compute, what is trained, and the plain model that they are merged into."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vr_core.config import validate
from vr_core.errors import ConfigError
from vr_core.lora import LowRankLinear, adapt, copy_of, merged
from vr_core.models.model import Model
from vr_core.models.registry import build
from vr_core.optim import group_rows
from vr_core.optimisers import adamw
from vr_core.specs.configurations import CONFIGURATIONS
from vr_core.specs.heads import HeadSpec
from vr_core.specs.lora import LoraSpec
from vr_core.specs.models import (
    BsRoformerSpec,
    CascadedNetSpec,
    DenseFrameTransformerSpec,
    ModelSpec,
    SeedFrameTransformerSpec,
)
from vr_core.specs.optim import OptimSpec
from vr_core.specs.stft import StftSpec

STFT = StftSpec(n_fft=64, hop=16)
COMPLEX = HeadSpec(kind="complex_mask", stems=("vocals", "instrumental"))
ROFORMER = BsRoformerSpec(width=24, blocks=2, heads=2, head_width=12, stft=STFT, bands=(16, 17))
MODELS = {
    "bs_roformer": (ROFORMER, COMPLEX),
    "dense_frame_transformer": (DenseFrameTransformerSpec(width=16, blocks=2, heads=2, feedforward=24), HeadSpec()),
    "cascaded_net": (CascadedNetSpec(channels=8, lstm=24), HeadSpec()),
}


def model_of(kind: str, dtype: torch.dtype = torch.float64) -> Model:
    spec, head = MODELS[kind]
    torch.manual_seed(0)
    return build(spec, 33, head).to(dtype).eval()


def heard(spec: ModelSpec, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    torch.manual_seed(1)
    sound = torch.randn(2, 2, 33, 7, dtype=torch.complex128)
    return (sound if spec.front.phase else sound.abs()).to(dtype.to_complex() if spec.front.phase else dtype)


def moved(model: Model) -> Model:
    """With factors as training may leave them."""
    torch.manual_seed(2)
    for name, parameter in model.named_parameters():
        if name not in model.frozen_base:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def linear_layers(model: Model) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 9), st.integers(2, 9), st.integers(1, 4), st.floats(0.5, 32), st.booleans())
def test_a_layer_adds_the_scaled_product_of_its_factors(i: int, o: int, rank: int, alpha: float, bias: bool) -> None:
    torch.manual_seed(i)
    layer = nn.Linear(i, o, bias=bias).double()
    low, x = LowRankLinear(layer, rank, alpha), torch.randn(3, i, dtype=torch.float64)
    assert torch.equal(low(x), layer(x))  # B is zero
    low.lora_b.data.normal_()
    weight = layer.weight + alpha / rank * sum(torch.outer(low.lora_b[:, k], low.lora_a[k]) for k in range(rank))
    torch.testing.assert_close(low(x), F.linear(x, weight, layer.bias), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", MODELS)
def test_it_begins_as_the_model_and_the_merged_model_computes_the_same(kind: str) -> None:
    model, x = model_of(kind), heard(MODELS[kind][0])
    base, before = {n: t.clone() for n, t in model.state_dict().items()}, model(x)
    spec = LoraSpec(patterns=("*",), rank=2, alpha=6)
    adapt(model, spec)
    for key, answer in model(x).items():
        torch.testing.assert_close(answer, before[key], rtol=1e-12, atol=1e-12)
    part = {n: t for n, t in moved(model).state_dict().items() if n.endswith(("lora_a", "lora_b"))}
    plain = model_of(kind)
    plain.load_state_dict(merged(base, part, spec))
    for key, answer in plain(x).items():
        torch.testing.assert_close(answer, model(x)[key], rtol=1e-9, atol=1e-9)
        assert (answer - before[key]).abs().max() > 1e-3
    assert all(torch.equal(base[n], t) for n, t in model.state_dict().items() if n in base)


def test_merged_in_float32_it_is_equal_to_a_millionth() -> None:
    model, x = model_of("bs_roformer", torch.float32), heard(ROFORMER, torch.float32)
    base, spec = {n: t.clone() for n, t in model.state_dict().items()}, LoraSpec(rank=8)
    adapt(model, spec)
    torch.manual_seed(2)
    for name, parameter in model.named_parameters():
        if name.endswith("lora_b"):
            parameter.data.normal_(std=0.01)
    plain = model_of("bs_roformer", torch.float32)
    plain.load_state_dict(merged(base, {n: t for n, t in model.state_dict().items() if n not in base}, spec))
    [(_, answer)], [(_, expected)] = plain(x).items(), model(x).items()
    assert ((answer - expected).abs().max() / expected.abs().max()).item() < 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_lose_nothing_of_what_is_added(dtype: torch.dtype) -> None:
    weight = torch.full((4, 4), 0.37, dtype=dtype)
    part = {"x.lora_a": torch.full((1, 4), 0.01), "x.lora_b": torch.full((4, 1), 0.01)}
    found = merged({"x.weight": weight}, part, LoraSpec(rank=1, alpha=1))["x.weight"]
    torch.testing.assert_close(found - weight.float(), torch.full((4, 4), 1e-4), rtol=1e-3, atol=0)


def test_what_is_read_and_never_called_gets_no_factors() -> None:
    spec = SeedFrameTransformerSpec(blocks=4, heads=2, feedforward=8, crop_frames=6)
    for model in (build(spec, 8, HeadSpec(stems=("vocals", "drums"))), model_of("dense_frame_transformer")):
        adapt(model, LoraSpec(patterns=("*",), rank=1))
        model(torch.rand(1, 2, model.bins, 5).to(next(model.parameters()).dtype))["mask"].sum().backward()
        assert all(p.grad is not None for n, p in model.named_parameters() if n not in model.frozen_base)
    whole = build(DenseFrameTransformerSpec(width=16, blocks=2, heads=2, feedforward=24), 33)
    adapt(whole, LoraSpec(rank=2))
    assert not [n for n, _ in whole.named_parameters() if "lora" in n and n.startswith(("input", "output"))]


def test_rank_8_trains_less_than_a_fiftieth_of_the_common_roformer() -> None:
    given = CONFIGURATIONS["bs_roformer/256x12"]
    with torch.device("meta"):
        model = build(given.model, given.model.front.bins_on(given.stft), given.head)
        before = sum(p.numel() for p in model.parameters())
        adapt(model, LoraSpec(rank=8))
    [fixed, trained] = sorted(group_rows(model, OptimSpec()), key=lambda row: -row.parameters)
    # 24 transformers: qkv 256 to 1,536, out 512 to 256, and feed-forward 256 to 1,024 and back
    assert trained.parameters == 24 * 8 * (256 + 1536 + 512 + 256 + 2 * (256 + 1024)) == 983_040
    assert (fixed.parameters, fixed.trained_from_step, trained.trained_from_step) == (before, None, 0)
    assert trained.parameters < 0.02 * before


def test_one_step_moves_the_factors_and_nothing_else() -> None:
    model = model_of("bs_roformer")
    adapt(model, LoraSpec(rank=2, whole=("mask_estimators.0.*",)))
    before = {n: t.clone() for n, t in model.state_dict().items()}
    optimiser = adamw(model, OptimSpec(lr=1e-2))
    sum(answer.abs().sum() for answer in model(heard(ROFORMER)).values()).backward()
    optimiser.step()
    own = {n for n, t in model.state_dict().items() if not torch.equal(t, before[n])}
    # A has no gradient while B is zero, and moves by its weight decay.
    assert own == {n for n in before if n.endswith(("lora_a", "lora_b")) or n.startswith("mask_estimators.0.")}
    assert {n for n, p in model.named_parameters() if p.grad is not None} == own
    assert not [n for n in own if n.startswith(("band_split", "mask_estimators.1"))]


def test_blocks_are_all_but_the_first_layer_and_the_heads_and_small_layers_are_passed_over() -> None:
    model = model_of("bs_roformer")
    layers = linear_layers(model)
    adapt(model, LoraSpec(rank=2))
    left = linear_layers(model)
    assert {n for n in layers if n not in left} == {
        n for n in layers if n.startswith("layers.") and not n.endswith("to_gates")
    }


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"patterns": ["*.to_q"]}, "lora.patterns: '*.to_q' names no linear layer of more than 8 inputs and outputs"),
        ({"rank": 24}, "lora.patterns: 'blocks' names no linear layer of more than 24"),
        ({"whole": ["mask.*"]}, "lora.whole: 'mask.*' names no parameter"),
        ({"rank": 0}, "rank: should be greater than or equal to 1"),
        ({"patterns": []}, "patterns: "),
    ],
)
def test_what_names_nothing_is_refused(keys: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        adapt(model_of("bs_roformer"), validate(LoraSpec, keys, "lora"))
    assert words in str(caught.value)


def test_what_starts_fresh_must_be_trained_whole() -> None:
    fresh = {name for name, _ in model_of("bs_roformer").named_parameters() if name.startswith("mask_estimators.1.")}
    with pytest.raises(ConfigError, match=r"would stay as it was drawn; add it to lora.whole, such as mask_estim"):
        adapt(model_of("bs_roformer"), LoraSpec(rank=2), fresh)
    adapt(model_of("bs_roformer"), LoraSpec(rank=2, whole=("mask_estimators.1.*",)), fresh)


def test_factors_of_another_model_are_refused() -> None:
    model = model_of("bs_roformer")
    adapt(model, LoraSpec(rank=2))
    part = {n: t for n, t in model.state_dict().items() if n.endswith(("lora_a", "lora_b"))}
    other = {n: t[:-1] if n.endswith("to_qkv.weight") else t for n, t in model_of("bs_roformer").state_dict().items()}
    with pytest.raises(ConfigError, match="of another model than the base"):
        merged(other, part, LoraSpec(rank=2))
    with pytest.raises(ConfigError, match="of another model than the base"):
        merged({}, part, LoraSpec(rank=2))


def test_a_copy_shares_what_stays() -> None:
    model = model_of("bs_roformer")
    adapt(model, LoraSpec(rank=2))
    own, other = dict(model.named_parameters()), dict(copy_of(model).named_parameters())
    assert {n for n in own if own[n] is other[n]} == model.frozen_base
    assert all(torch.equal(own[n], other[n]) for n in own)
