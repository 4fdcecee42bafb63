"""A sung-like voice for invented songs: source and filter (Fant 1960).

A band-limited sawtooth and noise are shaped frame by frame by the resonances of vowels and the bands of consonants.

Legend: `[sample]` mono float32; `[frame, bin]` gains of short spectra.
"""

from dataclasses import dataclass

import numpy as np

RATE_HZ = 44_100
_FRAME, _HOP = 1024, 256
# Vowels as (frequency, width, level) of three to four resonances, after Peterson and Barney (1952), men's averages.
_VOWELS = np.array(
    [
        [[730, 90, 1.0], [1090, 110, 0.55], [2440, 170, 0.18], [3400, 250, 0.09]],  # a
        [[530, 70, 1.0], [1840, 110, 0.4], [2480, 170, 0.25], [3500, 250, 0.1]],  # e
        [[300, 60, 1.0], [2290, 110, 0.25], [3010, 180, 0.2], [3700, 250, 0.1]],  # i
        [[570, 80, 1.0], [840, 100, 0.6], [2410, 170, 0.1], [3300, 250, 0.05]],  # o
        [[320, 60, 1.0], [870, 90, 0.4], [2240, 170, 0.06], [3200, 250, 0.03]],  # u
    ]
)
_CONSONANTS_HZ = ((4500, 10_000), (2500, 6000), (1500, 4500), (300, 2500))  # s, sh, t, a voiced murmur


