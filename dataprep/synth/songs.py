"""Invented songs: a sung-like voice over drums, bass and chords, so that everything can be tried without any music.

A song is a function of (seed, number, seconds): a voice (`dataprep/synth/voice.py`), wavetable instruments and one-shot
drums. Chords and arpeggio lie in the voice's range and both sides go through a room, so that neither a frequency band
nor a place in the stereo field tells them apart.

Legend: `[sample]` mono, `[channel, sample]` stereo, float32.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dataprep.audio.writing import write_audio
from dataprep.errors import DataError
from dataprep.synth.voice import RATE_HZ, Score, sing
from vr_core.small_files import read_text

_NOTE_FILE = "synth.json"
_PROGRESSIONS = ((0, 4, 5, 3), (0, 5, 3, 4), (5, 3, 0, 4), (0, 3, 0, 4), (0, 2, 3, 4))
_SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}


def make_song(seed: int, number: int, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """One invented song.

    Args:
        seed: of the whole collection.
        number: of the song in it; each has its own key, tempo and timbres.
        seconds: length.

    Returns:
        Vocals and instrumental, each `[2, sample]` at 44.1 kHz; their sum stays within full scale.
    """
    rng = np.random.default_rng([seed, number])
    score = Score(
        samples=round(seconds * RATE_HZ),
        beat_s=60 / rng.uniform(76, 132),
        root=int(rng.integers(36, 48)),
        scale=_SCALES["major" if rng.random() < 0.6 else "minor"],
        progression=_PROGRESSIONS[rng.integers(len(_PROGRESSIONS))],
    )
    vocals = _room(_pan(sing(score, rng), rng.uniform(-0.15, 0.15)), rng, wet=rng.uniform(0.1, 0.25))
    band = 0.5 * _bass(score, rng)[None] + _chords(score, rng) + 0.6 * _arpeggio(score, rng)
    instrumental = _room(band, rng, wet=rng.uniform(0.1, 0.25)) + _drums(score, rng)
    vocals *= _rms(instrumental) / max(_rms(vocals), 1e-9) * 10 ** (rng.uniform(-3, 1.5) / 20)
    gain = 0.9 / max(np.abs(vocals + instrumental).max(), np.abs(vocals).max(), np.abs(instrumental).max())
    return (vocals * gain).astype(np.float32), (instrumental * gain).astype(np.float32)


def write_songs(folder: Path, songs: int = 8, seconds: float = 20.0, seed: int = 0) -> Iterator[Path]:
    """Write song folders with `vocals.wav` and `instrumental.wav`, 16 bits; the same call gives the same bytes.

    Args:
        folder: new, empty, or made by the same call before.
        songs: how many.
        seconds: length of each.
        seed: another seed, other songs.

    Yields:
        The folder of each song once it is written.

    Raises:
        DataError: the folder holds something else; a number out of range.
    """
    if not (1 <= songs <= 9999 and 1 <= seconds <= 3600 and seed >= 0):
        raise DataError(
            f"{songs} songs of {seconds:g} s, seed {seed}: expected 1 to 9999 songs of 1 to 3600 s, seed ≥ 0"
        )
    note = json.dumps({"songs": songs, "seconds": seconds, "seed": seed, "made_by": "vr data synth"}) + "\n"
    path = folder / _NOTE_FILE
    taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if taken and not (path.is_file() and read_text(path, lenient=True) == note):
        raise DataError(f"{folder}: is not empty, and not from the same command; give a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(note)
    for number in range(1, songs + 1):
        song = folder / f"song{number:03d}"
        vocals, instrumental = make_song(seed, number, seconds)
        write_audio(song / "vocals.wav", [vocals], RATE_HZ)
        write_audio(song / "instrumental.wav", [instrumental], RATE_HZ)
        yield song


def _wavetable(levels: np.ndarray) -> np.ndarray:
    """One period of 4,096 samples with harmonics of these levels."""
    spectrum = np.zeros(2049, np.complex128)
    spectrum[1 : 1 + len(levels)] = -1j * levels
    table = np.fft.irfft(spectrum)
    return np.asarray(table / np.abs(table).max(), np.float32)


def _tone(table: np.ndarray, hertz: float, samples: int, phase: float = 0.0) -> np.ndarray:
    index = np.arange(samples) * (hertz / RATE_HZ * len(table)) + phase * len(table)
    return table[index.astype(np.int64) % len(table)]


def _add(target: np.ndarray, start_s: float, sound: np.ndarray) -> None:
    """Add `[..., sample]` to `target` from a time on; what lies behind the end is dropped."""
    start = round(start_s * RATE_HZ)
    length = max(0, min(sound.shape[-1], target.shape[-1] - start))
    target[..., start : start + length] += sound[..., :length]


def _chords(score: Score, rng: np.random.Generator) -> np.ndarray:
    """Triads `[2, sample]`, held or struck on beats, each note from two slightly detuned tables left and right."""
    harmonics = np.arange(1, 25)
    table = _wavetable(harmonics ** -rng.uniform(0.9, 1.8) * rng.uniform(0.2, 1, len(harmonics)))
    held = rng.random() < 0.5
    length_s = score.bar_s if held else score.beat_s * rng.choice([1, 2])
    at_s = np.arange(round(length_s * RATE_HZ)) / RATE_HZ
    decay = rng.uniform(0.1, 0.5) if held else rng.uniform(2, 5)
    envelope = np.clip(at_s / (0.08 if held else 0.004), 0, 1) * np.clip((length_s - at_s) / 0.03, 0, 1)
    envelope = envelope * np.exp(-decay * at_s)
    struck: dict[int, np.ndarray] = {}
    for chord in set(score.progression):
        notes = [chord, chord + 2, chord + 4] + ([chord + 6] if rng.random() < 0.3 else [])
        sides = [sum(_tone(table, score.step_hz(n, 1 + (n < 3)) * (1 + s * 0.002), len(at_s), 0.1 * n + 0.3 * s)
                     for n in notes) for s in (-1, 1)]  # fmt: skip
        struck[chord] = (np.stack(sides) * envelope * 0.22).astype(np.float32)
    result = np.zeros((2, score.samples), np.float32)
    for k in range(int(score.bars * score.bar_s / length_s)):
        _add(result, k * length_s, struck[score.chord(int(k * length_s / score.bar_s + 1e-6))])
    return result


def _arpeggio(score: Score, rng: np.random.Generator) -> np.ndarray:
    """Plucked broken chords `[2, sample]` in the voice's octave, to one side."""
    bright, dull = (_wavetable(np.arange(1, 17) ** -power) for power in (rng.uniform(0.6, 1.2), 2.5))
    pattern = rng.permutation([0, 2, 4, 7])
    step_s = score.beat_s / 2
    at_s = np.arange(round(1.5 * step_s * RATE_HZ)) / RATE_HZ
    fade = np.clip((1.5 * step_s - at_s) / 0.02, 0, 1) * np.clip(at_s / 0.003, 0, 1)
    plucked: dict[int, np.ndarray] = {}
    result = np.zeros(score.samples, np.float32)
    for k in range(int(score.samples / RATE_HZ / step_s)):
        note = score.chord(int(k * step_s / score.bar_s + 1e-6)) + int(pattern[k % 4])
        if note not in plucked:
            hertz = score.step_hz(note, 2)
            mixed = _tone(bright, hertz, len(at_s)) * np.exp(-12 * at_s) + _tone(dull, hertz, len(at_s)) * np.exp(
                -4 * at_s
            )
            plucked[note] = (0.35 * mixed * fade).astype(np.float32)
        if rng.random() < 0.8:
            _add(result, k * step_s, plucked[note])
    return _pan(result, float(rng.choice([-1, 1]) * rng.uniform(0.3, 0.7)))


