"""Optimisers by name, each against its definition written out."""

import copy

import pytest
import torch

from vr_core.errors import ConfigError
from vr_core.models.model import Model
from vr_core.models.registry import build
from vr_core.optim import parameter_groups, set_rates
from vr_core.optimisers import MAIN, MUON, OPTIMISERS, mean_weights, optimisers_of
from vr_core.specs.models import DenseFrameTransformerSpec, SeedFrameTransformerSpec
from vr_core.specs.optim import OptimSpec

SPECS = {
    "adamw": OptimSpec(lr=0.01, weight_decay=0.1),
    "muon": OptimSpec(name="muon", lr=0.01, weight_decay=0.1),
    "schedule_free": OptimSpec(name="schedule_free", lr=0.01, weight_decay=0.1, decay="constant", ema_decay=0),
}


def model_of() -> Model:
    torch.manual_seed(0)
    return build(DenseFrameTransformerSpec(width=8, blocks=2, heads=2, feedforward=12), 5).double()


def gradients(model: Model, step: int) -> None:
    torch.manual_seed(step)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)


def trained(model: Model, spec: OptimSpec, steps: int) -> dict[str, torch.optim.Optimizer]:
    optimisers = optimisers_of(model, spec)
    for step in range(1, steps + 1):
        gradients(model, step)
        for optimiser in optimisers.values():
            set_rates(optimiser, spec.lr, min(1.0, step / 3))
            optimiser.step()
    return optimisers


@pytest.mark.parametrize("name", OPTIMISERS)
def test_each_trained_parameter_has_one_optimiser_and_no_other_has(name: str) -> None:
    model = model_of()
    spec = SPECS[name].model_copy(update={"freeze": ("blocks.0.*",)})
    found = [p for o in optimisers_of(model, spec).values() for group in o.param_groups for p in group["params"]]
    named = {id(p): n for n, p in model.named_parameters()}
    names = [named[id(p)] for p in found]
    assert sorted(names) == sorted(n for n in named.values() if not n.startswith("blocks.0."))


@pytest.mark.parametrize("name", OPTIMISERS)
def test_what_it_keeps_goes_on_bit_by_bit(name: str) -> None:
    spec, model = SPECS[name], model_of()
    optimisers = trained(model, spec, 4)
    other = model_of()
    other.load_state_dict(model.state_dict())
    again = optimisers_of(other, spec)
    for key, optimiser in again.items():
        optimiser.load_state_dict(copy.deepcopy(optimisers[key].state_dict()))
    for step in (5, 6):
        for net, own in ((model, optimisers), (other, again)):
            gradients(net, step)
            for optimiser in own.values():
                optimiser.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_muon_takes_the_matrices_between_the_first_layer_and_the_heads() -> None:
    model = model_of()
    found = optimisers_of(model, SPECS["muon"])
    assert list(found) == [MAIN, MUON]
    named = {id(p): n for n, p in model.named_parameters()}
    matrices = {named[id(p)] for group in found[MUON].param_groups for p in group["params"]}
    assert matrices == {n for n, p in model.named_parameters() if p.ndim == 2 and n.startswith("blocks.")}
    with pytest.raises(ConfigError, match="optim.name muon: no matrix between the first layer and the heads"):
        optimisers_of(model, SPECS["muon"].model_copy(update={"freeze": ("blocks.*",)}))


def test_position_vectors_are_neither_decayed_nor_matrices() -> None:
    torch.manual_seed(0)
    model = build(SeedFrameTransformerSpec(blocks=2, heads=2, feedforward=8, crop_frames=6), 8)
    places = dict(model.named_parameters())["blocks.1.parts.2.places"]
    assert not any(
        p is places for group in optimisers_of(model, SPECS["muon"])[MUON].param_groups for p in group["params"]
    )
    [decay] = [
        g["weight_decay"] for g in parameter_groups(model, SPECS["adamw"]) if any(p is places for p in g["params"])
    ]
    assert decay == 0


def test_a_step_of_muon_is_orthogonal_and_as_long_as_adams() -> None:
    """Of a matrix n x m all singular values of the step are 0.2 sqrt(max(n, m)), to the iteration's tolerance."""
    model, spec = model_of(), SPECS["muon"].model_copy(update={"weight_decay": 0.0})
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    trained(model, spec, 1)
    named = {n: p for n, p in model.named_parameters() if p.ndim == 2 and n.startswith("blocks.")}
    for name, parameter in named.items():
        step = (before[name] - parameter.detach()) / (spec.lr / 3)
        values = torch.linalg.svdvals(step) / (0.2 * max(step.shape) ** 0.5)
        assert 0.6 < values.min() <= values.max() < 1.3, name


def test_schedule_free_is_algorithm_1_and_its_mean_is_x() -> None:
    """z moves by the rate, x is the mean of all z weighted by the rate's square, y lies between; in float64."""
    spec, model = SPECS["schedule_free"], model_of()
    beta1, beta2 = spec.betas
    x = {n: p.detach().clone() for n, p in model.named_parameters()}
    z = {n: p.clone() for n, p in x.items()}
    moments = {n: torch.zeros_like(p) for n, p in x.items()}
    total = 0.0
    optimisers = optimisers_of(model, spec)
    decays = {id(p): g["weight_decay"] for g in optimisers[MAIN].param_groups for p in g["params"]}
    decay = {n: decays[id(p)] for n, p in model.named_parameters()}
    for step in range(1, 8):
        gradients(model, step)
        given = {n: p.grad.clone() for n, p in model.named_parameters()}
        rate = min(1.0, step / 3) * spec.lr
        set_rates(optimisers[MAIN], spec.lr, min(1.0, step / 3))
        optimisers[MAIN].step()
        total += rate**2
        for n, gradient in given.items():
            y = (1 - beta1) * z[n] + beta1 * x[n]
            moments[n] = beta2 * moments[n] + (1 - beta2) * gradient**2
            direction = gradient / ((moments[n] / (1 - beta2**step)).sqrt() + 1e-8) + decay[n] * y
            z[n] = z[n] - rate * direction
            x[n] = x[n] + rate**2 / total * (z[n] - x[n])
        for n, value in mean_weights(model, optimisers[MAIN]).items():
            torch.testing.assert_close(value, x[n], rtol=1e-10, atol=1e-12)
            torch.testing.assert_close(
                dict(model.named_parameters())[n].detach(), (1 - beta1) * z[n] + beta1 * x[n], rtol=1e-10, atol=1e-12
            )


@pytest.mark.parametrize(
    "keys", [{"ema_decay": 0.9, "decay": "constant"}, {"ema_decay": 0}, {"betas": (0.0, 0.9)}, {"unfreeze": {"a": 3}}]
)
def test_schedule_free_takes_no_second_average_and_no_decay(keys: dict[str, object]) -> None:
    usual = {} if "ema_decay" in keys else {"decay": "constant", "ema_decay": 0}
    with pytest.raises(ValueError, match="name schedule_free"):
        OptimSpec(name="schedule_free", **{**usual, **keys})
