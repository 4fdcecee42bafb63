"""A weights file as a model: factors added to what they belong to, names and shapes compared first."""

import os
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from vr_core.errors import ConfigError, WeightsError, command
from vr_core.lora import merged
from vr_core.models.model import Model
from vr_core.models.registry import build
from vr_core.weights import BASE, WeightsMeta, digest_of, load_weights


def load_merged(path: Path) -> tuple[dict[str, Tensor], WeightsMeta]:
    """All weights of the model in the weights file `path`, low-rank factors added to what they belong to.

    Raises:
        WeightsError, StorageError: as `load_weights`; or the weights that stayed are not there.
    """
    part, meta = load_weights(path)
    if meta.adapter is None:
        return part, meta
    for file in (folder / BASE for folder in base_folders(path)):
        if os.path.lexists(file):
            if digest_of(file) != meta.adapter.base:
                continue
            base, of_base = load_weights(file)
            if of_base.head != meta.head:
                continue
            try:
                return merged(base, part, meta.adapter.lora), meta.model_copy(update={"adapter": None})
            except ConfigError as error:
                raise WeightsError(f"{path}: {error}") from None
    raise WeightsError(
        f"{path}: holds only what was trained by LoRA, and the weights that it belongs to are not in {BASE} beside it "
        f"or in its run's folder; give the run, or a file that `{command('export', 'RUN', '-o', 'FILE')}` wrote"
    )


def base_folders(path: Path) -> tuple[Path, ...]:
    """Where weights are looked for that belong to the factors in `path`: beside it, and in the folder of its run."""
    return (path.parent, *path.parents[2:3])


def load_model(path: Path, device: torch.device | str = "cpu") -> tuple[Model, WeightsMeta]:
    """The model in the weights file `path`, in evaluation mode on `device`, and its description.

    Raises:
        WeightsError, StorageError: as `load_merged` and `load_state`.
    """
    state, meta = load_merged(path)
    with torch.device("meta"):  # what the header says may be more than any memory holds
        require_fit(build(meta.model, meta.model.front.bins_on(meta.stft), meta.head), state, origin=str(path))
    model = build(meta.model, meta.model.front.bins_on(meta.stft), meta.head)
    load_state(model, state, origin=str(path))
    return model.to(device).eval(), meta


def load_state(
    model: nn.Module, state: Mapping[str, Tensor], origin: str, names: Collection[str] | None = None
) -> None:
    """Copy `state` into `model`, every tensor of it and nothing else.

    Args:
        model: changed in place, or not at all.
        state: as from `load_weights`.
        origin: what the message calls the weights.
        names: of the model's weights that `state` must have; all, unless given.

    Raises:
        WeightsError: names or shapes differ from the model's, or a value is not finite.
    """
    require_fit(model, state, origin, names)
    require_finite(state, origin)
    model.load_state_dict(state, strict=names is None)


def require_finite(state: Mapping[str, Tensor], origin: str) -> None:
    """Check that every value is a number.

    Raises:
        WeightsError: one is not.
    """
    broken = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise WeightsError(f"{origin}: {broken[0]} holds values that are not finite; take an earlier checkpoint")


def require_fit(
    model: nn.Module, state: Mapping[str, Tensor], origin: str, names: Collection[str] | None = None
) -> None:
    """Compare the names and shapes of `state` with the model's, which may be on the `meta` device.

    Of the model's weights those with these `names` are wanted, or all.

    Raises:
        WeightsError: they differ.
    """
    own = {name: value for name, value in model.state_dict().items() if names is None or name in names}
    problems = [f"{name} is missing" for name in own if name not in state]
    problems += [f"{name} is unknown" for name in state if name not in own]
    problems += [
        f"{name} is {list(state[name].shape)}, the model has {list(own[name].shape)}"
        for name in own if name in state and state[name].shape != own[name].shape
    ]  # fmt: skip
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise WeightsError(
            f"{origin}: does not fit the model: {'; '.join(problems[:3])}{more}; "
            "use the checkpoint of a recipe with the same `model`"
        )
