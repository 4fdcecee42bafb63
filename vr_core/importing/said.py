"""What is said of a checkpoint beside its tensors: by the YAML file that its trainer used, and on the command line."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from vr_core.errors import ConfigError
from vr_core.specs.heads import STEM_LETTERS
from vr_core.yaml12 import kind_of, read_yaml

INSTRUMENTAL = "instrumental"
VOCALS = "vocals"
_NO_STEMS = ("mixture", "all")
"""What `vr separate` calls the song, and every stem."""


@dataclass(frozen=True)
class Said:
    """None: not said."""

    stems: tuple[str, ...] | None = None
    hop: int | None = None
    n_fft: int | None = None
    sample_rate_hz: int | None = None
    chunk_samples: int | None = None
    model: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the YAML's own `model` section, which the tensors have to agree with."""
    origin: str = "command line"

    def over(self, other: "Said") -> "Said":
        """What `other` says, and this in its place where this says something."""
        said = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("model", "origin")}
        return replace(other, **{name: value for name, value in said.items() if value is not None})


def read_said(path: Path) -> Said:
    """What the YAML file of a trainer says, in the layout that the community's files share.

    Raises:
        ConfigError: no such YAML, or a value of another kind.
    """
    raw = read_yaml(path, tuples=True)
    audio, model, training, inference = (
        _section(raw, name, path) for name in ("audio", "model", "training", "inference")
    )
    return Said(
        stems=_stems(training, path),
        hop=_count(model, "stft_hop_length", path) or _count(audio, "hop_length", path),
        n_fft=_count(model, "stft_n_fft", path) or _count(audio, "n_fft", path),
        sample_rate_hz=_count(audio, "sample_rate", path) or _count(model, "sample_rate", path),
        chunk_samples=_count(inference, "chunk_size", path) or _count(audio, "chunk_size", path),
        model=model,
        origin=str(path),
    )


def stem_names(names: Sequence[str]) -> tuple[str, ...]:
    """As vr calls them; `other` is the instrumental where nothing but vocals stands beside it.

    Raises:
        ConfigError: a name without a letter or digit, a long one, one twice, or one that is no stem's.
    """
    plain = [re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") for name in names]
    instrumental = {"inst", "instrum", "no_vocals", *(["other"] if set(plain) == {VOCALS, "other"} else [])}
    found = tuple(INSTRUMENTAL if name in instrumental else name for name in plain)
    if not all(found) or len(set(found)) < len(found):
        raise ConfigError(
            f"stems {', '.join(map(repr, names))}: expected a name for each, and each once; give such as "
            "--stems vocals,instrumental"
        )
    for name in found:
        if name in _NO_STEMS or len(name) > STEM_LETTERS:
            raise ConfigError(
                f"stem {name!r}: expected up to {STEM_LETTERS} letters, and none of {', '.join(_NO_STEMS)}; "
                "give another name with --stems"
            )
    return found


def _section(raw: Mapping[str, Any], name: str, path: Path) -> Mapping[str, Any]:
    value = raw.get(name, {})
    if not isinstance(value, Mapping):
        raise ConfigError(f"{path}: {name}: expected keys with values, found {kind_of(value)}")
    return value


def _count(section: Mapping[str, Any], key: str, path: Path) -> int | None:
    value = section.get(key)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise ConfigError(f"{path}: {key}: expected a count, found {value!r}")
    return value


def _stems(training: Mapping[str, Any], path: Path) -> tuple[str, ...] | None:
    """Of the target where the model has one, else of all instruments."""
    instruments, target = training.get("instruments"), training.get("target_instrument")
    if instruments is None:
        return None
    if not isinstance(instruments, list) or not all(isinstance(name, str) for name in instruments):
        raise ConfigError(f"{path}: training.instruments: expected a list of names")
    named = dict(zip(instruments, stem_names(instruments), strict=True))
    if target is None:
        return tuple(named.values())
    if target not in named:
        raise ConfigError(f"{path}: training.target_instrument: {target!r} is none of {', '.join(instruments)}")
    return (named[target],)
