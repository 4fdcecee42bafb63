"""Random crops into batch buffers that are used again: our loader, a memory copy, the disk, and four libraries.

Everything is `polar8` of one stem, 4,096 bytes a frame: crops of 256 frames (1 MiB) and of 2,048 (8 MiB). The
libraries hold crops as items of the same bytes, since none of them cuts crops, and deliver whole items in random order,
into as many batch buffers as our loader has. Each is measured once with every setting it has here (in line, threads,
DataLoader workers; with --quick only the first two, which are several times faster); then the fastest few take turns
with ours and the copy, and the medians of the rounds count. Warm is from the page cache, cold after `posix_fadvise` has
put the files out of it.
"""

import gc
import itertools
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from dataprep.batches.loader import AHEAD, READERS, Loader
from dataprep.batches.order import Item, Read
from dataprep.shards.dataset import Dataset
from dataprep.shards.manifest import Manifest, SongRow, StemRow, write_manifest
from dataprep.shards.writer import BATCH_FRAMES, ShardWriter
from tests.bench.measurement import Benchmark
from tests.bench.peers import LOADERS
from vr_core.specs.stft import StftSpec

FRAME_BYTES = 4096
SONG_FRAMES, SONGS_A_SHARD = 8192, 8
"""32 MiB a song."""
BATCH = 8
BUFFERS = AHEAD + 2
"""That the loader has."""
CROPS = (256, 2048)
MODES = {
    "litdata": ("inline", "1", "2"),
    "mosaicml-streaming": ("inline", "threads", "1", "2"),
    "datasets": ("inline", "threads", "1", "2"),
    "webdataset": ("inline", "1", "2"),
}
OWN = ("ours", "memory copy")
FINALISTS = 2
_BLOCK_BYTES = 8 * 2**20


