"""Whether a song comes out worse for `polar8`: the compact codec against `complex16`, twice as large.

(a) The same trained weights, given each song's mixture as it is stored in either: SDR of the instrumental against the
original audio, song by song. (b) Weights trained on either, with the same seeds and so the same items in the same
order, from nothing to the end of the schedule; their averages (EMA) separate the test songs' original audio.

The recipe is `songs-finetune` without pretraining. Over the shared songs where they are, else over invented ones.
"""

import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dataprep.audio.tracks import Track
from dataprep.batches.order import Order
from dataprep.preparing.prepare import PrepareSettings, prepare
from dataprep.preparing.song import open_stems
from dataprep.shards.codecs import CODECS
from dataprep.shards.dataset import Dataset
from dataprep.shards.manifest import SongRow
from dataprep.shards.splits import SplitByFraction, parse_split
from jobs.recipe import Recipe
from jobs.runs.lookup import resolve_weights
from jobs.scoring.evaluate import evaluate
from tests.bench.codec import MUSIC, songs
from tests.bench.measurement import ROOT, Benchmark
from tests.dataprep.data import whole_stem
from vr_core.audio.metrics import Score
from vr_core.audio.separate import WindowSpec, mask_spectrum
from vr_core.audio.spectrogram import istft
from vr_core.config import load
from vr_core.loading import load_model
from vr_core.weights import WeightsMeta

CODECS_COMPARED = ("complex16", "polar8")
SEEDS = (0, 1, 2)
STEPS, STEPS_QUICK = 800, 100
ALLOWED_SONG_DB = 0.05
RECIPES = ROOT / "jobs" / "recipes"
SCRATCH = "needs_init=false", "init_reset=[]", "optim.layer_decay=1.0"


def stored_mixture(data: Dataset, song: SongRow) -> torch.Tensor:
    """`[channel, bin, frame]`, complex: the sum of the stored stems."""
    total = torch.zeros(())
    for role in ("vocals", "instrumental"):
        scale = torch.from_numpy(data.peaks(song.id, role, 0, song.frames))[None]
        codec = CODECS[data.manifest.codec_of(role)]
        total = total + codec.widen(whole_stem(data, song.id, role), scale)[0]
    return total


def sdr_db(model: nn.Module, meta: WeightsMeta, mixture: torch.Tensor, track: Track, samples: int) -> float | None:
    """Of the instrumental that the model leaves of a mixture, against the original."""
    windows = WindowSpec(frames=meta.crop_frames, overlap_frames=meta.crop_frames // 2)
    instrumental = istft(mask_spectrum(model, mixture, windows), samples, meta.stft).numpy()
    blocks = [block["instrumental"] for block in open_stems(track, meta.stft.sample_rate_hz)]
    score = Score()
    score.update(np.concatenate(blocks, axis=1), instrumental)
    return score.sdr_db()


def from_either(weights: Path, sets: dict[str, Dataset], tracks: list[Track]) -> Iterator[tuple[str, list[float]]]:
    """(a): each song's SDR from its mixture in each codec."""
    model, meta = load_model(weights, torch.device("cpu"))
    for track in tracks:
        found = []
        for data in sets.values():
            song = data.song(track.id)
            db = sdr_db(model, meta, stored_mixture(data, song), track, song.samples)
            if db is not None:
                found.append(db)
        if found:
            yield track.id, found


def trained(folder: Path, data: Path, seed: int, steps: int) -> Path:
    """A run's folder, by the command that a user types."""
    out = folder / f"{data.name}-{seed}"
    command = (
        str(Path(sys.executable).with_name("vr")), "train", "songs-finetune", f"data={data}", f"out={out}",
        f"seed={seed}", f"steps={steps}", *SCRATCH,
    )  # fmt: skip
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    (weights,) = out.glob("songs-finetune-*")
    return weights


def scores_of_test_songs(run: Path, data: Path) -> list[float]:
    """(b): SDR of each test song, separated from its original audio."""
    result = evaluate(run, data, "test")
    assert not result.problems, result.problems
    return [float(song["sdr_db"]) for song in result.songs]


def measure(quick: bool) -> dict[str, Any]:
    """(a) with weights of the first seed; (b) where there is time."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="vr-bench-", dir="/var/tmp") as scratch:
        folder = Path(scratch)
        tracks, what = songs(folder / "music")
        split = parse_split(str(RECIPES / "songs.split")) if MUSIC.is_dir() else SplitByFraction(valid=0.1, test=0.2)
        sets = {}
        for codec in CODECS_COMPARED:
            prepare(tracks, folder / codec, PrepareSettings(codec=codec, mixture=False), split=split)
            sets[codec] = Dataset.open(folder / codec)
        _check_same_order(sets)
        steps, seeds = (STEPS_QUICK, SEEDS[:1]) if quick else (STEPS, SEEDS)
        runs = {
            (codec, seed): trained(folder / "runs", folder / codec, seed, steps)
            for seed in seeds
            for codec in (CODECS_COMPARED[:1] if quick else CODECS_COMPARED)
        }
        held_out = {song.id for song in sets["polar8"].songs("test")}
        scored = [track for track in tracks if not quick or track.id in held_out]
        songs_db = dict(from_either(resolve_weights(runs["complex16", seeds[0]]), sets, scored))
        differences = {id: polar8 - complex16 for id, (complex16, polar8) in songs_db.items()}
        worst = max(differences, key=lambda id: abs(differences[id]))
        found |= {
            "songs": f"{len(tracks)} {what}", "steps": steps, "songs_compared": len(songs_db),
            "same_weights_worst_db": differences[worst], "same_weights_worst_song": worst,
            "same_weights_mean_db": statistics.fmean(differences.values()),
            "mean_sdr_db": statistics.fmean(complex16 for complex16, _ in songs_db.values()),
        }  # fmt: skip
        if not quick:
            found |= _trained_on_either(runs, folder)
    return {"ratio": ALLOWED_SONG_DB / abs(differences[worst])} | found


def _trained_on_either(runs: dict[tuple[str, int], Path], folder: Path) -> dict[str, Any]:
    means = {key: statistics.fmean(scores_of_test_songs(run, folder / key[0])) for key, run in runs.items()}
    differences = [means["polar8", seed] - means["complex16", seed] for seed in SEEDS]
    return {
        **{f"trained_{codec}_test_sdr_db": [round(means[codec, seed], 3) for seed in SEEDS]
           for codec in CODECS_COMPARED},
        "trained_difference_db": [round(difference, 3) for difference in differences],
        "trained_difference_mean_db": statistics.fmean(differences),
        "trained_difference_standard_error_db": statistics.stdev(differences) / math.sqrt(len(differences)),
    }  # fmt: skip


def _check_same_order(sets: dict[str, Dataset]) -> None:
    """Both runs of a seed must see the same items, or their difference says nothing of the codec."""
    recipe = load(Recipe, RECIPES / "songs-finetune.yaml")
    orders = [
        list(Order.of(data.manifest, recipe.objective, 0, recipe.batch.crop_frames).items(0, 500))
        for data in sets.values()
    ]
    assert orders[0] == orders[1]


BENCHMARK = Benchmark("0.05 dB over the largest difference that polar8 makes to a song's SDR, same weights", measure)
