"""What is suspicious about a song's stems, found while they go by: one in the other, files of two songs, clipping."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from dataprep.roles import Role

LEAK = 0.2
"""Vocals and instrumental of one song that were recorded apart correlate by less than about 0.1."""
_PAIRED = 0.1
"""A mixture correlates with what is in it by the ratio of their levels: a stem 20 dB below it gives this."""
_LOUD = 0.2
"""A stem of this share of its mixture's level (-14 dB) and more correlates with it by twice as much as `_PAIRED`."""
_QUIET = 0.03
"""A stem this much softer than its mixture (-30 dB) cannot be told from one of another song."""
_CLEAR = 1.5
"""By so much the best offset must beat none at all."""
_DISTINCT = 6.0
"""Standard deviations by which it must stand out."""
_RESIDUAL_DB = -20.0
"""So far below a mixture may be what its stems do not explain."""
_CLIPPED_RUN = 3
"""So many samples in a row at full scale are no peak that happens to end there."""
_FULL_SCALE = 1 - 2**-15
_CLIPPED_SHARE = 1e-5


@dataclass
class Correlation:
    """Of two signals at no lag, in blocks."""

    product: float = 0.0
    one: float = 0.0
    other: float = 0.0

    def add(self, one: np.ndarray, other: np.ndarray) -> None:
        """The next block of both, `[channel, sample]`."""
        self.product += _product(one, other)
        self.one += energy(one)
        self.other += energy(other)

    @property
    def value(self) -> float:
        """-1 to 1; 0 where one of them is silent."""
        both = (self.one * self.other) ** 0.5
        return self.product / both if both > 0 else 0.0


@dataclass
class StemChecks:
    """Accumulates over a song, and says in the end what a person should listen to."""

    leak: Correlation = field(default_factory=Correlation)
    """Vocals and instrumental, whether given or made as a difference."""
    pairing: dict[Role, Correlation] = field(default_factory=dict)
    """The mixture that was given, and each stem that was given beside it."""
    residual_energy: float = 0.0
    """Of mixture - vocals - instrumental, where all three were given."""
    mixture_energy: float = 0.0
    """Of the mixture that was given beside both stems."""
    clipped: dict[Role, int] = field(default_factory=dict)
    samples: int = 0

    def add(self, given: Mapping[Role, np.ndarray], complete: Mapping[Role, np.ndarray]) -> None:
        """The next block: stems as the files give them, and all three roles where two are known."""
        self.samples += next(iter(given.values())).shape[1]
        for role, block in given.items():
            self.clipped[role] = self.clipped.get(role, 0) + clipped_samples(block)
        if "vocals" in complete and "instrumental" in complete:
            self.leak.add(complete["vocals"], complete["instrumental"])
        if "mixture" in given:
            for role in given.keys() - {"mixture"}:
                self.pairing.setdefault(role, Correlation()).add(given["mixture"], given[role])
        if len(given) == 3:
            self.residual_energy += energy(given["mixture"] - given["vocals"] - given["instrumental"])
            self.mixture_energy += energy(given["mixture"])

    def contradiction(self, late: Collection[Role]) -> str | None:
        """What says that a stem is of another song; None where nothing surely does.

        Args:
            late: stems that were found in the mixture at another place: they are of its song.
        """
        sure = {role: why for role, why in self._foreign(_LOUD).items() if role not in late}
        # Where neither of two stems is in the mixture, that is of another song, and it is not stored.
        return None if len(sure) == 2 else next(iter(sure.values()), None)

    def _foreign(self, quiet: float) -> dict[Role, str]:
        """Stems that have nothing in common with the mixture, if not softer than this share of its level."""
        return {
            role: f"mixture and {role} correlate by {pair.value:.2f} only: files of two songs, or far out of step"
            for role, pair in sorted(self.pairing.items())
            if pair.one > 0 and pair.other > quiet**2 * pair.one and abs(pair.value) < _PAIRED
        }

    def notes(self) -> list[str]:
        """One line for each suspicion."""
        found = []
        if self.residual_energy > self.mixture_energy * 10 ** (_RESIDUAL_DB / 10):
            ratio = self.residual_energy / self.mixture_energy if self.mixture_energy else math.inf
            level_db = 10 * math.log10(ratio)
            found.append(f"mixture differs from vocals + instrumental by {level_db:.1f} dB; their sum is used")
        if foreign := self._foreign(_QUIET):
            found += foreign.values()
        elif abs(self.leak.value) > LEAK:
            found.append(f"vocals and instrumental correlate by {self.leak.value:.2f}: one holds some of the other")
        for role, count in self.clipped.items():
            if count > _CLIPPED_SHARE * 2 * self.samples:
                found.append(f"{role} clipped: {count:,} samples at full scale")
        return found


def find_offset(reference: np.ndarray, other: np.ndarray, most: int) -> int:
    """How many samples `other` lies after `reference`, which holds it, by cross-correlation; 0 where that is not clear.

    The spectrum is whitened by half (between plain correlation and the phase transform of Knapp and Carter, 1976): a
    held note alone would give a peak at each of its periods.

    Args:
        reference: `[channel, sample]`.
        other: `[channel, sample]`.
        most: largest offset looked for, either way.
    """
    size = 1 << (max(reference.shape[1], other.shape[1]) + most).bit_length()
    one, two = (np.fft.rfft(signal.sum(axis=0, dtype=np.float64), size) for signal in (reference, other))
    cross = np.conj(one) * two
    cross /= np.sqrt(np.abs(cross)) + 1e-12
    found = np.fft.irfft(cross, size)
    lags = np.arange(-most, most + 1)
    near = found[lags]
    best = int(near.argmax())
    clear = near[best] > _CLEAR * max(near[most], 0.0) and near[best] > _DISTINCT * float(near.std())
    return int(lags[best]) if clear else 0


def clipped_samples(block: np.ndarray) -> int:
    """Samples of `[channel, sample]` in runs of three and more at or above full scale."""
    full = np.abs(block) >= _FULL_SCALE
    if not full.any():
        return 0
    runs = full.copy()
    for step in range(1, _CLIPPED_RUN):
        runs[:, :-step] &= full[:, step:]
        runs[:, -step:] = False
    inside = runs.copy()
    for step in range(1, _CLIPPED_RUN):
        inside[:, step:] |= runs[:, :-step]
    return int(inside.sum())


def energy(block: np.ndarray) -> float:
    """Sum of squares."""
    return _product(block, block)


def _product(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.dot(np.ascontiguousarray(one).reshape(-1), np.ascontiguousarray(other).reshape(-1)))
