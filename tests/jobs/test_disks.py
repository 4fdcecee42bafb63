"""The training loop and its disks: copies, disks of its own on each PC, full ones, data that cannot be reached."""

import contextlib
import io
import json
import shutil
import threading
from functools import partial
from pathlib import Path

import pytest
import torch

from dataprep.audio.tracks import find_tracks
from dataprep.batches.staging import BackgroundStaging
from dataprep.preparing.prepare import PrepareSettings, prepare
from dataprep.shards.manifest import read_manifest
from jobs.checkpoints.format import read_newest, step_folders
from jobs.checkpoints.local_copies import copies_of
from jobs.runs.folder import RunFolder
from jobs.runs.metrics import read_metrics
from jobs.steps.world import World
from jobs.training.resume import newest_of_all
from tests.jobs import ranks
from tests.jobs.checkpoints import write_example
from tests.jobs.training import (
    distance,
    finish,
    here,
    last_weights,
    new_run,
    recipe_of,
    staged,
    start,
)
from tests.jobs.waiting import until
from tests.small_disk import small_disk
from vr_core.errors import StorageError
from vr_core.specs.stft import StftSpec

pytestmark = pytest.mark.xdist_group("ranks")


def test_copies_on_own_disks_are_newer_than_the_share_and_gone_at_the_end(tiny_data: Path, tmp_path: Path) -> None:
    """Killed after step 20 of a run of whose state the share has nothing yet: goes on from there."""
    changes = {
        "steps": 40,
        "workers.shares": "equal",
        "checkpoint.every_steps": None,
        "checkpoint.own_disk_every_s": 1e-6,
    }
    recipe = recipe_of(tiny_data, **{**changes, "steps": 40, "validation.every_steps": 100})
    whole, broken = new_run(tmp_path / "whole", recipe), new_run(tmp_path / "broken", recipe)
    for run in (whole, broken):
        run.origin_file.write_text(json.dumps({"born": run.id}))
    finish(start(whole, 2, tmp_path / "a"))
    copies = copies_of(broken)
    workers = start(broken, 2, tmp_path / "b")
    both = [RunFolder(copies / f"rank-{rank}") for rank in range(2)]
    until(lambda: all(any(int(folder.name[5:]) > 20 for folder in step_folders(one)) for one in both))
    for worker in workers:
        worker.kill()
    assert read_newest(broken)[0] is None, "the share has nothing yet"
    finish(start(broken, 2, tmp_path / "c"))
    assert distance(last_weights(broken), last_weights(whole)) < 1e-5
    steps = [m["step"] for m in read_metrics(broken) if m["kind"] == "step"]
    assert steps == list(range(1, 41)), "none of those before the copy is taken again"
    assert not copies.exists()


CPU = torch.device("cpu")


def newest_on_two_pcs(folder: Path, rank: int, world: int) -> None:
    found = newest_of_all(folder / f"pc{rank}", 8, World(rank, world, CPU))
    (folder / f"found-{rank}").write_text(found.folder.name)


def test_copies_count_only_where_every_worker_has_them(tmp_path: Path) -> None:
    for pc, rank, step in ((0, 0, 7), (0, 0, 9), (0, 3, 11), (1, 0, 7), (1, 0, 9)):
        copies = RunFolder(tmp_path / f"pc{pc}" / f"rank-{rank}")
        copies.path.mkdir(parents=True, exist_ok=True)
        write_example(copies, step, 1.0)
    assert newest_of_all(tmp_path / "pc0", 8, World.alone(CPU)).row.step == 11
    assert newest_of_all(tmp_path / "pc0", 11, World.alone(CPU)) is None, "the share is as new"
    finish(ranks.group(partial(newest_on_two_pcs, tmp_path), 2, tmp_path / "meet"))
    assert [(tmp_path / f"found-{rank}").read_text() for rank in range(2)] == ["step-00000009"] * 2


