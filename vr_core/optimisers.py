"""Optimisers by name: what takes a step, and over which parameters.

A new one is a function here and a line in `OPTIMISERS`, and its name in `OptimSpec`. Each comes from a library and has
the groups and rates of `vr_core.optim`.
"""

from collections.abc import Callable

import schedulefree
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vr_core.errors import ConfigError
from vr_core.optim import is_matrix, parameter_groups
from vr_core.specs.optim import OptimSpec

MAIN = "main"
"""The first of a run's optimisers, and the only one of most."""
MUON = "muon"


def optimisers_of(model: nn.Module, spec: OptimSpec) -> dict[str, Optimizer]:
    """Name → optimiser over parameters of `model` that are trained; `MAIN` is the first.

    Raises:
        ConfigError, ModelError: as `parameter_groups`.
    """
    return OPTIMISERS[spec.name](model, spec)


def adamw(model: nn.Module, spec: OptimSpec) -> torch.optim.AdamW:
    """AdamW over all that is trained (Loshchilov and Hutter 2019), in one pass over memory.

    Fused on a CPU too: 9 ms instead of 44 for 12 million parameters on a core of an AMD EPYC.
    """
    return _fused(parameter_groups(model, spec), spec)


def muon(model: nn.Module, spec: OptimSpec) -> dict[str, Optimizer]:
    """Muon over the matrices between the first layer and the heads, AdamW over all else (Jordan et al. 2024, "Muon").

    A matrix's step has the size of AdamW's, so that one `lr` and its schedule serve both (Liu et al. 2025, "Muon is
    scalable for LLM training", arXiv:2502.16982, equation 4). torch rounds to bfloat16 within it, whatever the
    weights are: runs cut otherwise agree as closely as that, and not to float64.

    Raises:
        ConfigError: no matrix is trained there.
    """
    groups = parameter_groups(model, spec)
    chosen = {
        id(p) for name, p in model.named_parameters() if p.ndim == 2 and is_matrix(name, p) and _is_inner(model, name)
    }
    matrices = _those(groups, lambda p: id(p) in chosen)
    if not matrices:
        raise ConfigError("optim.name muon: no matrix between the first layer and the heads is trained; use adamw")
    rest = _those(groups, lambda p: id(p) not in chosen)
    found: dict[str, Optimizer] = {}
    if rest:
        found[MAIN] = _fused(rest, spec)
    found[MUON if rest else MAIN] = torch.optim.Muon(matrices, lr=spec.lr, adjust_lr_fn="match_rms_adamw")
    return found


def schedule_free(model: nn.Module, spec: OptimSpec) -> dict[str, Optimizer]:
    """AdamW without a schedule (Defazio et al. 2024, "The road less scheduled", arXiv:2405.15682, algorithm 1).

    Gradients are taken at y; what one uses is x, a weighted mean of all steps (`mean_weights`).
    """
    optimiser = schedulefree.AdamWScheduleFree(parameter_groups(model, spec), lr=spec.lr, betas=spec.betas)
    optimiser.train()
    return {MAIN: optimiser}


OPTIMISERS: dict[str, Callable[[nn.Module, OptimSpec], dict[str, Optimizer]]] = {
    "adamw": lambda model, spec: {MAIN: adamw(model, spec)},
    "muon": muon,
    "schedule_free": schedule_free,
}


@torch.no_grad()
def mean_weights(model: nn.Module, optimiser: Optimizer) -> dict[str, Tensor]:
    """Name → x of each parameter that a schedule-free optimiser has moved: y + (1 - 1 / beta1) (z - y).

    The library's own `eval()` writes it over y, and its `train()` back, rounded: a run that wrote a checkpoint would
    then not be one that wrote none.
    """
    beta1 = {id(p): group["betas"][0] for group in optimiser.param_groups for p in group["params"]}
    return {
        name: p.lerp(optimiser.state[p]["z"], 1 - 1 / beta1[id(p)])
        for name, p in model.named_parameters()
        if "z" in optimiser.state.get(p, {})
    }


def _fused(groups: list[dict[str, object]], spec: OptimSpec) -> torch.optim.AdamW:
    return torch.optim.AdamW(groups, lr=spec.lr, betas=spec.betas, fused=True)


def _is_inner(model: nn.Module, name: str) -> bool:
    first, *_ = model.layer_prefixes()  # type: ignore[operator]
    heads = [prefix for prefixes in model.head_prefixes() for prefix in prefixes]  # type: ignore[operator]
    return not name.startswith((first, *heads))


def _those(groups: list[dict[str, object]], chosen: Callable[[nn.Parameter], bool]) -> list[dict[str, object]]:
    """The groups with those of their parameters that are `chosen`; none is empty."""
    cut = [{**group, "params": [p for p in group["params"] if chosen(p)]} for group in groups]  # type: ignore[attr-defined]
    return [group for group in cut if group["params"]]
