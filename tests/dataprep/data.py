"""Small data sets for the tests of this package: invented sounds, spectrograms of 256 samples."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch

from dataprep.audio.decoders import AudioSource
from dataprep.audio.tracks import Track
from dataprep.preparing.prepare import PrepareProgress, PrepareReport, PrepareSettings, prepare
from dataprep.roles import Role
from dataprep.shards.codecs import CODECS
from dataprep.shards.dataset import Dataset
from dataprep.shards.splits import SplitByFraction, SplitRule
from vr_core.specs.stft import StftSpec

STFT = StftSpec(sample_rate_hz=8000, n_fft=256, hop=128)
SETTINGS = PrepareSettings(stft=STFT, workers=1)


def sound(samples: int, seed: int, level: float = 0.2) -> np.ndarray:
    """`[2, sample]` float32: decaying partials and a little noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(samples) / STFT.sample_rate_hz
    f0 = rng.uniform(90, 200)
    tone = sum(np.sin(2 * np.pi * f0 * k * t + k * seed) / k for k in range(1, 12)) * np.exp(-((3 * t) % 1) * 3)
    both = np.stack([tone, 0.6 * np.roll(tone, 40)]) + 0.02 * rng.standard_normal((2, samples))
    return (level * both / np.abs(both).max()).astype(np.float32) if samples else np.zeros((2, 0), np.float32)


def write(path: Path, signal: np.ndarray, rate: int = STFT.sample_rate_hz) -> AudioSource:
    """A float wav file, so that what is read is what was written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, signal.T, rate, subtype="FLOAT")
    return AudioSource(path)


def labelled(folder: Path, name: str, samples: int, seed: int) -> Track:
    """A song with vocals and instrumental."""
    return Track(
        name,
        {
            "vocals": (write(folder / name / "vocals.wav", sound(samples, seed)),),
            "instrumental": (write(folder / name / "instrumental.wav", sound(samples, seed + 1000)),),
        },
    )


def mixture_only(folder: Path, name: str, samples: int, seed: int) -> Track:
    """Unlabelled music."""
    return Track(name, {"mixture": (write(folder / f"{name}.wav", sound(samples, seed)),)})


def small_data_set(
    root: Path,
    split: SplitRule | None = None,
    settings: PrepareSettings = SETTINGS,
    on_progress: Callable[[PrepareProgress], None] | None = None,
) -> tuple[list[Track], PrepareReport]:
    """Four labelled songs of different lengths and two unlabelled ones in `root/data`."""
    lengths = {"a": 40_000, "b": 9_000, "c": 70_001, "d": 25_016}
    tracks = [labelled(root / "music", name, n, i) for i, (name, n) in enumerate(lengths.items())]
    tracks += [mixture_only(root / "music", "m1", 30_000, 50), mixture_only(root / "music", "m2", 3_000, 51)]
    return tracks, prepare(tracks, root / "data", settings, on_progress, split=split or SplitByFraction())


def whole_stem(data: Dataset, song: str, role: Role) -> dict[str, torch.Tensor]:
    """Columns of a stem, `[1, frame, channel*bin]` each."""
    frames = data.song(song).stems[role].frames
    codec = CODECS[data.manifest.codec_of(role)]
    out = np.empty((len(codec.columns), frames, 2 * data.stft.bins), next(iter(codec.columns.values())))
    data.read(song, role, 0, frames, out)
    return {name: torch.from_numpy(column)[None] for name, column in zip(codec.columns, out, strict=True)}


def files(folder: Path) -> dict[str, bytes]:
    """Contents of the files of a data set's folder, without its lock."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file() and p.name != ".lock"}
