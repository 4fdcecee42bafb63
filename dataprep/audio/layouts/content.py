"""What a file is beside the others of its song, by its sound: for names that leave it open.

Everything here is decided from the beginnings of the files, at a low sample rate: enough to tell a sum from a part.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Literal

import numpy as np

from dataprep.audio.decoders import AudioSource
from dataprep.audio.files import open_audio
from dataprep.errors import AudioError

_RATE_HZ = 8000
_LISTEN_S = 90
_SUM_DB = -20.0
"""So far below a file may be what its parts do not explain."""
_APART = 0.1
"""Stems that were recorded apart correlate by less."""
_GAINS = (0.5, 2.0)
"""A mixture holds its vocals at about the level that they have alone."""
_HOLDS = 0.3
"""A file that correlates more with another holds it."""


def relation(whole: np.ndarray, parts: Sequence[np.ndarray]) -> Literal["sum", "apart", "unclear"]:
    """Whether `[channel, sample]` `whole` is the sum of `parts`, or has nothing of it, or neither is clear."""
    total, whole = _as_long([added(parts), whole])
    if _energy(whole - total) < _energy(whole) * 10 ** (_SUM_DB / 10):
        return "sum"
    return "apart" if all(abs(_correlation(whole, part)) < _APART for part in parts) else "unclear"


def beside_vocals(heard: np.ndarray, voice: np.ndarray) -> Literal["mixture", "part", "unclear"]:
    """What a file of an unknown name is, where the vocals of its song are known.

    That it has nothing of these vocals tells an instrument from a mixture. It does not tell it from other vocals.

    Args:
        heard: the file, `[channel, sample]`.
        voice: the sum of what is known to be vocals.

    Returns:
        mixture: it holds the vocals at their level; part: it holds nothing of them; unclear: something else.
    """
    if _energy(voice) == 0:
        return "unclear"
    voice, heard = _as_long([voice, heard])
    if abs(_correlation(heard, voice)) < _APART:
        return "part"
    gain = float(np.vdot(voice, heard)) / _energy(voice)
    return "mixture" if _GAINS[0] <= gain <= _GAINS[1] else "unclear"


def holds(heard: np.ndarray, other: np.ndarray) -> bool:
    """Whether a file holds another one, as a mixture holds its instrumental."""
    return _correlation(heard, other) > _HOLDS


_on_listen: ContextVar[Callable[[Path], object]] = ContextVar("_on_listen", default=lambda path: None)


@contextmanager
def listening_told(to: Callable[[Path], object]) -> Iterator[None]:
    """Calls `to` with each file that is about to be listened to, since that takes a while."""
    token = _on_listen.set(to)
    try:
        yield
    finally:
        _on_listen.reset(token)


class Beginnings:
    """The first parts of the files of one song, each read once; they go with it."""

    def __init__(self) -> None:
        self._heard: dict[Path, np.ndarray | None] = {}

    def of(self, paths: Iterable[Path]) -> list[np.ndarray] | None:
        """The first part of each file, `[channel, sample]`; None where one cannot be heard."""
        paths = list(paths)
        new = [path for path in dict.fromkeys(paths) if path not in self._heard]
        for path in new:
            _on_listen.get()(path)
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            self._heard.update(zip(new, pool.map(_beginning, new), strict=True))
        found = [heard for path in paths if (heard := self._heard[path]) is not None]
        return found if len(found) == len(paths) else None


def _beginning(path: Path) -> np.ndarray | None:
    blocks: list[np.ndarray] = []
    try:
        for block in open_audio(AudioSource(path), _RATE_HZ, _RATE_HZ * 10):
            blocks.append(block)
            if sum(b.shape[1] for b in blocks) >= _RATE_HZ * _LISTEN_S:
                break
    except (AudioError, OSError):
        if not blocks:
            return None
    return np.concatenate(blocks, axis=1) if blocks else None


def added(signals: Sequence[np.ndarray]) -> np.ndarray:
    """The sum of signals `[channel, sample]`, as long as the longest."""
    total: np.ndarray = np.sum(_as_long(signals), axis=0)
    return total


def _as_long(signals: Sequence[np.ndarray]) -> list[np.ndarray]:
    size = max(signal.shape[1] for signal in signals)
    return [np.pad(signal, ((0, 0), (0, size - signal.shape[1]))) for signal in signals]


def _energy(signal: np.ndarray) -> float:
    return float(np.vdot(signal, signal))


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    one, other = _as_long([one, other])
    both = (_energy(one) * _energy(other)) ** 0.5
    return float(np.vdot(one, other)) / both if both > 0 else 0.0