def write_dataset(folder: Path, count: int) -> np.ndarray:
    """A data set of noise, which is as good as music to what copies bytes; returns all of it, `[frame, byte]`."""
    stft = StftSpec()
    generator = np.random.default_rng(0)
    everything = generator.integers(0, 256, (count * SONG_FRAMES, FRAME_BYTES), np.uint8)
    half = FRAME_BYTES // 2
    shards, songs = {}, []
    for first in range(0, count, SONGS_A_SHARD):
        name = f"instrumental-{first:04d}.arrow"
        with ShardWriter(folder / name, "polar8", stft) as writer:
            for song in range(first, first + SONGS_A_SHARD):
                at = writer.batches, writer.rows
                for start in range(song * SONG_FRAMES, (song + 1) * SONG_FRAMES, BATCH_FRAMES):
                    rows = everything[start : start + BATCH_FRAMES]
                    columns = {"magnitude": rows[:, :half], "phase": rows[:, half:]}
                    writer.write({column: np.ascontiguousarray(values) for column, values in columns.items()})
                peaks = (1.0,) * (SONG_FRAMES // BATCH_FRAMES)
                stem = StemRow(
                    shard=name, first_batch=at[0], first_row=at[1], frames=SONG_FRAMES, peaks=peaks,
                    loudness_db=-20.0, content_sha256=f"{song:064x}",
                )  # fmt: skip
                samples = SONG_FRAMES * stft.hop
                songs.append(
                    SongRow(
                        id=f"{song:04d}", split="train", samples=samples, frames=SONG_FRAMES,
                        stems={"instrumental": stem}, sources={"instrumental": ()},
                    )
                )  # fmt: skip
            shards[name] = writer.close()
    write_manifest(folder, Manifest(stft=stft, codec="polar8", shards=shards, songs=tuple(songs)))
    return everything


def item(index: int, frame: int, crop: int) -> Item:
    """The crop that starts at `frame` of all."""
    song, start = divmod(frame, SONG_FRAMES)
    return Item(index, 0, crop, (Read(f"{song:04d}", "instrumental", start, crop),))


def aligned(crop: int, songs: int, seed: int) -> list[Item]:
    """Every frame once, in crops in random order."""
    starts = np.random.default_rng(seed).permutation(songs * SONG_FRAMES // crop) * crop
    return [item(i, int(start), crop) for i, start in enumerate(starts)]


def anywhere(crop: int, songs: int, seed: int) -> list[Item]:
    """As many crops that start at any frame of any song."""
    generator = np.random.default_rng(seed)
    count = songs * SONG_FRAMES // crop
    chosen, starts = generator.integers(0, songs, count), generator.integers(0, SONG_FRAMES - crop + 1, count)
    frames = chosen * SONG_FRAMES + starts
    return [item(i, int(frame), crop) for i, frame in enumerate(frames)]


def in_batches(items: list[Item]) -> Iterator[list[Item]]:
    """The items in batches."""
    return (items[i : i + BATCH] for i in range(0, len(items), BATCH))


def ours(data: Dataset, items: list[Item], seconds: float, before: Callable[[], None] = lambda: None) -> float:
    """Bytes a second of our loader over `items`, again and again for so long, and once at least.

    It has filled each of its buffers once, when `before` is called and the clock starts.
    """
    start_s = end_s = 0.0
    batches = 0

    def feed() -> Iterator[list[Item]]:
        nonlocal start_s, end_s, batches
        yield from itertools.islice(in_batches(items), BUFFERS)
        before()
        start_s = time.perf_counter()
        while not batches or time.perf_counter() - start_s < seconds:
            for one in in_batches(items):
                batches += 1
                yield one

    loader = Loader(data, feed())
    for _ in loader:
        pass
    end_s = time.perf_counter()
    loader.close()
    return batches * BATCH * items[0].crop_frames * FRAME_BYTES / (end_s - start_s)


def check_sum(data: Dataset, crop: int, songs: int) -> int:
    """Of all bytes that our loader delivers in an epoch, as 64-bit words, modulo 2^64."""
    total = 0
    loader = Loader(data, in_batches(aligned(crop, songs, 1)))
    for batch in loader:
        for column in batch.stems["instrumental"].columns.values():
            total += int(column.numpy().view(np.uint64).sum(dtype=np.uint64))
    loader.close()
    return total % 2**64


def memory_copy(everything: np.ndarray, items: list[Item], seconds: float) -> float:
    """Bytes a second of copying the same crops from memory into buffers like the loader's, by as many threads."""
    crop, half = items[0].crop_frames, FRAME_BYTES // 2
    sources = [np.ascontiguousarray(everything[:, :half]), np.ascontiguousarray(everything[:, half:])]
    targets = [np.ones((BUFFERS * BATCH, crop, half), np.uint8) for _ in sources]
    starts = [int(one.reads[0].song) * SONG_FRAMES + one.reads[0].start_frame for one in items]
    parts = [range(first, min(first + 4, len(items))) for first in range(0, len(items), 4)]

    def copy(part: range) -> None:
        for i in part:
            for source, target in zip(sources, targets, strict=True):
                np.copyto(target[i % len(target)], source[starts[i] : starts[i] + crop])

    done = 0
    with ThreadPoolExecutor(READERS) as pool:
        start_s = time.perf_counter()
        while not done or time.perf_counter() - start_s < seconds:
            list(pool.map(copy, parts))
            done += len(items)
        return done * crop * FRAME_BYTES / (time.perf_counter() - start_s)


def put_out(paths: list[Path]) -> None:
    """Out of the page cache."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def sequential(paths: list[Path]) -> float:
    """Bytes a second of reading the files from start to end into one buffer."""
    buffer, done = bytearray(_BLOCK_BYTES), 0
    start_s = time.perf_counter()
    for path in paths:
        with path.open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
            while count := file.readinto(buffer):
                done += count
    return done / (time.perf_counter() - start_s)


def peer(*arguments: str) -> dict[str, float]:
    """What `peer_loaders.py` prints."""
    script = Path(__file__).with_name("peer_loaders.py")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run([LOADERS.python(), script, *arguments], capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(arguments[:2])}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1]) if arguments[0] == "measure" else {}


def measure(quick: bool) -> dict[str, Any]:
    """Warm for both crops beside copy and libraries, cold for the long one beside the disk."""
    LOADERS.install()
    songs, rounds, seconds = (16, 3, 0.5) if quick else (32, 5, 3.0)
    folder = Path(tempfile.mkdtemp(prefix="vr-bench-", dir="/var/tmp"))
    try:
        (folder / "data").mkdir()
        everything = write_dataset(folder / "data", songs)
        everything.tofile(folder / "items")
        found: dict[str, Any] = {}
        for crop in CROPS:
            found |= _warm(folder, everything, crop, songs, rounds, seconds, quick)
        del everything
        gc.collect()  # a page that is mapped anywhere does not leave the page cache
        (folder / "items").unlink()
        found |= _cold(folder / "data", songs, rounds)
    finally:
        shutil.rmtree(folder)
    ratios = {f"of_best_library_{crop}": found[f"ours_{crop}"] / found[f"best_library_{crop}"] for crop in CROPS}
    ratios |= {f"of_memory_copy_{crop}": found[f"ours_{crop}"] / found[f"memory_copy_{crop}"] for crop in CROPS}
    ratios["of_sequential_disk_cold_2048"] = found["cold_ours_2048"] / found["cold_sequential"]
    ratio = min(ratios[f"of_best_library_{crop}"] for crop in CROPS)
    return {"ratio": ratio} | ratios | found | {"versions": LOADERS.versions()}


def _warm(
    folder: Path, everything: np.ndarray, crop: int, songs: int, rounds: int, seconds: float, quick: bool
) -> dict[str, Any]:
    data = Dataset.open(folder / "data")
    wanted = int(everything.view(np.uint64).sum(dtype=np.uint64))
    assert check_sum(data, crop, songs) == wanted
    item_bytes = str(crop * FRAME_BYTES)
    acts: dict[str, Callable[[int], float]] = {
        "ours": lambda seed: ours(data, anywhere(crop, songs, seed), seconds),
        "memory copy": lambda seed: memory_copy(everything, anywhere(crop, songs, seed), seconds),
    }
    for name, modes in MODES.items():
        peer("write", name, str(folder / name), str(folder / "items"), item_bytes)
        for mode in modes:
            if quick and mode.isdigit():
                continue

            def act(seed: int, name: str = name, mode: str = mode) -> float:
                shape = (item_bytes, str(BATCH), str(BUFFERS), mode, str(seconds))
                said = peer("measure", name, str(folder / name), *shape)
                assert said["sum"] == wanted, f"{name} {mode}: other bytes than were written"
                return said["bytes_per_s"]

            acts[f"{name} {mode}"] = act
    heats = {what: act_(0) / 1e6 for what, act_ in acts.items()}
    finals = [*OWN, *sorted((what for what in heats if what not in OWN), key=lambda what: -heats[what])[:FINALISTS]]
    rates: dict[str, list[float]] = {what: [] for what in finals}
    for turn in range(rounds):
        for what in finals:
            rates[what].append(acts[what](turn) / 1e6)
    for name in MODES:
        shutil.rmtree(folder / name, ignore_errors=True)
        shutil.rmtree(folder / f"{name}-cache", ignore_errors=True)
    medians = {what: statistics.median(values) for what, values in rates.items()}
    best = max(finals[len(OWN) :], key=lambda what: medians[what])
    return {
        f"ours_{crop}": medians["ours"],
        f"memory_copy_{crop}": medians["memory copy"],
        f"best_library_{crop}": medians[best],
        f"best_library_name_{crop}": best,
        f"libraries_{crop}": {what: round(rate) for what, rate in (heats | medians).items() if what not in OWN},
    }


def _cold(folder: Path, songs: int, rounds: int) -> dict[str, Any]:
    paths = sorted(folder.glob("*.arrow"))
    disk, own = [], []
    for turn in range(rounds):
        gc.collect()
        put_out(paths)
        disk.append(sequential(paths) / 1e6)
        items = aligned(CROPS[-1], songs, turn)
        own.append(ours(Dataset.open(folder), items, 0, before=lambda: put_out(paths)) / 1e6)
    return {"cold_sequential": statistics.median(disk), "cold_ours_2048": statistics.median(own)}


BENCHMARK = Benchmark(
    "random crops from the page cache over the best of four libraries, the lesser of 256 and 2,048 frames; MB/s",
    measure,
    LOADERS.install,
)
