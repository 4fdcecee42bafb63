"""Separation scores over whole songs, in bounded memory.

Both treat the channels of a song as one long vector. What has no number by the formula gets one by rule: a silent
reference has no score (None); everything else lies within ± `LIMIT_DB`, so that an exact estimate scores +120 dB
and an estimate with nothing of the reference in it -120 dB in SI-SDR. Both are far outside what audio files can hold.
"""

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

LIMIT_DB = 120.0

Signal = NDArray[np.float32] | NDArray[np.float64]


class Score:
    """Running sums of one estimate against its reference; blocks may be cut anywhere."""

    def __init__(self) -> None:
        self.samples = 0
        self._values = 0
        self._reference = 0.0
        self._estimate = 0.0
        self._product = 0.0
        self._error = 0.0

    def update(self, reference: Signal, estimate: Signal) -> None:
        """Add the next block.

        Args:
            reference: `[channel, sample]`.
            estimate: the same shape.

        Raises:
            ValueError: the shapes differ.
        """
        if reference.shape != estimate.shape:
            raise ValueError(f"reference {reference.shape} and estimate {estimate.shape} must have the same shape")
        r = reference.astype(np.float64).ravel()
        e = estimate.astype(np.float64).ravel()
        self.samples += reference.shape[-1]
        self._values += r.size
        self._reference += float(r @ r)
        self._estimate += float(e @ e)
        self._product += float(r @ e)
        # Summed by itself: from the other sums it would drown in rounding for a good estimate.
        self._error += float((r - e) @ (r - e))

    def reference_db(self) -> float:
        """Root mean square of the reference over its channels in dB of full scale; -LIMIT_DB for silence."""
        return _ratio_db(self._reference, self._values)

    def sdr_db(self) -> float | None:
        """Signal-to-distortion ratio: 10 log10(Σ r² / Σ (r - e)²) over the whole song.

        The global SDR of the Music Demixing Challenge 2021 (Mitsufuji et al. 2022, "Music Demixing Challenge
        2021") without its additive constant; not the windowed, filtered SDR of BSS Eval.
        """
        return _ratio_db(self._reference, self._error) if self._reference > 0 else None

    def si_sdr_db(self) -> float | None:
        """Scale-invariant SDR (Le Roux et al. 2019, "SDR - half-baked or well done?"); no mean removal."""
        if self._reference <= 0:
            return None
        target = self._product**2 / self._reference
        return _ratio_db(target, max(self._estimate - target, 0.0))


def mean_db(scores: Iterable[float | None]) -> float | None:
    """Mean of the scores that exist; None when none does."""
    values = [score for score in scores if score is not None]
    return math.fsum(values) / len(values) if values else None


def _ratio_db(signal: float, distortion: float) -> float:
    if signal <= 0:
        return -LIMIT_DB
    if distortion <= 0:
        return LIMIT_DB
    return min(max(10 * (math.log10(signal) - math.log10(distortion)), -LIMIT_DB), LIMIT_DB)
