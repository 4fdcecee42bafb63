"""Rates, groups and the moving average against their definitions."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vr_core.config import plain, validate
from vr_core.errors import ConfigError, ModelError
from vr_core.models.registry import build
from vr_core.optim import (
    GroupRow,
    WeightAverage,
    group_rows,
    learning_rate_factor,
    parameter_groups,
    set_rates,
)
from vr_core.optimisers import adamw
from vr_core.specs.heads import HeadSpec
from vr_core.specs.models import BsRoformerSpec, DenseFrameTransformerSpec
from vr_core.specs.optim import OptimSpec

DECAYS = ["cosine", "linear", "constant", "polynomial", "wsd"]
TWO = HeadSpec(kind="complex_mask", stems=("vocals", "drums"))
MODEL = DenseFrameTransformerSpec(width=8, blocks=2, heads=2, feedforward=8)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 500), st.integers(0, 100), st.sampled_from(DECAYS))
def test_rate_rises_to_the_peak_and_falls_to_the_last_step(steps: int, warmup: int, decay: str) -> None:
    spec = OptimSpec(warmup_steps=min(warmup, steps), decay=decay, final_lr=0.1)
    rates = [learning_rate_factor(step, steps, spec) for step in range(1, steps + 1)]
    top = max(spec.warmup_steps, 1)
    assert all(0 < r <= 1 for r in rates)
    assert rates[: top - 1] == [pytest.approx(k / spec.warmup_steps) for k in range(1, top)]
    assert all(a >= b - 1e-12 for a, b in zip(rates[top - 1 :], rates[top:], strict=False))
    if decay != "constant" and steps > spec.warmup_steps:
        assert rates[-1] == pytest.approx(0.1)


def test_cosine_is_half_way_in_the_middle() -> None:
    spec = OptimSpec(warmup_steps=10, decay="cosine", final_lr=0.0)
    assert learning_rate_factor(60, 110, spec) == pytest.approx(0.5)
    assert learning_rate_factor(35, 110, spec) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))


@pytest.mark.parametrize(
    ("keys", "table"),
    [
        # two steps up, then of eight steps the share that is left: 7/8, 6/8, ... 0, squared; a tenth stays
        ({"decay": "polynomial"}, [0.5, 1, *(0.1 + 0.9 * (k / 8) ** 2 for k in range(7, -1, -1))]),
        ({"decay": "polynomial", "power": 3}, [0.5, 1, *(0.1 + 0.9 * (k / 8) ** 3 for k in range(7, -1, -1))]),
        # the peak until two of the eight steps are left, or half of them
        ({"decay": "wsd", "cooldown": 0.25}, [0.5, 1, 1, 1, 1, 1, 1, 1, 0.55, 0.1]),
        ({"decay": "wsd", "cooldown": 0.5}, [0.5, 1, 1, 1, 1, 1, 0.775, 0.55, 0.325, 0.1]),
        ({"decay": "wsd", "cooldown": 1}, [0.5, 1, *(0.1 + 0.9 * k / 8 for k in range(7, -1, -1))]),
    ],
)
def test_a_decay_is_its_table(keys: dict[str, object], table: list[float]) -> None:
    spec = validate(OptimSpec, {"warmup_steps": 2, "final_lr": 0.1, **keys}, "x")
    assert [learning_rate_factor(step, 10, spec) for step in range(1, 11)] == pytest.approx(table, abs=1e-12)


def test_by_the_rule_of_the_lineage_a_layer_has_the_rate_over_its_place_from_the_end() -> None:
    model = build(MODEL, bins=16)  # four layers
    rates = {}
    for group in parameter_groups(model, OptimSpec(lr=0.6, layer_rule="lineage")):
        rates |= {id(p): 0.6 * group["lr_share"] for p in group["params"]}
    expected = {"input.": 0.6 / 4, "blocks.0.": 0.6 / 3, "blocks.1.": 0.6 / 2, "output.": 0.6}
    for name, p in model.named_parameters():
        assert rates[id(p)] == pytest.approx(next(v for k, v in expected.items() if name.startswith(k))), name
    with pytest.raises(ConfigError, match="layer_decay is of the geometric rule"):
        validate(OptimSpec, {"layer_rule": "lineage", "layer_decay": 0.9}, "x")


@pytest.mark.parametrize("written", ["body", ["body"]])
def test_the_body_is_all_but_the_heads(written: object) -> None:
    spec = validate(OptimSpec, {"freeze": written}, "x")
    assert validate(OptimSpec, plain(spec), "x") == spec
    for model in (
        build(MODEL, bins=16),
        build(BsRoformerSpec(width=8, blocks=1, heads=2, head_width=4, mask_expansion=1), bins=1025, head=TWO),
    ):
        parameter_groups(model, spec)
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        heads = tuple(itertools.chain(*model.head_prefixes()))
        assert trained == {name for name, _ in model.named_parameters() if name.startswith(heads)}
        assert 0 < len(trained) < len([*model.parameters()])


def test_groups_are_told_by_layer_rate_and_when_they_are_trained() -> None:
    model = build(MODEL, bins=16)
    sizes = {
        layer: sum(p.numel() for name, p in model.named_parameters() if name.startswith(f"{layer}."))
        for layer in ("input", "blocks.0", "blocks.1", "output")
    }
    assert group_rows(model, OptimSpec(lr=0.1)) == [GroupRow(tuple(sizes), sum(sizes.values()), 0.1, 0)]
    matrix = next(name for name, p in model.named_parameters() if name.startswith("blocks.1.") and p.ndim > 1)
    part = model.get_parameter(matrix).numel()
    spec = OptimSpec(lr=0.1, layer_decay=0.5, freeze=("input.*", matrix), unfreeze={"blocks.0.*": 9, "body": 7})
    assert group_rows(model, spec) == [
        GroupRow(("input", "blocks.1"), sizes["input"] + part, 0.0, None),
        GroupRow(("blocks.0",), sizes["blocks.0"], pytest.approx(0.025), 9),
        GroupRow(("blocks.1",), sizes["blocks.1"] - part, pytest.approx(0.05), 7),
        GroupRow(("output",), sizes["output"], 0.1, 0),
    ]
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(ConfigError, match=r"'blocks\.7\.\*' names no parameter"):
        group_rows(model, OptimSpec(unfreeze={"blocks.7.*": 3}))
    with pytest.raises(ConfigError, match="every parameter is frozen"):
        group_rows(model, OptimSpec(freeze=("body", "output.*")))


def test_layer_wise_rates_survive_the_schedule() -> None:
    """The schedule of 2022 wrote one rate to every group, which erased them."""
    model = build(MODEL, bins=16)
    spec = OptimSpec(lr=0.01, layer_decay=0.5)
    optimiser = adamw(model, spec)
    rates = {}
    for factor in (1.0, 0.3, 1.0):
        set_rates(optimiser, spec.lr, factor)
        for group in optimiser.param_groups:
            for p in group["params"]:
                rates[id(p)] = group["lr"] / factor
    expected = {"input.": 0.125, "blocks.0.": 0.25, "blocks.1.": 0.5, "output.": 1.0}
    for name, p in model.named_parameters():
        share = next(v for k, v in expected.items() if name.startswith(k))
        assert rates[id(p)] == pytest.approx(0.01 * share), name


def test_only_matrices_are_decayed_and_every_parameter_is_in_one_group() -> None:
    model = build(MODEL, bins=16)
    groups = parameter_groups(model, OptimSpec(weight_decay=0.1))
    names = {id(p): n for n, p in model.named_parameters()}
    seen = [names[id(p)] for g in groups for p in g["params"]]
    assert sorted(seen) == sorted(names.values())
    for group in groups:
        for p in group["params"]:
            name = names[id(p)]
            assert group["weight_decay"] == (0.1 if p.ndim >= 2 and not name.endswith("distance") else 0.0), name


def test_frozen_parameters_stay_and_a_pattern_that_names_nothing_is_refused() -> None:
    model = build(MODEL, bins=16)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimiser = adamw(model, OptimSpec(lr=0.1, freeze=("blocks.0.*", "input.*")))
    model(torch.rand(1, 2, 16, 5))["mask"].sum().backward()
    optimiser.step()
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert not any(n.startswith(("blocks.0.", "input.")) for n in moved)
    assert any(n.startswith("blocks.1.") for n in moved)
    with pytest.raises(ConfigError, match=r"block\.7.*names no parameter.*blocks\.0\."):
        parameter_groups(model, OptimSpec(freeze=("block.7.*",)))
    with pytest.raises(ConfigError, match="every parameter is frozen"):
        parameter_groups(model, OptimSpec(freeze=("*",)))


def test_moving_average_follows_its_recurrence() -> None:
    model = torch.nn.Linear(2, 1, bias=False).double()
    average = WeightAverage(model, decay=0.9)
    expected = model.weight.detach().clone()
    for step in range(1, 40):
        with torch.no_grad():
            model.weight.add_(step)
        average.update(model, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    torch.testing.assert_close(average.weights["weight"], expected)


class Counting(torch.nn.Module):
    """Counts its passes, and keeps a table that it multiplies with."""

    frozen_base: frozenset[str] = frozenset()

    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(2, 1, bias=False)
        self.register_buffer("passes", torch.tensor(0))
        self.register_buffer("table", torch.tensor([1.0, 2.0]))
        self.register_buffer("seen", torch.tensor(False))
        self.register_buffer("scratch", torch.zeros(3), persistent=False)

    def layer_prefixes(self) -> tuple[str, ...]:
        return ("inner.",)


def test_the_average_has_the_buffers_of_the_model_and_the_mean_of_its_weights() -> None:
    model = Counting()
    average = WeightAverage(model, decay=0.9)
    before = model.inner.weight.detach().clone()
    with torch.no_grad():
        model.inner.weight.add_(1)
        model.passes.add_(7)
        model.table.mul_(3)
        model.seen.fill_(True)
    average.update(model, step=1)
    assert set(average.weights) == {"inner.weight", "passes", "table", "seen"}
    torch.testing.assert_close(average.weights["inner.weight"], before + 1 - 2 / 11)
    assert average.weights["passes"] == 7
    assert average.weights["table"].tolist() == [3.0, 6.0]
    assert average.weights["seen"]
    model.passes.add_(1)
    assert average.weights["passes"] == 7, "its own, not the model's"


def test_a_parameter_of_no_layer_is_named() -> None:
    model = Counting()
    model.gain = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(ModelError, match=r"Counting: gain: in none of the layers .*\(inner\.\)"):
        adamw(model, OptimSpec())


@pytest.mark.parametrize(
    ("norm", "name"),
    [
        (torch.nn.BatchNorm1d(2), "BatchNorm1d"),
        (torch.nn.BatchNorm2d(2, track_running_stats=False), "BatchNorm2d"),
        (torch.nn.BatchNorm3d(2), "BatchNorm3d"),
        (torch.nn.LazyBatchNorm1d(), "LazyBatchNorm1d"),
        (torch.nn.SyncBatchNorm(2), "SyncBatchNorm"),
        (torch.nn.InstanceNorm1d(2, track_running_stats=True), "InstanceNorm1d"),
        (torch.nn.InstanceNorm2d(2, track_running_stats=True), "InstanceNorm2d"),
    ],
)
def test_a_norm_over_the_items_of_a_batch_is_refused_by_name(norm: torch.nn.Module, name: str) -> None:
    model = Counting()
    model.inner = torch.nn.Sequential(torch.nn.Linear(2, 2), norm)
    with pytest.raises(ModelError, match=rf"Counting cannot be trained: inner\.1 \({name}\)"):
        adamw(model, OptimSpec())


@pytest.mark.parametrize(
    "norm",
    [torch.nn.LayerNorm(2), torch.nn.GroupNorm(1, 2), torch.nn.RMSNorm(2), torch.nn.InstanceNorm1d(2, affine=True)],
)
def test_a_norm_of_each_item_by_itself_is_trained(norm: torch.nn.Module) -> None:
    model = Counting()
    model.inner = torch.nn.Sequential(torch.nn.Linear(2, 2), norm)
    adamw(model, OptimSpec())
