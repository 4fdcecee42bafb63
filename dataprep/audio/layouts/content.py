"""What a file is beside the others of its song, by its sound: for names that leave it open.

Everything here is decided from the beginnings of the files, at a low sample rate: enough to tell a sum from a part.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
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
"""A file that correlates more with the sum of the others holds some of them."""


def relation(whole: np.ndarray, parts: Sequence[np.ndarray]) -> Literal["sum", "apart", "unclear"]:
    """Whether `[channel, sample]` `whole` is the sum of `parts`, or has nothing of it, or neither is clear."""
    total, whole = _as_long([_sum(parts), whole])
    if _energy(whole - total) < _energy(whole) * 10 ** (_SUM_DB / 10):
        return "sum"
    return "apart" if all(abs(_correlation(whole, part)) < _APART for part in parts) else "unclear"


def unknown(
    heard: np.ndarray, vocals: Sequence[np.ndarray], others: Sequence[np.ndarray]
) -> Literal["mixture", "part", "unclear"]:
    """What a file of an unknown name is.

    Args:
        heard: the file, `[channel, sample]`.
        vocals: what is known to be vocals.
        others: the other files of the song that are not vocals.

    Returns:
        mixture: it holds the vocals at their level; part: it holds nothing of the others; unclear: something else.
    """
    if vocals and _energy(voice := _sum(vocals)) > 0:
        voice, heard = _as_long([voice, heard])
        if abs(_correlation(heard, voice)) < _APART:
            return "part"
        gain = float(np.vdot(voice, heard)) / _energy(voice)
        return "mixture" if _GAINS[0] <= gain <= _GAINS[1] else "unclear"
    return "unclear" if others and abs(_correlation(heard, _sum(others))) > _HOLDS else "part"


@lru_cache(maxsize=64)
def _beginning(path: Path, stamp_ns: int) -> np.ndarray | None:
    blocks: list[np.ndarray] = []
    try:
        for block in open_audio(AudioSource(path), _RATE_HZ, _RATE_HZ * 10):
            blocks.append(block)
            if sum(b.shape[1] for b in blocks) >= _RATE_HZ * _LISTEN_S:
                break
    except AudioError:
        if not blocks:
            return None
    return np.concatenate(blocks, axis=1) if blocks else None


def beginnings(paths: Iterable[Path]) -> list[np.ndarray] | None:
    """The first part of each file, `[channel, sample]`; None where one cannot be heard."""
    found = []
    for path in paths:
        try:
            heard = _beginning(path, path.stat().st_mtime_ns)
        except OSError:
            heard = None
        if heard is None:
            return None
        found.append(heard)
    return found


def _as_long(signals: Sequence[np.ndarray]) -> list[np.ndarray]:
    size = max(signal.shape[1] for signal in signals)
    return [np.pad(signal, ((0, 0), (0, size - signal.shape[1]))) for signal in signals]


def _sum(signals: Sequence[np.ndarray]) -> np.ndarray:
    total: np.ndarray = np.sum(_as_long(signals), axis=0)
    return total


def _energy(signal: np.ndarray) -> float:
    return float(np.vdot(signal, signal))


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    one, other = _as_long([one, other])
    both = (_energy(one) * _energy(other)) ** 0.5
    return float(np.vdot(one, other)) / both if both > 0 else 0.0
