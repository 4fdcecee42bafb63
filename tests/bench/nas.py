"""Training from data on another PC: over 1 Gbit/s and sshfs, in a LAN in a box.

The data set lies on one host, `vr train` runs on the other. Measured in the same run: the link by itself (TCP), our
loader without a training loop (what the link feeds at most), and a training run's own meter of the time it waits. With
`magnitude8` (pretraining reads mixtures), `polar8` (both stems), and `polar8` from copies on the own disk. The page
cache is emptied before each, and each item of an epoch is read once.
"""

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from dataprep.preparing.prepare import PrepareSettings, prepare
from jobs.runs.folder import RunFolder
from jobs.runs.metrics import read_metrics
from tests.bench.codec import songs
from tests.bench.measurement import Benchmark
from tests.lan import SHARED, Host, Lan

MBIT = 1000
PORT = 5001
STEPS, STEPS_QUICK = 120, 30
WARM_STEPS = 5
"""The first steps wait for the first batch."""
CASES = {"magnitude8": "songs-pretrain", "polar8": "songs-finetune", "polar8_cached": "songs-finetune"}
"""Case → recipe."""

_SEND = """
import socket, sys
with socket.create_server(("", int(sys.argv[1]))) as server:
    print("ready", flush=True)
    link, _ = server.accept()
    block = bytes(2**20)
    with link:
        try:
            while True:
                link.sendall(block)
        except OSError:
            pass
"""
_RECEIVE = """
import socket, sys, time
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as link:
    buffer, done = bytearray(2**20), 0
    while done < 2**25:  # the window has opened
        done += link.recv_into(buffer)
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < 3:
        done += link.recv_into(buffer)
    print(done / (time.perf_counter() - start))
"""
_READ = """
import itertools, json, sys, time
from pathlib import Path
from dataprep.batches.loader import AHEAD, Loader
from dataprep.shards.cache import ShardCache
from dataprep.shards.dataset import Dataset
from dataprep.batches.order import Order
from jobs.recipe import Recipe
from vr_core.config import load

folder, recipe, cache = Path(sys.argv[1]), load(Recipe, Path(sys.argv[2])), sys.argv[3:]
data = Dataset.open(folder, ShardCache(Path(cache[0]), 10**11) if cache else None)
order = Order.of(data.manifest, recipe.objective, 0, recipe.batch.crop_frames)
size, crop = recipe.batch.items, recipe.batch.crop_frames
frames = sum(song.frames for song in data.manifest.songs if song.split == "train")
batches = max(1, frames // crop // size)
loader = Loader(data, (order.items(k * size, size) for k in range(batches)))
for _ in range(AHEAD + 2):  # shards are opened, buffers filled
    next(loader)
start_s, done, read_bytes = time.perf_counter(), 0, 0
# What was read ahead before the clock started does not count.
for batch in itertools.islice(loader, AHEAD + 1, None):
    done += len(batch.items)
    read_bytes += sum(column.nbytes for stem in batch.stems.values() for column in stem.columns.values())
seconds = time.perf_counter() - start_s
loader.close()
print(json.dumps({"items_per_s": done / seconds, "bytes_per_s": read_bytes / seconds, "items": done}))
"""
_FORGET = """
import os, sys
from pathlib import Path
for path in Path(sys.argv[1]).glob("*.arrow"):
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
"""


def tcp_bytes_per_s(server: Host, client: Host) -> float:
    """What the link carries."""
    sender = server.popen([sys.executable, "-c", _SEND, str(PORT)], stdout=subprocess.PIPE)
    assert sender.stdout is not None
    with sender:
        assert sender.stdout.readline() == "ready\n"
        return float(client.run([sys.executable, "-c", _RECEIVE, server.address, str(PORT)]).stdout)


def measure(quick: bool) -> dict[str, Any]:
    """All cases, one after the other."""
    found: dict[str, Any] = {}
    with Lan("nas", "study", shared="sshfs") as lan:
        nas, study = lan["nas"], lan["study"]
        tracks, what = songs(lan.shared / "music")
        prepare(tracks, lan.shared / "data", PrepareSettings())
        for host in (nas, study):
            host.rate(MBIT)
        tcp = tcp_bytes_per_s(nas, study)
        found |= {"songs": f"{len(tracks)} {what}", "link_mbit": MBIT, "tcp_mbyte_per_s": tcp / 1e6}
        data, cache = f"{SHARED}/data", "/srv/cache"
        study.vr("data", "stage", data, "--cache", cache, "--quota", "100GB")
        waits = []
        for case, recipe in CASES.items():
            places = (data, cache) if case.endswith("cached") else (data,)
            recipe_file = Path(__file__).parents[2] / "jobs" / "recipes" / f"{recipe}.yaml"

            def forget(places: tuple[str, ...] = places) -> None:
                for place in places:
                    study.run([sys.executable, "-c", _FORGET, place])

            forget()
            read = study.run([sys.executable, "-c", _READ, data, str(recipe_file), *places[1:]]).stdout
            fed = json.loads(read)
            forget()
            wait, trained = _trained(study, recipe, data, case, cache, STEPS_QUICK if quick else STEPS)
            waits.append(wait)
            found |= {
                f"{case}_share_waiting": wait,
                f"{case}_trained_items_per_s": trained,
                f"{case}_limit_items_per_s": fed["items_per_s"],
                f"{case}_loader_mbyte_per_s": fed["bytes_per_s"] / 1e6,
                # Over 1 where crops overlap: what came over the link once is in the page cache.
                f"{case}_of_tcp": fed["bytes_per_s"] / tcp,
            }
    return {"ratio": 1 - max(waits)} | found


def _trained(host: Host, recipe: str, data: str, case: str, cache: str, steps: int) -> tuple[float, float]:
    """Share of time that a run waits for data, and its items a second."""
    out = host.home / "runs" / case
    more = [f"cache.path={cache}", "cache.quota_gb=100"] if case.endswith("cached") else []
    # A start from nothing is as good as any to feed.
    host.vr(
        "train", recipe, f"data={data}", f"out=/srv/runs/{case}", f"steps={steps}", "needs_init=false", "init_reset=[]",
        "validation.items=2", *more, timeout_s=1200,
    )  # fmt: skip
    (run,) = out.iterdir()
    rows = [row for row in read_metrics(RunFolder(run)) if "data_wait" in row and row["step"] > WARM_STEPS]
    return statistics.fmean(row["data_wait"] for row in rows), statistics.median(row["items_per_s"] for row in rows)


BENCHMARK = Benchmark("1 - the largest share of time that training waits for data, over 1 Gbit/s and sshfs", measure)
