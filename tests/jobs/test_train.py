"""The training loop on real shards: exact resume after SIGKILL, any number of workers, starts and stops."""

import contextlib
import json
import math
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import jobs.gradient
from dataprep.cache import ShardCache
from dataprep.change import prune, remove
from dataprep.dataset import Dataset
from dataprep.errors import ManifestError
from dataprep.manifest import read_manifest
from dataprep.prepare import PrepareSettings, prepare
from dataprep.staging import BackgroundStaging
from dataprep.tracks import find_tracks
from jobs.checkpoint import read_checkpoint, read_newest, step_folders
from jobs.errors import RunFailed, RunLeft, RunStopped
from jobs.gradient import has_bf16
from jobs.metrics_log import read_metrics
from jobs.own_disk import copies_of, newest_of_all
from jobs.recipe import Recipe
from jobs.runs import RunFolder
from jobs.shares import Speed
from jobs.speed import keep_speed, key_of
from jobs.train import train
from tests.jobs import ranks
from tests.lan import require
from vr_core.config import override, plain, validate
from vr_core.draws import Draws
from vr_core.errors import ConfigError, StorageError, WeightsError
from vr_core.specs import StftSpec

TINY: dict[str, Any] = {
    "name": "tiny",
    "steps": 12,
    "model": {
        "name": "dense_frame_transformer", "width": 16, "blocks": 2, "heads": 2, "feedforward": 16, "dropout": 0.1,
    },
    "objective": {"name": "separate"},
    "batch": {"items": 5, "micro_batch": 2, "crop_frames": 16},
    "optim": {"lr": 3e-3, "warmup_steps": 2},
    "validation": {"every_steps": 6, "items": 4},
    "checkpoint": {"every_steps": 3, "every_s": 1e6, "keep": 9},
    "log": {"tensorboard": False},
}  # fmt: skip


def recipe_of(data: Path, **changes: Any) -> Recipe:
    return validate(Recipe, override({**TINY, "data": str(data)}, changes), "test")


def new_run(path: Path, recipe: Recipe) -> RunFolder:
    path.mkdir()
    (path / "recipe.yaml").write_text(json.dumps(plain(recipe)))
    return RunFolder(path)


def staged(data: Path, cache: Path) -> Dataset:
    return Dataset.open(data, ShardCache(cache, 10**9))


def until(holds: Callable[[], object]) -> None:
    """Wait for what another thread brings about."""
    deadline_s = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline_s, "nothing came of it in a minute"
        time.sleep(0.02)


def here(run: RunFolder, **options: Any) -> dict[str, float]:
    return train(run.recipe(), run.path, rank=0, world=1, device=torch.device("cpu"), report=options.get("report"))


def start(run: RunFolder, world: int, meeting: Path, *, own_disks: bool = False) -> list[ranks.Rank]:
    return ranks.start(run.path, world, meeting, own_disks)


def finish(workers: list[ranks.Rank]) -> None:
    assert [worker.wait() for worker in workers] == [0] * len(workers)


def kill_after_checkpoint(run: RunFolder, workers: list[ranks.Rank], step: int) -> None:
    """SIGKILL once a checkpoint of `step` is there: somewhere within the steps after it."""
    deadline = time.monotonic() + 120
    while not (run.checkpoints / f"step-{step:08d}").exists():
        assert time.monotonic() < deadline
        assert all(worker.poll() is None for worker in workers), "ended before it could be killed"
        os.sched_yield()
    for worker in workers:
        worker.kill()


def last_weights(run: RunFolder) -> dict[str, torch.Tensor]:
    checkpoint, problems = read_newest(run)
    assert problems == []
    assert checkpoint.row.step == run.recipe().steps
    return {**checkpoint.weights, **{f"raw.{k}": v for k, v in checkpoint.training["model"].items()}}


