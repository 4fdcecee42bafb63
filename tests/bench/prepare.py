"""How fast songs become a data set: beside the lineage's way, and beside what each part of ours takes by itself.

The lineage's way, after its sources: librosa loads both stems at 44.1 kHz and
transforms each channel, 2,048 over 1,024, and mixture and instrumental are written as uncompressed npz of 2,048 frames
of complex64. Ours stores vocals, instrumental and the mixture's magnitude. Both on one core, in a process of its own
that has worked once before; then ours on all cores. Over the shared songs where they are, else over invented ones.
"""

import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dataprep.audio.framing import SpectrogramStream
from dataprep.audio.tracks import Track
from dataprep.preparing.prepare import PrepareSettings, prepare
from dataprep.preparing.song import open_stems
from dataprep.roles import Role
from dataprep.shards.codecs import CODECS
from dataprep.shards.writer import BATCH_FRAMES, ShardWriter
from tests.bench.codec import songs
from tests.bench.measurement import Benchmark

PROMISED_OVER_LINEAGE = 3.0
SETTINGS = PrepareSettings(workers=1)
SLICE_FRAMES = 2048
ROLES: tuple[Role, ...] = ("vocals", "instrumental", "mixture")
QUICK_SONGS = 12
ALL_CORES_AUDIO_S = 3600.0


def on_one_core() -> None:
    """What a worker process begins with."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)


def in_process(act: Callable[..., Any], *arguments: Any) -> Any:
    """The act's result, in a process on one core."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=on_one_core) as pool:
        return pool.submit(act, *arguments).result()


def lineage(tracks: list[Track], folder: Path) -> float:
    """Seconds of the lineage's way."""
    import librosa

    def load(track: Track, role: Role) -> np.ndarray:
        (source,) = track.stems[role]
        signal, _ = librosa.load(source.path, sr=44_100, mono=False, dtype=np.float32)
        return signal

    def spectrogram(signal: np.ndarray) -> np.ndarray:
        return np.stack([librosa.stft(np.ascontiguousarray(c), n_fft=2048, hop_length=1024) for c in signal])

    def piece(spectrum: np.ndarray, start: int) -> np.ndarray:
        cut = spectrum[:, :, start : start + SLICE_FRAMES]
        return np.pad(cut, ((0, 0), (0, 0), (0, SLICE_FRAMES - cut.shape[2])))

    def one(track: Track, out: Path) -> None:
        vocals, instrumental = load(track, "vocals"), load(track, "instrumental")
        length = min(vocals.shape[1], instrumental.shape[1])
        mixture = vocals[:, :length] + instrumental[:, :length]
        x, y = spectrogram(mixture), spectrogram(instrumental[:, :length])
        peak = np.abs(x).max()
        for start in range(0, x.shape[2], SLICE_FRAMES):
            name = f"{track.id}_p{start // SLICE_FRAMES}.npz"
            np.savez(out / name, X=piece(x, start), Y=piece(y, start), c=peak)

    return timed(lambda part, out: [one(track, out) for track in part], tracks, folder)


def ours(tracks: list[Track], folder: Path) -> float:
    """Seconds of `prepare` in this process."""
    return timed(lambda part, out: prepare(part, out, SETTINGS), tracks, folder)


def timed(act: Callable[[list[Track], Path], Any], tracks: list[Track], folder: Path) -> float:
    """Seconds of the act over all tracks, after it was done once for the first."""
    for part in (tracks[:1], tracks):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        os.sync()
        start_s = time.perf_counter()
        act(part, folder)
        os.sync()  # until it is on the disk, for both
        seconds = time.perf_counter() - start_s
    shutil.rmtree(folder)
    return seconds


def decoded(track: Track) -> list[dict[Role, np.ndarray]]:
    """Blocks `[channel, sample]` of each role."""
    return list(open_stems(track, SETTINGS.stft.sample_rate_hz))


