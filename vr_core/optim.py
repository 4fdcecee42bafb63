"""An optimiser's parameter groups, the learning rate of a step, and the moving average of the weights."""

import fnmatch
import itertools
import math
from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from vr_core.errors import ConfigError, ModelError
from vr_core.models.per_item import require_per_item
from vr_core.specs.optim import BODY, GroupRow, OptimSpec


def learning_rate_factor(step: int, steps: int, spec: OptimSpec) -> float:
    """Rate of a step as a share of the peak: linear warm-up, then decay to `final_lr` at the last step.

    A pure function of the step: nothing compounds, so a resumed run and an undisturbed one agree.

    Args:
        step: 1 for the first optimiser step, `steps` for the last.
        steps: steps of the whole run.
        spec: schedule.
    """
    if step <= spec.warmup_steps:
        return step / spec.warmup_steps
    progress = min((step - spec.warmup_steps) / max(steps - spec.warmup_steps, 1), 1.0)
    return spec.final_lr + (1.0 - spec.final_lr) * _left(progress, spec)


def _left(progress: float, spec: OptimSpec) -> float:
    """How much of the way from the peak to the last rate is left, 1 to 0, after a share `progress` of the steps."""
    match spec.decay:
        case "constant":
            return 1.0
        case "linear":
            return 1.0 - progress
        case "polynomial":
            return (1.0 - progress) ** spec.power
        case "wsd":
            return min((1.0 - progress) / spec.cooldown, 1.0)
        case "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * progress))


def layer_share(place: int, layers: int, spec: OptimSpec) -> float:
    """Rate of a layer as a share of the last one's.

    Args:
        place: 0 for the layer at the input, `layers` - 1 for the one at the output.
        layers: how many there are.
        spec: with the rule.
    """
    after = layers - 1 - place
    return 1.0 / (after + 1) if spec.layer_rule == "lineage" else spec.layer_decay**after


def parameter_groups(model: nn.Module, spec: OptimSpec) -> list[dict[str, object]]:
    """Parameters by layer and by weight decay; those of `freeze` are taken out of training and of the groups.

    Those of `unfreeze` are in the groups: until their step they have no gradients, and the optimiser passes over them.

    Each group carries `lr_share`, from `layer_share`. `set_rates` writes `lr = peak × factor × lr_share` from it, so
    that one schedule never erases the layer-wise rates.

    Raises:
        ConfigError: a pattern of `freeze` names nothing, or nothing is left to train.
        ModelError: an item's loss would depend on the items beside it, or a parameter is in none of the layers.
    """
    require_per_item(model)
    prefixes = _layers(model)
    freeze(model, spec.freeze)
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            depth = _layer_of(name, prefixes)
            groups.setdefault((depth, is_matrix(name, parameter)), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": spec.lr,
            "lr_share": layer_share(depth, len(prefixes), spec),
            "weight_decay": spec.weight_decay if decayed else 0.0,
        }
        for (depth, decayed), parameters in sorted(groups.items())
    ]


def is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter holds weights of sums; biases, norms and position vectors do not, and are not decayed.

    Pulling position vectors to zero is pulling attention to no position.
    """
    return parameter.ndim >= 2 and not name.endswith((".distance", ".places"))


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Train all parameters of `model` but its `frozen_base` and those that a shell pattern names, or `body`.

    Raises:
        ConfigError: a pattern names nothing, or nothing is left to train.
    """
    frozen = _frozen(model, patterns)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError("optim.freeze or .unfreeze: every parameter is frozen; leave something to train")


def _frozen(model: nn.Module, patterns: Sequence[str]) -> frozenset[str]:
    """Names of the parameters that stay as they are."""
    base: frozenset[str] = model.frozen_base  # type: ignore[assignment]
    return base.union(*(named_by(model, pattern) for pattern in patterns))


def named_by(model: nn.Module, pattern: str, key: str = "optim.freeze or .unfreeze") -> frozenset[str]:
    """Names of the parameters that a pattern of `freeze` or `unfreeze`, or of another `key`, is about.

    Raises:
        ConfigError: none is.
    """
    names = [name for name, _ in model.named_parameters()]
    if pattern == BODY:
        heads = tuple(itertools.chain(*model.head_prefixes()))  # type: ignore[operator]
        found = frozenset(name for name in names if not name.startswith(heads))
    else:
        found = frozenset(name for name in names if fnmatch.fnmatchcase(name, pattern))
    if not found:
        layers = ", ".join(model.layer_prefixes())  # type: ignore[operator]
        raise ConfigError(f"{key}: {pattern!r} names no parameter; layers are {layers}")
    return found