def curve(run: RunFolder) -> list[tuple[str, int, float]]:
    """Every loss that was told, in order."""
    return [(m["kind"], m["step"], m["loss"]) for m in read_metrics(run.metrics_file) if "loss" in m]


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Relative distance of all weights as one vector."""
    difference = math.sqrt(sum(((a[k] - b[k]).double() ** 2).sum().item() for k in a))
    return difference / math.sqrt(sum((b[k].double() ** 2).sum().item() for k in b))


@pytest.mark.parametrize("objective", ["separate", "masked_frames"])
def test_killed_and_resumed_ends_bit_for_bit_where_the_undisturbed_run_ends(
    tiny_data: Path, tmp_path: Path, objective: str
) -> None:
    recipe = recipe_of(tiny_data, **{"objective.name": objective, "steps": 40})
    whole, broken = new_run(tmp_path / "whole", recipe), new_run(tmp_path / "broken", recipe)
    finish(start(whole, 1, tmp_path / "a"))
    for kill_at in (3, 21):
        kill_after_checkpoint(broken, start(broken, 1, tmp_path / "b"), kill_at)
        assert read_newest(broken)[0].row.step < 40, "killed too late to show anything"
    finish(start(broken, 1, tmp_path / "b"))
    expected, found = last_weights(whole), last_weights(broken)
    assert all(torch.equal(found[name], expected[name]) for name in expected)

    assert curve(broken) == curve(whole)


def test_two_workers_end_where_one_does_and_resume(tiny_data: Path, tmp_path: Path) -> None:
    """Five items over two workers are three and two, in micro-batches of two and one: every cut is uneven."""
    recipe = recipe_of(tiny_data, **{"steps": 30, "workers.count": 2, "workers.shares": "equal"})
    one, two, broken = (new_run(tmp_path / name, recipe) for name in ("one", "two", "broken"))
    finish(start(one, 1, tmp_path / "a"))
    finish(start(two, 2, tmp_path / "b"))
    kill_after_checkpoint(broken, start(broken, 2, tmp_path / "c"), 9)
    finish(start(broken, 2, tmp_path / "d"))
    assert distance(last_weights(broken), last_weights(two)) < 1e-5
    for value in ("loss", "grad_norm"):  # Adam and clipping hide a wrong scale of the gradient from the losses
        first = [[m[value] for m in read_metrics(r.metrics_file) if value in m and m["step"] <= 5] for r in (one, two)]
        assert first[0] == pytest.approx(first[1], rel=1e-3), value


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
    steps = [m["step"] for m in read_metrics(broken.metrics_file) if m["kind"] == "step"]
    assert steps == list(range(1, 41)), "none of those before the copy is taken again"
    assert not copies.exists()


def test_copies_count_only_where_every_worker_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = tmp_path
    for rank, step in ((0, 7), (0, 9), (3, 11)):
        (copies / f"rank-{rank}" / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    monkeypatch.setattr("jobs.own_disk.read_checkpoint", lambda folder: folder.name)
    assert newest_of_all(copies, 8, 1, torch.device("cpu")) == "step-00000011"
    assert newest_of_all(copies, 11, 1, torch.device("cpu")) is None, "the share is as new"

    def gathered(of_all: list[torch.Tensor], told: torch.Tensor) -> None:
        assert told.tolist() == [9, 11]
        of_all[0].copy_(told)
        of_all[1].copy_(torch.tensor([7, 9]))

    monkeypatch.setattr("torch.distributed.all_gather", gathered)
    assert newest_of_all(copies, 8, 2, torch.device("cpu")) == "step-00000009"


def test_a_run_learns_reports_and_leaves_what_later_commands_read(tiny_data: Path, tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", recipe_of(tiny_data, **{"steps": 60, "optim.lr": 1e-2}))
    reports: list[dict[str, float]] = []
    result = here(run, report=reports.append)
    losses = [m["loss"] for m in read_metrics(run.metrics_file) if m["kind"] == "step"]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    assert [r["step"] for r in reports] == [6.0 * k for k in range(1, 11)]
    assert result["best_validation_loss"] == min(r["validation_loss"] for r in reports)
    lines = [m for m in read_metrics(run.metrics_file) if m["kind"] == "step"]
    assert [m["step"] for m in lines] == list(range(1, 61))
    assert all(0 <= m["data_wait"] <= 1 for m in lines)
    assert here(run)["step"] == 60  # a finished run is not trained again
    assert len([m for m in read_metrics(run.metrics_file) if "loss" in m]) == 60 + 10
    written = [m for m in read_metrics(run.metrics_file) if m["kind"] == "checkpoint"]
    assert written[-1]["step"] == 60
    assert all(m["wrote_s"] > 0 <= m["stopped_s"] for m in written)


def test_validation_hides_the_same_frames_in_every_run(tiny_data: Path, tmp_path: Path) -> None:
    losses = []
    for seed in (1, 1, 2):
        recipe = recipe_of(
            tiny_data, **{"steps": 1, "seed": seed, "objective.name": "masked_frames", "optim.freeze": ["blocks.*"]}
        )
        run = new_run(tmp_path / f"run{len(losses)}", recipe)
        losses.append(here(run)["validation_loss"])
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_over_them(tiny_data: Path, tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", recipe_of(tiny_data, **{"steps": 4}))
    here(run)
    for folder in run.checkpoints.glob("step-*"):
        (folder / "training.pt").write_bytes(b"")
    before = run.metrics_file.read_text()
    with pytest.raises(RunFailed, match="no usable checkpoint.*delete .*checkpoints to start from nothing"):
        here(run)
    assert run.metrics_file.read_text() == before


@pytest.mark.parametrize(
    ("wish", "error", "said"),
    [("stop", RunStopped, "vr jobs resume run"), ("leave", RunLeft, "run run left its machines at step")],
)
def test_a_stop_or_leave_file_saves_first(
    tiny_data: Path, tmp_path: Path, wish: str, error: type[Exception], said: str
) -> None:
    run = new_run(tmp_path / "run", recipe_of(tiny_data, **{"steps": 1_000_000, "checkpoint.every_steps": None}))
    (run.path / wish).touch()
    with pytest.raises(error, match=said):
        here(run)
    steps = [m["step"] for m in read_metrics(run.metrics_file) if m["kind"] == "step"]
    assert read_newest(run)[0].row.step == steps[-1]


def test_steps_that_are_not_finite_are_skipped_and_then_the_run_stops(tiny_data: Path, tmp_path: Path) -> None:
    """The first steps of a rate of 1e30 overflow float32: what is left stays finite, and the place is named."""
    run = new_run(
        tmp_path / "run", recipe_of(tiny_data, **{"nonfinite_limit": 3, "optim.lr": 1e30, "optim.ema_decay": 0.0})
    )
    with pytest.raises(RunFailed, match=r"4 steps in a row.*step \d+ skipped: the (loss|gradient).*songs: \w+"):
        here(run)


def test_one_step_that_is_not_finite_leaves_no_trace(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(tmp_path / "run", recipe_of(tiny_data, **{"steps": 3, "checkpoint.every_steps": 1}))
    honest = jobs.gradient.item_losses

    def poisoned(spec: Any, model: Any, magnitudes: Any, draws: Draws, *, training: bool) -> torch.Tensor:
        losses = honest(spec, model, magnitudes, draws, training=training)
        third = training and bool(((draws.keys >> 32) == 12).any())  # an item of step 3, of five items each
        return losses * math.nan if third else losses

    monkeypatch.setattr("jobs.gradient.item_losses", poisoned)
    assert math.isnan(here(run)["loss"])
    before, after = (read_checkpoint(run.checkpoints / f"step-{step:08d}") for step in (2, 3))
    for name, value in before.weights.items():
        assert torch.equal(after.weights[name], value), name
        assert torch.equal(after.training["model"][name], before.training["model"][name]), name
    for key, state in before.training["optimiser"]["state"].items():
        assert all(torch.equal(after.training["optimiser"]["state"][key][part], v) for part, v in state.items())
    assert after.training["skipped_in_a_row"] == 1


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
        one, two = [[m[value] for m in read_metrics(r.metrics_file) if value in m] for r in (straight, run)]
        assert one == pytest.approx(two, rel=1e-3), value
    reads = [(run.path / f"reads-{rank}").read_text().split() for rank in range(2)]
    own = sum(disks.count(f"disk{rank}") for rank, disks in enumerate(reads))
    assert own > 0.7 * sum(map(len, reads)), "half of them, if nobody looked"


def test_auto_chooses_how_gradients_travel_once_and_keeps_to_it(tiny_data: Path, tmp_path: Path) -> None:
    changes = {"steps": 6, "sync": "auto", "nodes.min": 2, "checkpoint.every_steps": 3}
    run = new_run(tmp_path / "run", recipe_of(tiny_data, **changes))
    finish(start(run, 2, tmp_path / "a"))
    [choice] = [m for m in read_metrics(run.metrics_file) if m["kind"] == "sync"]
    assert choice["plain"] > 0 < choice["bf16"]
    checkpoint = read_newest(run)[0]
    assert checkpoint.training["exchange"]["sync"] in ("plain", "bf16")
    again = new_run(tmp_path / "again", recipe_of(tiny_data, **{**changes, "steps": 9}))
    shutil.copytree(run.checkpoints, again.checkpoints)
    finish(start(again, 2, tmp_path / "b"))
    assert [m for m in read_metrics(again.metrics_file) if m["kind"] == "sync"] == [], "nothing is left to choose"
    assert read_newest(again)[0].training["exchange"] == checkpoint.training["exchange"]


@pytest.mark.parametrize(("item_s", "idle"), [(1e-9, 1), (10.0, 0)])
def test_a_worker_that_costs_more_than_it_brings_is_told_where_the_run_keeps_it(
    tiny_data: Path, tmp_path: Path, item_s: float, idle: int
) -> None:
    recipe = recipe_of(tiny_data, **{"steps": 2, "workers.count": 2, "batch.micro_batch": 5})
    cpu = torch.device("cpu")
    bins = Dataset.open(tiny_data).manifest.stft.bins
    keep_speed(key_of(recipe, bins, cpu, has_bf16(cpu)) | {"threads": 1}, Speed(0, item_s, 5))
    run = new_run(tmp_path / "run", recipe)
    finish(start(run, 2, tmp_path / "meet"))
    told = [m for m in read_metrics(run.metrics_file) if m["kind"] == "not_worth"]
    assert [len(line["ranks"]) for line in told] == [1] * idle
    assert all(line["without_s"] < 0.9 * line["with_s"] for line in told)


def test_a_disk_that_is_full_for_a_while_costs_nothing(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real one: the run's folder is a file system of 16 MiB that something else fills, and leaves when it is told."""
    require()
    said: list[str] = []
    monkeypatch.setattr("jobs.train._note", said.append)
    (disk := tmp_path / "disk").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)], check=True)
    try:
        run = new_run(disk / "run", recipe_of(tiny_data, **{"steps": 60, "checkpoint.keep": 1}))
        with contextlib.suppress(OSError), (disk / "other").open("wb") as other:
            while True:
                other.write(bytes(4096))

        def leave() -> None:
            until(lambda: said)
            (disk / "other").unlink()

        leaving = threading.Thread(target=leave)
        leaving.start()
        here(run)
        leaving.join()
        checkpoint, problems = read_newest(run)
        assert (checkpoint.row.step, problems) == (60, [])
        assert [m["step"] for m in read_metrics(run.metrics_file) if m["kind"] == "step"] == list(range(1, 61))
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)  # what was read from it is still mapped
    assert "training goes on" in said[0]
    assert said[1:] == ["the storage is back, the checkpoint is written"]


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


