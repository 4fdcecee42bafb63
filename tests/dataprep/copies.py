"""Copies of a recording, changed in every way that a fingerprint must see through."""

from pathlib import Path

import numpy as np
import soundfile
import soxr

from dataprep.audio.tracks import AudioSource, Track

RATE_HZ = 44_100
WHAT = ["louder", "quieter", "cut", "resampled", ".mp3", ".ogg", "instrumental"]


def planted(folder: Path, track: Track, what: str) -> Track:
    """A copy of a song's mixture (or its instrumental), changed."""
    stems = {role: soundfile.read(sources[0].path, dtype="float32")[0] for role, sources in track.stems.items()}
    signal, rate, suffix = stems["vocals"] + stems["instrumental"], RATE_HZ, ".wav"
    if what == "instrumental":
        signal = stems["instrumental"]
    elif what == "louder":
        signal = np.clip(3 * signal, -0.9, 0.9)
    elif what == "quieter":
        signal = 0.05 * signal
    elif what == "cut":
        signal = signal[3 * RATE_HZ + 517 : -2 * RATE_HZ - 111]
    elif what == "resampled":
        signal, rate = soxr.resample(signal, RATE_HZ, 48_000), 48_000
    else:
        suffix = what
    path = folder / f"copy-{what.strip('.')}{suffix}"
    soundfile.write(path, signal, rate)
    return Track(path.stem, {"mixture": (AudioSource(path),)})