@dataclass(frozen=True)
class Score:
    """What a song's voices have in common."""

    samples: int
    beat_s: float
    root: int
    """MIDI number of the tonic, in the bass's octave."""
    scale: tuple[int, ...]
    progression: tuple[int, ...]
    """Scale step of the chord of each bar."""

    @property
    def bar_s(self) -> float:
        """Length of a bar of four beats."""
        return 4 * self.beat_s

    @property
    def bars(self) -> int:
        """Bars begun in the song."""
        return int(np.ceil(self.samples / RATE_HZ / self.bar_s))

    def step_hz(self, step: int, octave: int = 0) -> float:
        """Frequency of a step of the scale above the tonic; steps beyond the scale go on into the next octave."""
        tone = self.root + 12 * (octave + step // 7) + self.scale[step % 7]
        return float(440.0 * 2 ** ((tone - 69) / 12))

    def chord(self, bar: int) -> int:
        """Scale step of the chord of a bar."""
        return self.progression[bar % len(self.progression)]


def sing(score: Score, rng: np.random.Generator) -> np.ndarray:
    """A sung line `[sample]` of syllables in phrases of two bars with a breath between them."""
    frames = score.samples // _HOP + _FRAME // _HOP + 1
    at_s = np.arange(frames) * _HOP / RATE_HZ
    f0_hz = np.full(frames, score.step_hz(0, 1))
    loud, hiss = np.zeros(frames), np.zeros(frames)
    vowel = np.tile(_VOWELS[0], (frames, 1, 1))
    band_hz = np.tile(np.array(_CONSONANTS_HZ[0], float), (frames, 1))
    octave = int(rng.integers(1, 3)) if score.root < 42 else 1
    start_s, step = score.beat_s * rng.integers(0, 3), int(rng.integers(0, 5))
    while start_s < score.samples / RATE_HZ:
        length_s = score.beat_s * rng.choice([0.5, 0.5, 1, 1, 1.5, 2])
        bar = int(start_s / score.bar_s)
        step = int(np.clip(step + rng.integers(-2, 3), -1, 9))
        if rng.random() < 0.4:  # towards a tone of the chord
            step = score.chord(bar) % 7 + int(rng.choice([0, 2, 4])) - (7 if score.chord(bar) > 4 else 0)
        sung = slice(*np.searchsorted(at_s, [start_s, start_s + length_s]))
        here_s = at_s[sung] - start_s
        f0_hz[sung] = score.step_hz(step, octave)
        vowel[sung] = _VOWELS[rng.integers(len(_VOWELS))]
        onset_s = rng.uniform(0.04, 0.1)
        loud[sung] = rng.uniform(0.6, 1) * np.clip((here_s - onset_s * 0.7) / 0.04, 0, 1)
        loud[sung] *= np.clip((length_s - here_s) / 0.06, 0, 1) * np.exp(-0.3 * here_s)
        kind = int(rng.integers(len(_CONSONANTS_HZ)))
        band_hz[sung] = _CONSONANTS_HZ[kind]
        hiss[sung] = rng.uniform(0.15, 0.4) * np.exp(-(((here_s - onset_s / 2) / (onset_s / 2.5)) ** 2))
        start_s += length_s
        if bar % 2 == 1 and start_s % (2 * score.bar_s) > 1.7 * score.bar_s:
            start_s = (bar + 1 + 0.25 * rng.integers(0, 4)) * score.bar_s
    glide = np.hanning(15) / np.hanning(15).sum()  # about 60 ms from note to note
    f0_hz = np.exp(np.convolve(np.pad(np.log(f0_hz), 7, mode="edge"), glide, mode="valid"))
    depth = rng.uniform(0.15, 0.45) * np.convolve(loud, np.ones(40) / 40, mode="same")
    f0_hz *= 2 ** (depth * np.sin(2 * np.pi * rng.uniform(4.8, 6.4) * at_s) / 12)
    smooth = np.stack([np.convolve(v, glide, mode="same") for v in vowel.reshape(frames, -1).T], axis=1)
    shape = _formants(np.where(smooth > 0, smooth, 1e-3).reshape(vowel.shape), rng.uniform(1.0, 1.25))
    noise = rng.standard_normal(frames * _HOP).astype(np.float32)
    hertz = np.fft.rfftfreq(_FRAME, 1 / RATE_HZ)
    consonant = ((hertz >= band_hz[:, :1]) & (hertz < band_hz[:, 1:])) * hiss[:, None]
    source = _saw(np.repeat(f0_hz, _HOP)) + 0.02 * noise
    voiced = _filtered(source, shape * loud[:, None])
    return (voiced + 0.25 * _filtered(noise, consonant))[: score.samples]


def _formants(vowel: np.ndarray, tract: float) -> np.ndarray:
    """Gain `[frame, bin]` of resonances `[frame, formant, (frequency, width, level)]`; `tract` scales frequencies."""
    hertz = np.fft.rfftfreq(_FRAME, 1 / RATE_HZ).astype(np.float32)
    centre, width, level = (vowel[..., k].astype(np.float32)[..., None] for k in range(3))
    gain = np.zeros((len(vowel), len(hertz)), np.float32)
    for k in range(vowel.shape[1]):
        gain += level[:, k] / np.sqrt(1 + ((hertz - tract * centre[:, k]) / (0.8 * width[:, k])) ** 2)
    return gain / (1 + (hertz / 6000) ** 2)


def _filtered(signal: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """`signal` `[sample]` through a filter that changes from frame to frame, `[frame, bin]`, by overlap-add."""
    window = np.sqrt(np.hanning(_FRAME + 1)[:-1]).astype(np.float32)
    padded = np.pad(signal.astype(np.float32), (_FRAME // 2, _FRAME))
    framed = np.lib.stride_tricks.sliding_window_view(padded, _FRAME)[::_HOP][: len(gain)]
    pieces = np.fft.irfft(np.fft.rfft(framed * window) * gain[: len(framed)].astype(np.float32), _FRAME) * (window / 2)
    result = np.zeros((len(framed) + _FRAME // _HOP, _HOP), np.float32)
    for k in range(_FRAME // _HOP):
        result[k : k + len(framed)] += pieces[:, k * _HOP : (k + 1) * _HOP]
    return result.reshape(-1)[_FRAME // 2 :]


def _saw(f0_hz: np.ndarray) -> np.ndarray:
    """Sawtooth `[sample]` of a frequency per sample, its jumps rounded (PolyBLEP, Välimäki and Huovilainen 2007)."""
    step = f0_hz / RATE_HZ
    phase = np.cumsum(step) % 1.0
    after, before = np.minimum(phase / step, 1), np.maximum((phase - 1) / step, -1)
    return np.asarray(2 * phase - 1 - (2 * after - after**2 - 1) - (before**2 + 2 * before + 1), np.float32)