def group_rows(model: nn.Module, spec: OptimSpec) -> list[GroupRow]:
    """What of a model is trained at which rate, and from when on; parameters may be without memory. Changes nothing.

    Raises:
        ConfigError: a pattern names nothing, or nothing would be trained.
        ModelError: as `parameter_groups`.
    """
    prefixes = _layers(model)
    frozen = _frozen(model, spec.freeze)
    later: dict[str, int] = {}
    for pattern, step in spec.unfreeze.items():
        for name in named_by(model, pattern):
            later[name] = max(step, later.get(name, 0))
    found: dict[tuple[float, int | None], tuple[dict[str, None], list[int]]] = {}
    for name, parameter in sorted(model.named_parameters(), key=lambda named: _layer_of(named[0], prefixes)):
        place = _layer_of(name, prefixes)
        from_step = None if name in frozen else later.get(name, 0)
        lr = 0.0 if from_step is None else spec.lr * layer_share(place, len(prefixes), spec)
        layers, counts = found.setdefault((lr, from_step), ({}, []))
        layers[prefixes[place].rstrip(".")] = None
        counts.append(parameter.numel())
    if all(from_step is None for _, from_step in found):
        raise ConfigError("optim.freeze or .unfreeze: every parameter is frozen; leave something to train")
    return [GroupRow(tuple(layers), sum(counts), *key) for key, (layers, counts) in found.items()]


def _layers(model: nn.Module) -> tuple[str, ...]:
    """Prefixes of the layers, in which every parameter is."""
    prefixes: tuple[str, ...] = model.layer_prefixes()  # type: ignore[operator]
    outside = [name for name, _ in model.named_parameters() if not name.startswith(prefixes)]
    if outside:
        raise ModelError(
            f"{type(model).__name__}: {', '.join(outside)}: in none of the layers that layer_prefixes() gives "
            f"({', '.join(prefixes)}); add the layer there, at its place from input to output"
        )
    return prefixes


def _layer_of(name: str, prefixes: Sequence[str]) -> int:
    return next(i for i, prefix in enumerate(prefixes) if name.startswith(prefix))


def set_rates(optimiser: torch.optim.Optimizer, peak: float, factor: float) -> None:
    """Write every group's rate for the coming step."""
    for group in optimiser.param_groups:
        group["lr"] = peak * factor * group["lr_share"]


class WeightAverage:
    """Exponential moving average of a model's weights, warmed up so that the first steps do not linger.

    The decay of step t is min(decay, (1 + t) / (10 + t)), as TensorFlow's ExponentialMovingAverage documents it.
    Buffers are the model's own of the last update: a count or a table of places has no mean.
    """

    def __init__(self, model: nn.Module, decay: float, names: Collection[str] | None = None) -> None:
        """Of those of the model's weights that have these names, or of all."""
        self.decay = decay
        self.weights: dict[str, Tensor] = {
            name: value.detach().clone() for name, value in model.state_dict().items() if names is None or name in names
        }
        buffers = {name for name, _ in model.named_buffers(remove_duplicate=False)}
        self._averaged = [name for name in self.weights if name not in buffers]
        self._copied = [name for name in self.weights if name in buffers]

    @torch.no_grad()
    def update(self, model: nn.Module, step: int, steps: int = 1) -> None:
        """Take the weights after optimiser step `step` in, the first look at them for `steps` steps."""
        decay = min(self.decay, (1 + step) / (10 + step)) ** steps
        current: dict[str, Tensor] = model.state_dict()
        torch._foreach_lerp_(
            [self.weights[name] for name in self._averaged], [current[name] for name in self._averaged], 1.0 - decay
        )
        for name in self._copied:
            self.weights[name].copy_(current[name])


def global_norm(parameters: Sequence[nn.Parameter]) -> Tensor:
    """L2 norm over all gradients, a scalar; not finite when any gradient is not."""
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
