"""The commands that write, as `tests/kill_points.py` kills them."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from cluster.node.drain import Drained, change_drained, put
from dataprep.audio.tracks import find_tracks
from dataprep.preparing.change import examine, prune, remove, repair
from dataprep.preparing.folder import writing
from dataprep.preparing.leftovers import remove_leftovers
from dataprep.preparing.prepare import PrepareSettings, prepare
from dataprep.preparing.records import examine_records, mend_records
from dataprep.shards.cache import ShardCache, stage
from dataprep.shards.manifest import read_manifest
from dataprep.shards.splits import SplitByList
from jobs.queue.kept import keep, require_kept
from jobs.runs.folder import RunFolder
from jobs.runs.liveness import DRIVERS_FILES
from jobs.runs.starts import begin_start
from jobs.search.folder import Search
from tests.dataprep.data import SETTINGS, labelled, mixture_only
from tests.jobs.checkpoints import write_example
from tests.kill_points import Scenario
from tests.recorded.folders import lay_out, run_called
from vr_core.files import clear_drafts
from vr_core.small_files import is_sealed

A_GROUP_A_SONG = PrepareSettings(**{**SETTINGS.model_dump(), "shard_bytes": 1, "workers": 1})
RULE = SplitByList((("valid", "b"), ("train", "*")), "list")


def songs(folder: Path, names: str) -> list[Any]:
    torch.set_num_threads(1)
    return [labelled(folder / "music", name, 3_000, ord(name)) for name in names]


def known(folder: Path, names: str) -> list[Any]:
    """As `songs`, whose files are there."""
    torch.set_num_threads(1)
    return [track for track in find_tracks([folder / "music"]).tracks if track.id in names]


def prepared(folder: Path) -> None:
    prepare(songs(folder, "ab"), folder / "data", A_GROUP_A_SONG, split=RULE)


def more_music(folder: Path) -> None:
    prepared(folder)
    songs(folder, "c")
    mixture_only(folder / "music", "m", 3_000, 9)


def removed(folder: Path) -> None:
    prepared(folder)
    remove(folder / "data", ["a"])


def damaged(folder: Path) -> None:
    prepared(folder)
    shard = next(name for name in read_manifest(folder / "data").shards if name.startswith("vocals"))
    content = bytearray((folder / "data" / shard).read_bytes())
    content[len(content) // 2] ^= 0xFF
    (folder / "data" / shard).write_bytes(content)


def remove_a(folder: Path) -> None:
    if any(song.id == "a" for song in read_manifest(folder / "data").songs):
        remove(folder / "data", ["a"])
    else:  # killed after the manifest was replaced: `vr data verify --repair` and the next change do the rest
        data = folder / "data"
        mend_records(data, examine_records(data)[0])
        with writing(data):
            remove_leftovers(data, set(read_manifest(data).shards))


def mend(folder: Path) -> None:
    torch.set_num_threads(1)
    repair(folder / "data", examine(folder / "data", read_manifest(folder / "data")))


def a_run(folder: Path) -> None:
    lay_out(folder)
    for step in (100, 101, 102):
        write_example(the_run(folder), step, float(step), loss=float(step))


def the_run(folder: Path) -> RunFolder:
    return RunFolder(run_called("finished", folder / "runs").path)


def checkpoint(folder: Path) -> None:
    run = the_run(folder)
    write_example(run, 103, 103.0, loss=1.0, best=True, start=begin_start(run))


def without_starts(name: str, content: bytes) -> Any:
    """Every start has a file and a number of its own, also one that was killed."""
    return None if "/metrics/" in name else content


def table(folder: Path) -> None:
    search = Search(run_called("searched", folder / "runs").path)
    clear_drafts(search.path, DRIVERS_FILES)  # as when it begins
    search.write_rows()


def drained(folder: Path) -> None:
    os.environ["XDG_STATE_HOME"] = str(folder)
    change_drained(lambda record: put(record, Drained(name="study", by="user", since_s=1.0, leaves_s=2.0)))


def staged(folder: Path) -> None:
    manifest = read_manifest(folder / "data")
    rows = {folder / "data" / name: row for name, row in manifest.shards.items()}
    done = stage(rows, ShardCache(folder / "cache", 2**30), lambda n: None, lambda name: None)
    assert not done.no_room


def kept(folder: Path) -> None:
    """What the head keeps of a run that is submitted again: one copy of the code, by a name of its own each time."""
    os.environ["XDG_STATE_HOME"] = str(folder)
    run = the_run(folder)
    keep(run, run.recipe())
    assert [require_kept(run).source] == [*(folder / "vr").glob("runs/*/source-*")]


def without_code(name: str, content: bytes) -> Any:
    return None if "/source-" in name or name.endswith("/code") else content


def submitted(folder: Path) -> None:
    a_run(folder)
    state(folder)
    kept(folder)


def as_value(name: str, content: bytes) -> Any:
    """Of JSON what it says, and whether it says so of itself."""
    return (json.loads(content), is_sealed(content)) if name.endswith(".json") else content


def fresh(folder: Path) -> None:
    """Music, and no data set."""
    songs(folder, "ab")


def state(folder: Path) -> None:
    (folder / "vr").mkdir(mode=0o700)


def prepare_these(names: str) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        prepare(known(folder, names), folder / "data", A_GROUP_A_SONG, split=RULE)

    return act


SCENARIOS = {
    "prepare": Scenario(fresh, prepare_these("ab"), as_value),
    "add": Scenario(more_music, prepare_these("cm"), as_value),
    "remove": Scenario(prepared, remove_a, as_value),
    "prune": Scenario(removed, lambda folder: prune(folder / "data") and None, as_value),
    "repair": Scenario(damaged, mend, as_value),
    "checkpoint": Scenario(a_run, checkpoint, without_starts),
    "search table": Scenario(lambda folder: lay_out(folder) and None, table),
    "drain": Scenario(state, drained),
    "stage": Scenario(prepared, staged),
    "submit": Scenario(submitted, kept, without_code),
}
