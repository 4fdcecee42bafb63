"""Low-rank adaptation: a frozen model with small trained factors beside its linear layers.

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685, equation 3:
h = W x + (alpha / rank) B A x, with A drawn and B zero at the start, so that training begins at the model itself.

The product is taken factor by factor and never added to W: a gradient of W's size is then never computed, which saves a
third of a step. Legend: R rank, I inputs, O outputs.
"""

import fnmatch
import math
import re
from collections.abc import Collection, Mapping
from copy import deepcopy
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from vr_core.errors import ConfigError
from vr_core.models.model import Model
from vr_core.optim import named_by
from vr_core.specs.lora import BLOCKS, LoraSpec

DOWN, UP = "lora_a", "lora_b"
"""Names of A and B, beside the layer's `weight`."""
AnyModule = TypeVar("AnyModule", bound=nn.Module)


class LowRankLinear(nn.Module):
    """A linear layer with its factors; weight and bias keep their names."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.weight, self.bias, self.scale = base.weight, base.bias, alpha / rank
        self.lora_a = nn.Parameter(base.weight.new_empty(rank, base.in_features))
        self.lora_b = nn.Parameter(base.weight.new_zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))  # as torch draws the weights of a linear layer

    def forward(self, x: Float[Tensor, "*batch I"]) -> Float[Tensor, "*batch O"]:
        """Equation 3."""
        return F.linear(x, self.weight, self.bias) + F.linear(F.linear(x, self.lora_a), self.lora_b) * self.scale


def adapt(model: Model, spec: LoraSpec, fresh: Collection[str] = ()) -> None:
    """Give `model` factors, in place, and freeze all else but what `spec.whole` names.

    Args:
        model: with the weights that stay.
        spec: which layers, and how.
        fresh: names of its parameters that are of no trained model.

    Raises:
        ConfigError: a pattern names nothing, or something fresh would stay as it was drawn.
    """
    whole = {name for pattern in spec.whole for name in named_by(model, pattern, "lora.whole")}
    untrained = sorted(set(fresh) - whole)
    if untrained:
        raise ConfigError(
            f"lora: {untrained[0]} starts fresh (init_part or init_reset) and would stay as it was drawn; add it to "
            f"lora.whole, such as {untrained[0].split('.')[0]}.*"
        )
    for name in sorted(_chosen(model, spec, whole)):
        parent, _, own = name.rpartition(".")
        layer: Any = model.get_submodule(name)
        # Not setattr: in a container of torch's a layer's name is a number.
        model.get_submodule(parent)._modules[own] = LowRankLinear(layer, spec.rank, spec.alpha)
    trained = {name for name, _ in model.named_parameters() if name.endswith((f".{DOWN}", f".{UP}"))} | whole
    model.frozen_base = frozenset(name for name, _ in model.named_parameters()) - trained
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)


def _chosen(model: Model, spec: LoraSpec, whole: Collection[str]) -> set[str]:
    """Names of the layers that get factors."""
    linear = [
        name
        for name, module in model.named_modules()
        if type(module) is nn.Linear and min(module.weight.shape) > spec.rank and f"{name}.weight" not in whole
    ]
    first, *_ = model.layer_prefixes()
    outside = (first, *(prefix for prefixes in model.head_prefixes() for prefix in prefixes))
    chosen: set[str] = set()
    for pattern in spec.patterns:
        found = (
            {name for name in linear if not f"{name}.".startswith(outside)}
            if pattern == BLOCKS
            else set(fnmatch.filter(linear, pattern))
        )
        if not found:
            alike = dict.fromkeys(re.sub(r"\d+", "*", name) for name in linear)
            raise ConfigError(
                f"lora.patterns: {pattern!r} names no linear layer of more than {spec.rank} inputs and outputs; "
                f"there are {', '.join(alike) or 'none'}"
            )
        chosen |= found
    return chosen


def merged(
    base: Mapping[str, Shaped[Tensor, "..."]], part: Mapping[str, Shaped[Tensor, "..."]], spec: LoraSpec
) -> dict[str, Shaped[Tensor, "..."]]:
    """The weights of the plain model that computes the same: W + (alpha / rank) B A.

    Args:
        base: all weights that stayed.
        part: factors, and weights that were trained whole.
        spec: of the factors.

    Raises:
        ConfigError: a factor belongs to no weight of `base`, or is of another shape.
    """
    found = dict(base)
    for name, tensor in part.items():
        layer, _, kind = name.rpartition(".")
        if kind == DOWN:
            continue
        target = f"{layer}.weight" if kind == UP else name
        down = part.get(f"{layer}.{DOWN}") if kind == UP else None
        shape = list(tensor.shape) if down is None else [len(tensor), *down.shape[1:]]
        fits = target in base and shape == list(base[target].shape)
        if not fits or (kind == UP and (down is None or tensor.shape[1:] != down.shape[:1])):
            there = list(base[target].shape) if target in base else "nothing"
            raise ConfigError(f"{name}: of another model than the base, which has {there} there, not {shape}")
        found[target] = tensor if down is None else _added(base[target], down, tensor, spec)
    return found


def _added(
    weight: Float[Tensor, "O I"], down: Float[Tensor, "R I"], up: Float[Tensor, "O R"], spec: LoraSpec
) -> Float[Tensor, "O I"]:
    # In float64, then rounded once, and never to half precision: what is added is often less than its last digit.
    wide = torch.promote_types(weight.dtype, torch.float32)
    return (weight.double() + (up.double() @ down.double()) * (spec.alpha / spec.rank)).to(wide)


def copy_of(model: AnyModule) -> AnyModule:
    """A copy of `model` that shares what no training changes (`Model.frozen_base`)."""
    fixed: frozenset[str] = getattr(model, "frozen_base", frozenset())
    shared: dict[int, Any] = {id(value): value for name, value in model.named_parameters() if name in fixed}
    return deepcopy(model, shared)
