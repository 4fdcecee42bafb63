"""Draws: a pure function of seed, item, layer and element; uniform; the same on every device and in every cut."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vr_core.draws import Draws


def lowbias32(x: int) -> int:
    """The published mixer, in Python integers."""
    x ^= x >> 16
    x = x * 0x7FEB352D % 2**32
    x ^= x >> 15
    x = x * 0x846CA68B % 2**32
    return x ^ x >> 16


def expected(seed: int, item: int, layer: int, element: int) -> float:
    def mix(value: int, key: int) -> int:
        return lowbias32((lowbias32(value % 2**32) + key) % 2**32)

    high, low = item % 2**32, mix(item % 2**32, mix(item >> 32, seed))
    folded = mix(low, layer)
    key_high = mix(high, folded)
    return (mix(element ^ folded, key_high) >> 8) * 2.0**-24


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31), st.integers(0, 2**40), st.integers(0, 2**21), st.integers(0, 63))
def test_values_follow_from_seed_item_layer_and_element_alone(seed: int, item: int, layer: int, element: int) -> None:
    values = Draws.of_items(seed, [7, item]).fold(layer).uniform((8, 8))
    assert values[1].flatten()[element].item() == expected(seed, item, layer, element)


def test_uniform_in_distribution_and_unrelated_between_items_layers_and_elements() -> None:
    draws = Draws.of_items(3, range(64))
    values = draws.fold(0).uniform((4096,)).double()
    assert values.min() >= 0
    assert values.max() < 1
    counts = np.histogram(values.numpy(), bins=64, range=(0, 1))[0]
    mean = values.numel() / 64
    assert ((counts - mean) ** 2 / mean).sum() < 120  # chi-square, 63 degrees of freedom: 103 is the 0.1 % point
    others = {"layer": draws.fold(1).uniform((4096,)).double(), "element": values.roll(1, dims=1)}
    others["item"] = values.roll(1, dims=0)
    others["seed"] = Draws.of_items(4, range(64)).fold(0).uniform((4096,)).double()
    for name, other in others.items():
        correlation = torch.corrcoef(torch.stack([values.flatten(), other.flatten()]))[0, 1]
        assert abs(correlation) < 0.01, name  # 5 standard errors of 2^18 values


def test_dropout_keeps_the_mean_and_scales_what_it_keeps() -> None:
    x = torch.ones(8, 10_000)
    y = Draws.of_items(0, range(8)).fold(5).dropout(x, 0.25)
    assert sorted(y.unique().tolist()) == [0.0, pytest.approx(1 / 0.75)]
    assert y.mean().item() == pytest.approx(1.0, abs=0.01)


@pytest.mark.gpu
def test_a_gpu_draws_the_same_bits() -> None:
    cpu = Draws.of_items(9, [1, 2**35]).fold(3).uniform((1000,))
    gpu = Draws.of_items(9, [1, 2**35], "cuda").fold(3).uniform((1000,))
    assert torch.equal(cpu, gpu.cpu())