def test_copies_made_while_training_change_nothing_but_where_it_reads(tiny_data: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    plain_run = new_run(tmp_path / "plain", recipe_of(data, **{"steps": 6}))
    here(plain_run)
    copies = {"cache.path": str(tmp_path / "cache"), "cache.quota_gb": 1, "cache.stage": True}
    run = new_run(tmp_path / "run", recipe_of(data, **{"steps": 6}, **copies))
    assert run.recipe().digest() == plain_run.recipe().digest()
    here(run)
    rows = read_manifest(data).shards.values()
    # A run this short may end before all is copied; what there is, is whole or goes on the next time.
    with contextlib.closing(BackgroundStaging(opened := staged(data, tmp_path / "cache"), pytest.fail)):
        until(lambda: all((tmp_path / "cache" / f"{row.sha256}.arrow").exists() for row in rows))
    for name in opened.manifest.shards:
        (data / name).unlink()  # from here on there are the copies only
    again = new_run(tmp_path / "again", run.recipe())
    here(again)
    wanted = read_newest(plain_run)[0].weights
    for found in (read_newest(run)[0].weights, read_newest(again)[0].weights):
        assert all(torch.equal(found[name], value) for name, value in wanted.items())


def test_ranks_with_other_disks_share_a_step_out_once(tiny_data: Path, tmp_path: Path) -> None:
    """Rank 1 has the songs of the second half on a disk of its own, rank 0 the others: the same run comes of it."""
    data = tmp_path / "data"
    settings = PrepareSettings(stft=StftSpec(n_fft=64, hop=32), workers=1, shard_bytes=1)
    songs = prepare(find_tracks([tiny_data.parent / "songs"]).tracks, data, settings).manifest.songs
    for number, song in enumerate(songs):
        (disk := tmp_path / f"disk{number % 2}").mkdir(exist_ok=True)
        for stem in song.stems.values():
            (data / stem.shard).rename(disk / stem.shard)
    (data / "roots.yaml").write_text(f"everywhere: [{tmp_path / 'disk0'}, {tmp_path / 'disk1'}]\n")
    changes = {"steps": 6, "objective.remix": 0}
    straight, run = (new_run(tmp_path / name, recipe_of(data, **changes)) for name in ("straight", "run"))
    here(straight)
    finish(start(run, 2, tmp_path / "meet", own_disks=True))
    for value in ("loss", "grad_norm"):
        one, two = [[m[value] for m in read_metrics(r) if value in m] for r in (straight, run)]
        assert one == pytest.approx(two, rel=1e-3), value
    reads = [(run.path / f"reads-{rank}").read_text().split() for rank in range(2)]
    own = sum(disks.count(f"disk{rank}") for rank, disks in enumerate(reads))
    assert own > 0.7 * sum(map(len, reads)), "half of them, if nobody looked"


def test_a_disk_that_is_full_for_a_while_costs_nothing(tiny_data: Path, tmp_path: Path) -> None:
    """The run's folder is on a disk that something else fills, and leaves when it is told."""
    said = io.StringIO()
    with small_disk(tmp_path / "disk", kib=16 * 1024) as disk, contextlib.redirect_stderr(said):
        run = new_run(disk.path / "run", recipe_of(tiny_data, **{"steps": 60, "checkpoint.keep": 1}))
        disk.fill()

        def leave() -> None:
            until(lambda: "training goes on" in said.getvalue())
            disk.free()

        leaving = threading.Thread(target=leave)
        leaving.start()
        here(run)
        leaving.join()
        checkpoint, problems = read_newest(run)
        assert (checkpoint.row.step, problems) == (60, [])
        assert [m["step"] for m in read_metrics(run) if m["kind"] == "step"] == list(range(1, 61))
    lines = [line for line in said.getvalue().splitlines() if "not written now" not in line]
    assert len(lines) == 2, lines
    assert "training goes on" in lines[0]
    assert lines[1] == "the storage is back, the checkpoint is written"


def test_a_pc_that_cannot_read_all_of_the_data_says_how_much(tiny_data: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    (tmp_path / "usb").mkdir()
    (data / "roots.yaml").write_text(f"everywhere: [{tmp_path / 'usb'}]\n")
    for shard in data.glob("vocals-*.arrow"):
        shard.rename(tmp_path / "usb" / shard.name)
    here(new_run(tmp_path / "run", recipe_of(data, **{"steps": 1})))
    (tmp_path / "usb").rename(tmp_path / "unplugged")
    with pytest.raises(StorageError, match="of the data .* not there: .*usb"):
        here(new_run(tmp_path / "again", recipe_of(data, **{"steps": 1})))


def test_what_cannot_be_copied_is_said_and_read_where_it_is(tiny_data: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    name = sorted(read_manifest(data).shards)[0]
    harmed = bytearray((data / name).read_bytes())
    harmed[-1] ^= 1
    (data / name).write_bytes(harmed)
    said: list[str] = []
    with contextlib.closing(BackgroundStaging(staged(data, tmp_path / "cache"), said.append)):
        until(lambda: said)
    assert said[0].startswith(f"staging stopped, shards are read from {data}: ")
    assert "not those of its manifest" in said[0]


def test_a_run_that_makes_no_copies_says_so(tiny_data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """No new run begins so; `sync: auto` may come to it."""
    changes = {"steps": 2, "sync": "diloco", "diloco": {"start_step": 0}, "checkpoint.own_disk_every_s": 1}
    here(new_run(tmp_path / "run", recipe_of(tiny_data, **changes)))
    assert "no copies on the PCs' own disks: with sync diloco" in capfd.readouterr().err