def _bass(score: Score, rng: np.random.Generator) -> np.ndarray:
    """Roots and fifths `[sample]` in eighths or quarters."""
    table = _wavetable(np.arange(1, 9) ** -rng.uniform(1.2, 2.0))
    step_s = score.beat_s * rng.choice([0.5, 1])
    at_s = np.arange(round(step_s * RATE_HZ)) / RATE_HZ
    envelope = np.clip(at_s / 0.006, 0, 1) * np.clip((step_s - at_s) / 0.02, 0, 1) * np.exp(-2 * at_s)
    result = np.zeros(score.samples, np.float32)
    for k in range(int(score.samples / RATE_HZ / step_s)):
        chord = score.chord(int(k * step_s / score.bar_s + 1e-6))
        note = chord + (4 if rng.random() < 0.2 else 0)
        _add(result, k * step_s, (_tone(table, score.step_hz(note), len(at_s)) * envelope).astype(np.float32))
    return result


def _drums(score: Score, rng: np.random.Generator) -> np.ndarray:
    """Kick, snare and hats `[2, sample]`."""
    at_s = np.arange(round(0.25 * RATE_HZ)) / RATE_HZ
    noise = rng.standard_normal(len(at_s))
    kick_hz = rng.uniform(42, 55)
    kick = np.sin(2 * np.pi * (kick_hz * at_s + 2.5 * (1 - np.exp(-40 * at_s)))) * np.exp(-14 * at_s)
    snare = 0.5 * noise * np.exp(-22 * at_s) + 0.5 * np.sin(2 * np.pi * rng.uniform(170, 220) * at_s) * np.exp(
        -25 * at_s
    )
    hat = np.diff(np.diff(rng.standard_normal(len(at_s) + 2))) * np.exp(-70 * at_s) * 0.12
    hat_step = int(rng.choice([1, 2]))  # sixteenths or eighths
    kicks = [0, 8] + [int(k) for k in rng.choice([3, 6, 10, 11, 14], 2, replace=False)]
    result = np.zeros((2, score.samples), np.float32)
    hat_pan = float(rng.uniform(-0.5, 0.5))
    sounds = {"kick": _pan(0.8 * kick, 0.0), "snare": _pan(0.6 * snare, 0.05), "hat": _pan(hat, hat_pan)}
    for k in range(score.bars * 16):
        start_s = k * score.beat_s / 4
        if k % 16 in kicks:
            _add(result, start_s, sounds["kick"])
        if k % 8 == 4:
            _add(result, start_s, sounds["snare"])
        if k % hat_step == 0:
            _add(result, start_s, sounds["hat"] * np.float32(rng.uniform(0.6, 1)))
    return result


def _pan(signal: np.ndarray, place: float) -> np.ndarray:
    """`[sample]` to `[2, sample]` at a place from -1 (left) to 1 (right), of equal power."""
    angle = (place + 1) * np.pi / 4
    return np.asarray(np.stack([np.cos(angle) * signal, np.sin(angle) * signal]), np.float32)


def _room(signal: np.ndarray, rng: np.random.Generator, wet: float) -> np.ndarray:
    """`[2, sample]` with the decaying noise of a room added."""
    decay_s = rng.uniform(0.25, 0.8)
    at_s = np.arange(round(1.2 * decay_s * RATE_HZ)) / RATE_HZ
    response = rng.standard_normal((2, len(at_s))) * 10 ** (-3 * at_s / decay_s) * (at_s > 0.012)
    response /= np.sqrt((response**2).sum(axis=1, keepdims=True))
    size = 1 << (signal.shape[1] + len(at_s) - 1).bit_length()
    both = np.fft.rfft(signal, size) * np.fft.rfft(response.astype(np.float32), size)
    return np.asarray(signal + wet * np.fft.irfft(both, size)[:, : signal.shape[1]], np.float32)


def _rms(signal: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(signal, dtype=np.float64))))
