"""The same recording under another name: fingerprints of stems, and the pairs of songs that share one.

After Haitsma and Kalker, "A Highly Robust Audio Fingerprinting System" (ISMIR 2002): 33 bands, and for each frame 32
bits that say whether the difference of neighbouring bands grows or falls in time. Gain does not touch them, encodings
and offsets little. Where we depart: bands go to 3 kHz instead of 2 kHz, and energies are those of stored frames, summed
over 0.37 s (their window), compared over half of that, so that a cut between two frames changes few bits.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from dataprep.errors import DataError
from dataprep.roles import Role
from dataprep.shards.manifest import Manifest
from vr_core.specs.stft import StftSpec

_BANDS = 33
_LOWEST_HZ, _HIGHEST_HZ = 300.0, 3000.0
_WINDOW_S = 0.37
_AUDIBLE_DB = -50.0
"""Frames below the loudest by more than this say nothing."""
_COMMON = 64
"""A word that stands in more places than this tells none of them apart."""
_WORDS_AT_ONCE = 2**24
"""Words that are sorted together: 100 hours of one stem."""
_OFFSETS = 3
"""How many offsets of a pair of stems are looked at, those with the most equal words."""
LEAST_OVERLAP_S = 5.0
MOST_WRONG_BITS = 0.18
"""Of unrelated music half of the bits differ; figures of both sides: `python -m tests.bench dedupe`."""


class Fingerprint(NamedTuple):
    """One stem."""

    song: str
    role: Role
    words: np.ndarray
    """`[frame]` uint32."""
    audible: np.ndarray
    """`[frame]` bool."""


class Pair(NamedTuple):
    """Two songs that hold the same recording."""

    song: str
    role: Role
    other: str
    other_role: Role
    offset_s: float
    """What is at t in `song` is at t - offset_s in `other`."""
    overlap_s: float
    """Of audible frames."""
    wrong_bits: float
    """Share of bits that differ."""


class Listener:
    """Takes the spectrogram of one stem, piece by piece, and gives its words in the end."""

    def __init__(self, stft: StftSpec) -> None:
        """Of spectrograms with these settings.

        Raises:
            DataError: spectra too coarse for it.
        """
        self._stft = stft
        bands = bank(stft)
        heard = np.flatnonzero(bands.any(axis=0))
        self.bins = slice(int(heard[0]), int(heard[-1]) + 1)
        """All others are nothing to it."""
        # Sums of neighbouring bins and no product of matrices: numpy's would start threads beside those of preparation.
        self._starts = bands[:, self.bins].argmax(axis=1)
        self._energies: list[np.ndarray] = [np.zeros((_BANDS, 0), np.float32)]

    def add(self, power: np.ndarray) -> None:
        """The next frames: squared magnitudes of `bins`, `[channel, bin, frame]`."""
        self._energies.append(np.add.reduceat(power.sum(axis=0), self._starts, axis=0))

    def levels(self) -> np.ndarray:
        """Energy `[frame]` between 300 and 3,000 Hz, of both channels."""
        level: np.ndarray = np.concatenate(self._energies, axis=1).sum(axis=0)
        return level

    def words(self) -> tuple[np.ndarray, np.ndarray]:
        """Words `[frame]` uint32, and which of them are audible."""
        return _words(np.concatenate(self._energies, axis=1), self._stft)


def can_listen(stft: StftSpec) -> bool:
    """Whether spectra are fine enough to tell recordings apart."""
    try:
        bank(stft)
    except DataError:
        return False
    return True


def pairs(prints: Sequence[Fingerprint], frame_s: float, most_wrong_bits: float = MOST_WRONG_BITS) -> list[Pair]:
    """Pairs of different songs that share a recording, the best match of each pair of songs; pure.

    Args:
        prints: of stems.
        frame_s: seconds between frames.
        most_wrong_bits: share of bits that may differ.
    """
    best: dict[tuple[str, str], Pair] = {}
    for one, other, offset in candidates(prints):
        a, b = prints[one], prints[other]
        found = compared(a, b, offset, frame_s)
        if found.overlap_s < _least_overlap_s(a, b, frame_s) or found.wrong_bits > most_wrong_bits:
            continue
        key = (a.song, b.song)
        if key not in best or found.wrong_bits < best[key].wrong_bits:
            best[key] = found
    return [best[key] for key in sorted(best)]


def _least_overlap_s(one: Fingerprint, other: Fingerprint, frame_s: float) -> float:
    """Of short stems at least four fifths must be common."""
    shorter = min(int(one.audible.sum()), int(other.audible.sum())) * frame_s
    return min(LEAST_OVERLAP_S, 0.8 * shorter) if shorter > 1 else LEAST_OVERLAP_S


def bank(stft: StftSpec) -> np.ndarray:
    """`[band, bin]` 0 or 1, no bin in two bands.

    Bands are equally wide in octaves; where bins are too coarse for that, of one to three bins each.
    """
    bin_hz = stft.sample_rate_hz / stft.n_fft
    hz = np.arange(stft.bins) * bin_hz
    edges: np.ndarray = np.geomspace(_LOWEST_HZ, min(_HIGHEST_HZ, 0.45 * stft.sample_rate_hz), _BANDS + 1)
    if edges[1] - edges[0] < bin_hz:
        first = int(_LOWEST_HZ / bin_hz) + 1
        wide = min(3, (stft.bins - first) // _BANDS)
        if not wide:
            raise DataError(f"n_fft {stft.n_fft}: too few bins to tell recordings apart; prepare with 256 or more")
        edges = (first + wide * np.arange(_BANDS + 1) - 0.5) * bin_hz
    return ((hz >= edges[:-1, None]) & (hz < edges[1:, None])).astype(np.float32)


def _words(energy: np.ndarray, stft: StftSpec) -> tuple[np.ndarray, np.ndarray]:
    """Words `[frame]` and which of them are audible, of energies `[band, frame]`."""
    window = max(2, round(_WINDOW_S * stft.sample_rate_hz / stft.hop))
    lag = window // 2
    if energy.shape[1] < window + lag:
        return np.zeros(0, np.uint32), np.zeros(0, bool)
    total = np.cumsum(np.pad(energy, ((0, 0), (1, 0))), axis=1, dtype=np.float64)
    summed = total[:, window:] - total[:, :-window]
    difference = summed[:-1] - summed[1:]
    bits = difference[:, lag:] > difference[:, :-lag]
    words = np.packbits(bits, axis=0, bitorder="little").T.copy().view("<u4")[:, 0]
    level = summed.sum(axis=0)
    level = np.minimum(level[lag:], level[:-lag])
    return words, (level > 0) & (level > level.max() * 10 ** (_AUDIBLE_DB / 10))


def candidates(prints: Sequence[Fingerprint], at_once: int = _WORDS_AT_ONCE) -> Iterator[tuple[int, int, int]]:
    """Pairs of stems of different songs and offsets in frames at which they have words in common; pure.

    Args:
        prints: of stems.
        at_once: words that are sorted together; how many changes memory and no result.
    """
    longest = max((len(p.words) for p in prints), default=0)
    if not longest:
        return
    total = sum(int(p.audible.sum()) for p in prints)
    parts = -(-total // at_once)
    # One number for two stems and an offset: numbers are sorted many times faster than columns.
    met = np.concatenate([_meetings(prints, part, parts, longest) for part in range(parts)] or [np.zeros(0, np.int64)])
    found, votes = np.unique(met, return_counts=True)
    looked_at: dict[tuple[int, int], int] = {}
    for key in found[np.lexsort((found, -votes))].tolist():
        both, shifted = divmod(key, 2 * longest)
        a, b = divmod(both, len(prints))
        if looked_at.get((a, b), 0) < _OFFSETS:
            looked_at[a, b] = looked_at.get((a, b), 0) + 1
            yield a, b, shifted - longest


def _meetings(prints: Sequence[Fingerprint], part: int, parts: int, longest: int) -> np.ndarray:
    """Where stems of two songs have the same word, of every `parts`th word: a number for both and their offset."""
    names = {name: index for index, name in enumerate(dict.fromkeys(p.song for p in prints))}
    at = [np.flatnonzero(p.audible & (p.words % parts == part)) for p in prints]
    frame = np.concatenate(at)
    stem = np.repeat(np.arange(len(prints)), [len(frames) for frames in at])
    song = np.array([names[p.song] for p in prints])[stem]
    words = np.concatenate([p.words[frames] for p, frames in zip(prints, at, strict=True)])
    order = np.argsort(words, kind="stable")
    words, stem, frame, song = words[order], stem[order], frame[order], song[order]
    starts = np.flatnonzero(np.concatenate([[True], words[1:] != words[:-1]])) if len(words) else np.zeros(0, int)
    sizes = np.diff(np.append(starts, len(words)))
    rare = np.repeat(sizes <= _COMMON, sizes)
    words, stem, frame, song = words[rare], stem[rare], frame[rare], song[rare]
    met = [np.zeros(0, np.int64)]
    for step in range(1, min(_COMMON, len(words))):
        same = np.flatnonzero((words[:-step] == words[step:]) & (song[:-step] != song[step:]))
        one, other = same, same + step
        # The order in which stems were given, whichever word comes first.
        flip = stem[one] > stem[other]
        one, other = np.where(flip, other, one), np.where(flip, one, other)
        met.append((stem[one] * len(prints) + stem[other]) * 2 * longest + frame[one] - frame[other] + longest)
    return np.concatenate(met)


def compared(one: Fingerprint, other: Fingerprint, offset: int, frame_s: float) -> Pair:
    """How much two stems differ where both are heard, the second later by `offset` frames."""
    first, second = max(0, offset), max(0, -offset)
    length = min(len(one.words) - first, len(other.words) - second)
    audible = one.audible[first : first + length] & other.audible[second : second + length]
    differ = one.words[first : first + length] ^ other.words[second : second + length]
    wrong = np.unpackbits(np.ascontiguousarray(differ[audible]).view(np.uint8)).mean() if audible.any() else 1.0
    return Pair(
        one.song, one.role, other.song, other.role, offset * frame_s, int(audible.sum()) * frame_s, float(wrong)
    )


def crossing(found: Sequence[Pair], manifest: Manifest) -> list[Pair]:
    """Pairs of which one is for training and the other is not; pure."""
    trained = {song.id: song.split == "train" for song in manifest.songs}
    return [pair for pair in found if trained[pair.song] != trained[pair.other]]
