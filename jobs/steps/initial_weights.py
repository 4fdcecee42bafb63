"""Where a run begins: the weights of another, but for what its recipe starts anew."""

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from dataprep.shards.dataset import Dataset
from vr_core.errors import ConfigError
from vr_core.loading import load_merged, load_state
from vr_core.models.model import Model
from vr_core.models.registry import build


def start_from(
    model: Model,
    init: Path,
    reset: Sequence[str],
    data: Dataset,
    part: Literal["all", "body"] = "all",
    note: Callable[[str], None] = lambda line: None,
) -> frozenset[str]:
    """Take the weights of the file `init`, except those that a pattern of `reset` names.

    Args:
        model: changed in place.
        init: the file.
        reset: shell patterns of parameters that stay as they are.
        data: that the run trains on.
        part: body: heads of other stems stay as they are as well.
        note: with `body`, called with a line for each head that is new or not taken.

    Returns:
        Names of the parameters that have stayed as they were.

    Raises:
        WeightsError: they, or their body, do not fit the model.
        ManifestError: they were trained on other spectrograms than the data set's.
        ConfigError: a pattern of `init_reset` names nothing.
    """
    state, meta = load_merged(init)
    if meta.model.front.stft is None:  # else it has its own, which the model is compared with
        data.check(meta.stft)
    fresh, theirs = model.state_dict(), None
    if part == "body":
        with torch.device("meta"):
            theirs = build(meta.model, meta.model.front.bins_on(meta.stft), meta.head)
        state, lines = with_own_heads(state, theirs, model)
        for line in lines:
            note(f"init {init}: {line}")
    for pattern in reset:
        named = [name for name in fresh if fnmatch.fnmatchcase(name, pattern)]
        if not named:
            raise ConfigError(f"init_reset: {pattern!r} names no parameter of the model")
        state |= {name: fresh[name] for name in named}
    load_state(model, state, origin=str(init))
    return starts_fresh(model, theirs, reset)


def with_own_heads(state: Mapping[str, Tensor], theirs: Model, model: Model) -> tuple[dict[str, Tensor], list[str]]:
    """Weights for `model` out of those of a model with other heads, and a line for each head that is new or not taken.

    A head is taken where it is of the same stems and of the same kind; where a model has one head for all its stems,
    these must be the same. All else of `state` stays as it is, whether it fits or not.

    Args:
        state: name → tensor, of `theirs`.
        theirs: the model that `state` is of; may be on the `meta` device.
        model: the one that it is for.
    """
    before, own, shared = _compared(theirs, model)
    theirs_all = tuple(prefix for prefixes in before.values() for prefix in prefixes)
    found = {name: tensor for name, tensor in state.items() if not name.startswith(theirs_all)}
    for stems, prefixes in own.items():
        old = before[stems] if stems in shared else ()
        for mine, their in zip(prefixes, old, strict=False):
            found |= {mine + n.removeprefix(their): tensor for n, tensor in state.items() if n.startswith(their)}
        fresh = prefixes[len(old) :]  # of a shared head: an output that theirs has not
        found |= {n: tensor for n, tensor in model.state_dict().items() if n.startswith(fresh)}
    lines = [f"the head of {stems} ({own[stems][0]}*) is new and starts fresh" for stems in own if stems not in shared]
    lines += [f"its head of {stems} ({before[stems][0]}*) is not taken" for stems in before if stems not in shared]
    return found, lines


def starts_fresh(model: Model, theirs: Model | None, reset: Sequence[str]) -> frozenset[str]:
    """Names of the parameters of `model` that no weights are taken for; both models may be on the `meta` device.

    Args:
        model: that begins.
        theirs: what its body comes from, where only that is taken; None where all is.
        reset: shell patterns, as of `start_from`.
    """
    prefixes: tuple[str, ...] = ()
    if theirs is not None:
        before, own, shared = _compared(theirs, model)
        prefixes = tuple(p for stems in own for p in own[stems][len(before[stems]) if stems in shared else 0 :])
    names = [name for name, _ in model.named_parameters()]
    named = {name for pattern in reset for name in fnmatch.filter(names, pattern)}
    return frozenset(name for name in names if name in named or (prefixes and name.startswith(prefixes)))


def _compared(theirs: Model, model: Model) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]], set[str]]:
    """The heads of both, and the stems of those that are taken."""
    before, own = _heads(theirs), _heads(model)
    return before, own, set(own.keys() & before.keys()) if theirs.head.kind == model.head.kind else set()


def _heads(model: Model) -> dict[str, tuple[str, ...]]:
    """Stems of a head → prefixes of its parameters."""
    prefixes, stems = model.head_prefixes(), model.head.stems
    return dict(zip(stems if len(prefixes) == len(stems) else [", ".join(stems)], prefixes, strict=True))
