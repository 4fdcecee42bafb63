"""Where a run begins: the weights of another, but for what its recipe starts anew."""

import fnmatch
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from dataprep.shards.dataset import Dataset
from vr_core.errors import ConfigError
from vr_core.weights import load_state, load_weights


def start_from(model: nn.Module, init: Path, reset: Sequence[str], data: Dataset) -> None:
    """Take the weights of the file `init`, except those that a pattern of `reset` names.

    Raises:
        WeightsError: they do not fit the model.
        ManifestError: they were trained on other spectrograms than the data set's.
        ConfigError: a pattern of `init_reset` names nothing.
    """
    state, meta = load_weights(init)
    if meta.model.front.stft is None:  # else it has its own, which the model is compared with
        data.check(meta.stft)
    fresh = model.state_dict()
    for pattern in reset:
        named = [name for name in fresh if fnmatch.fnmatchcase(name, pattern)]
        if not named:
            raise ConfigError(f"init_reset: {pattern!r} names no parameter of the model")
        state |= {name: fresh[name] for name in named}
    load_state(model, state, origin=str(init))