def test_a_run_goes_on_with_the_songs_it_began_with(tiny_data: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    straight = new_run(tmp_path / "straight", recipe_of(data, **{"steps": 6, "checkpoint.every_steps": 3}))
    here(straight)
    run = new_run(tmp_path / "run", straight.recipe())
    shutil.copytree(straight.checkpoints / "step-00000003", run.checkpoints / "step-00000003")
    remove(data, [read_manifest(data).songs[0].id])
    here(run)
    wanted, found = read_newest(straight)[0], read_newest(run)[0]
    assert found.training["step"] == 6
    assert found.training["data"] == wanted.training["data"] != read_manifest(data).digest()
    assert all(torch.equal(found.weights[name], value) for name, value in wanted.weights.items())


def test_a_data_set_that_changed_under_a_run_for_good_is_refused(tiny_data: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    run = new_run(tmp_path / "run", recipe_of(data, **{"steps": 3}))
    here(run)
    remove(data, [read_manifest(data).songs[0].id])
    prune(data)
    with pytest.raises(ManifestError, match="changed since .*that version is not kept; put the data set back"):
        here(run)


def test_a_start_is_taken_whole_or_refused_by_name(tiny_data: Path, tmp_path: Path) -> None:
    pretrained = new_run(tmp_path / "pre", recipe_of(tiny_data, **{"objective.name": "masked_frames"}))
    here(pretrained)
    init = str(pretrained.checkpoints / "step-00000012" / "weights.safetensors")

    frozen = {"init": init, "optim.freeze": ["input.*", "blocks.*"], "optim.ema_decay": 0.0}
    tuned = new_run(tmp_path / "tuned", recipe_of(tiny_data, **frozen))
    here(tuned)
    before, after = read_newest(pretrained)[0].weights, read_newest(tuned)[0].weights
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {name for name in before if name.startswith(("input.", "blocks."))}

    reset = new_run(
        tmp_path / "reset",
        recipe_of(tiny_data, **frozen, init_reset=["blocks.1.*"], steps=1, **{"optim.warmup_steps": 0}),
    )
    here(reset)
    fresh = {
        n for n, w in read_newest(reset)[0].weights.items() if n.startswith("blocks.") and not torch.equal(w, before[n])
    }
    assert fresh
    assert all(name.startswith("blocks.1.") for name in fresh)

    other = new_run(tmp_path / "other", recipe_of(tiny_data, init=init, **{"model.width": 8}))
    with pytest.raises(WeightsError, match="does not fit the model"):
        here(other)
    typo = new_run(tmp_path / "typo", recipe_of(tiny_data, init=init, init_reset=["block.1.*"]))
    with pytest.raises(ConfigError, match="init_reset.*names no parameter"):
        here(typo)
