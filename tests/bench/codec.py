"""What storage costs in sound: every stem through preparation, shard, widening and synthesis, against its own audio.

Over the shared songs where they are (`../shared/music` beside the checkout), else over invented ones, which is said.
Decibels are signal over error of both channels and the whole stem, last samples included. By loudness: blocks of 1,024
samples of a stem are sorted by their power, and each tenth of them is compared by itself. Left out there are silent
blocks, and blocks within two of one that is 20 dB louder: they share a frame with it, so that its error, which it
masks, would be called a floor.
"""

import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from dataprep.audio.tracks import Track, find_tracks
from dataprep.preparing.prepare import PrepareSettings, prepare
from dataprep.preparing.song import open_stems
from dataprep.roles import Role
from dataprep.shards.codecs import CODECS
from dataprep.shards.columns import CHANNELS
from dataprep.shards.dataset import Dataset
from dataprep.shards.manifest import SongRow
from dataprep.synth.songs import write_songs
from tests.bench.measurement import ROOT, Benchmark
from tests.dataprep.data import whole_stem
from vr_core.audio.spectrogram import istft

PROMISED_DB = {"polar8": 38.0, "complex16": 60.0}
MUSIC = ROOT.parent / "shared" / "music"
QUICK_SONGS = 6
_BLOCK_SAMPLES = 1024
_TENTHS = 10
_END_SAMPLES = 2048
_QUIET_DB = -80.0


def songs(folder: Path) -> tuple[list[Track], str]:
    """Labelled songs and where they are from."""
    if MUSIC.is_dir():
        return [t for t in find_tracks([MUSIC]).tracks if "vocals" in t.stems], "shared songs"
    for _ in write_songs(folder, songs=8, seconds=20.0):
        pass
    return [t for t in find_tracks([folder]).tracks if "vocals" in t.stems], "invented songs"


def synthesised(data: Dataset, song: SongRow, role: Role) -> np.ndarray:
    """`[channel, sample]` of a stored stem."""
    codec = CODECS[data.manifest.codec_of(role)]
    scale = torch.from_numpy(data.peaks(song.id, role, 0, song.stems[role].frames))[None]
    signal: np.ndarray = istft(codec.widen(whole_stem(data, song.id, role), scale)[0], song.samples, data.stft).numpy()
    return signal


def decibels(signal: np.ndarray, error: np.ndarray) -> float:
    """Ratio of powers; infinite where there is no error."""
    power, wrong = float(np.square(signal, dtype=np.float64).sum()), float(np.square(error, dtype=np.float64).sum())
    return 10 * np.log10(power / wrong) if wrong else float("inf")


class Stem(NamedTuple):
    """How one stem came through."""

    name: str
    db: float
    end_db: float | None
    """Of its last 2,048 samples; None where these are below -60 dB of full scale."""
    levels_db: list[float]
    """Of each tenth of its blocks, the quietest first: relative to full scale."""
    tenths_db: list[float]
    """Signal over error of each tenth."""
    floor_db: float | None
    """Error where the stem is below -80 dB, relative to full scale; 16-bit dither is about -94 dB."""


def compare(name: str, source: np.ndarray, stored: np.ndarray) -> Stem:
    """`[channel, sample]` of a stem and of what came back."""
    error = stored - source
    end = source[:, -_END_SAMPLES:]
    end_db = decibels(end, error[:, -_END_SAMPLES:]) if np.square(end).mean() > 1e-6 else None
    whole = source.shape[1] // _BLOCK_SAMPLES * _BLOCK_SAMPLES
    power, wrong = (
        np.square(x[:, :whole].reshape(CHANNELS, -1, _BLOCK_SAMPLES), dtype=np.float64).mean((0, 2))
        for x in (source, error)
    )
    around = np.lib.stride_tricks.sliding_window_view(np.pad(power, 2), 5).max(axis=1)
    order = np.argsort(power, kind="stable")
    order = order[(power[order] > 0) & (power[order] > around[order] / 100)]
    tenths = np.array_split(order, _TENTHS)
    quiet = order[power[order] < 10 ** (_QUIET_DB / 10)]
    levels = [float(10 * np.log10(power[tenth].mean())) for tenth in tenths]
    return Stem(
        name,
        decibels(source, error),
        end_db,
        levels,
        [level - float(10 * np.log10(wrong[tenth].mean())) for level, tenth in zip(levels, tenths, strict=True)],
        float(10 * np.log10(wrong[quiet].mean())) if len(quiet) else None,
    )


def compared(tracks: list[Track], codec: str, folder: Path) -> Iterator[Stem]:
    """Every stem of the tracks, prepared in that codec."""
    prepare(tracks, folder, PrepareSettings(codec=codec, mixture=False))
    data = Dataset.open(folder)
    for track in tracks:
        song = data.song(track.id)
        blocks = list(open_stems(track, data.stft.sample_rate_hz))
        for role in sorted(song.stems):
            source = np.concatenate([block[role] for block in blocks], axis=1)
            assert source.shape == (CHANNELS, song.samples)
            yield compare(f"{track.id} {role}", source, synthesised(data, song, role))


def summary(stems: list[Stem]) -> dict[str, Any]:
    """Of one codec."""
    worst = min(stems, key=lambda stem: stem.db)
    ends = [stem.end_db for stem in stems if stem.end_db is not None]
    tenths = range(_TENTHS)
    return {
        "worst_db": worst.db,
        "worst_stem": worst.name,
        "median_db": statistics.median(stem.db for stem in stems),
        "worst_end_db": min(ends, default=None),
        "median_end_db": statistics.median(ends) if ends else None,
        "median_level_db_of_tenths": [round(statistics.median(stem.levels_db[i] for stem in stems), 1) for i in tenths],
        "median_db_of_tenths": [round(statistics.median(stem.tenths_db[i] for stem in stems), 1) for i in tenths],
        "loudest_floor_db": max((stem.floor_db for stem in stems if stem.floor_db is not None), default=None),
        "worst_db_of_tenths": [round(min(stem.tenths_db[i] for stem in stems), 1) for i in tenths],
    }


def measure(quick: bool) -> dict[str, Any]:
    """The worst stem over what is promised."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="vr-bench-", dir="/var/tmp") as scratch:
        folder = Path(scratch)
        tracks, what = songs(folder / "music")
        tracks = tracks[:QUICK_SONGS] if quick else tracks
        for codec in PROMISED_DB:
            stems = list(compared(tracks, codec, folder / codec))
            found |= {f"{codec}_{key}": value for key, value in summary(stems).items()}
            data = Dataset.open(folder / codec)
            width = CHANNELS * data.stft.bins
            row_bytes = sum(width * np.dtype(kind).itemsize for kind in CODECS[codec].columns.values())
            shards = data.manifest.shards.values()
            found[f"{codec}_bytes_a_frame"] = row_bytes
            found[f"{codec}_headers_share"] = (
                sum(row.bytes for row in shards) / row_bytes / sum(row.rows for row in shards) - 1
            )
    ratio = found["polar8_worst_db"] / PROMISED_DB["polar8"]
    return {"ratio": ratio, "songs": f"{len(tracks)} {what}", "stems": len(stems)} | found


BENCHMARK = Benchmark("signal over error in dB of the worst stem in polar8, over 38 dB", measure)