def transformed(blocks: list[dict[Role, np.ndarray]], role: Role) -> list[np.ndarray]:
    """Spectrograms of record batches."""
    stream = SpectrogramStream(SETTINGS.stft, BATCH_FRAMES)
    return [*(piece for block in blocks for piece in stream.push(block[role])), *stream.finish()]


def parts(tracks: list[Track], folder: Path) -> dict[str, float]:
    """Seconds of decoding, STFT, codec and writing, each by itself over all stems that are stored."""
    seconds = dict.fromkeys(("decode", "stft", "codec", "write"), 0.0)
    folder.mkdir(parents=True)
    writers = {role: ShardWriter(folder / f"{role}.arrow", SETTINGS.codec_of(role), SETTINGS.stft) for role in ROLES}

    def clock(part: str, act: Callable[[], Any]) -> Any:
        start_s = time.perf_counter()
        result = act()
        seconds[part] += time.perf_counter() - start_s
        return result

    for index, track in enumerate([tracks[0], *tracks]):
        if index == 1:  # the first has only warmed up
            seconds |= dict.fromkeys(seconds, 0.0)
        blocks = clock("decode", partial(decoded, track))
        pieces = {role: clock("stft", partial(transformed, blocks, role)) for role in ("vocals", "instrumental")}
        pieces["mixture"] = clock("stft", partial(list, map(np.add, *pieces.values())))
        for role, spectrograms in pieces.items():
            codec = CODECS[SETTINGS.codec_of(role)]
            coded = clock("codec", partial(list, (codec.encode(piece)[0] for piece in spectrograms)))
            clock("write", partial(list, map(writers[role].write, coded)))
    for writer in writers.values():
        clock("write", writer.close)
    shutil.rmtree(folder)
    return seconds


def measure(quick: bool) -> dict[str, Any]:
    """All of it, in turns; medians."""
    rounds = 3 if quick else 5
    with tempfile.TemporaryDirectory(prefix="vr-bench-", dir="/var/tmp") as scratch:
        folder = Path(scratch)
        tracks, what = songs(folder / "music")
        tracks = tracks[:QUICK_SONGS] if quick else tracks
        audio_s = sum(block["vocals"].shape[1] for track in tracks for block in open_stems(track, 44_100)) / 44_100
        taken: dict[str, list[float]] = {"ours": [], "lineage": []}
        alone: list[dict[str, float]] = []
        for _ in range(rounds):
            taken["ours"].append(in_process(ours, tracks, folder / "x"))
            taken["lineage"].append(in_process(lineage, tracks, folder / "x"))
            alone.append(in_process(parts, tracks, folder / "x"))
        cores = len(os.sched_getaffinity(0))
        # An hour: starting the processes takes some seconds.
        times = range(-(-int(ALL_CORES_AUDIO_S) // int(audio_s)))
        many = [Track(f"{track.id}-{i}", track.stems) for i in times for track in tracks]
        start_s = time.perf_counter()
        prepare(many, folder / "all", PrepareSettings(workers=cores))
        all_s = (time.perf_counter() - start_s) / len(times)
    seconds = {name: statistics.median(values) for name, values in taken.items()}
    part_s = {name: statistics.median(one[name] for one in alone) for name in alone[0]}
    over_lineage = seconds["lineage"] / seconds["ours"]
    return {
        "ratio": over_lineage / PROMISED_OVER_LINEAGE,
        "over_lineage": over_lineage,
        "of_what_its_parts_allow": sum(part_s.values()) / seconds["ours"],
        "songs": f"{len(tracks)} {what}",
        "audio_s": audio_s,
        "ours_times_real_time_a_core": audio_s / seconds["ours"],
        "lineage_times_real_time_a_core": audio_s / seconds["lineage"],
        "all_cores_times_real_time": audio_s / all_s,
        "cores": cores,
    } | {f"{name}_times_real_time": audio_s / value for name, value in part_s.items()}


BENCHMARK = Benchmark("songs a second and core over three times the lineage's way", measure)
