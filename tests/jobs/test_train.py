"""The training loop on real shards: exact resume after SIGKILL, any number of workers, starts and stops."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from dataprep.batches.order import Order
from dataprep.errors import ManifestError
from dataprep.preparing.change import prune, remove
from dataprep.roles import Role
from dataprep.shards.dataset import Dataset
from dataprep.shards.manifest import read_manifest
from jobs.checkpoints.format import read_checkpoint, read_newest
from jobs.errors import NewerStart, RunFailed
from jobs.recipe import Recipe
from jobs.runs.metrics import read_metrics
from jobs.runs.starts import Start
from jobs.steps.decision import Ended
from jobs.steps.world import World
from jobs.training.resume import newest_checkpoint
from tests.jobs.training import (
    curve,
    distance,
    finish,
    here,
    kill_after_checkpoint,
    last_weights,
    new_run,
    recipe_of,
    start,
)
from vr_core.config import plain
from vr_core.errors import ConfigError, WeightsError

pytestmark = pytest.mark.xdist_group("ranks")


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
        first = [[m[value] for m in read_metrics(r) if value in m and m["step"] <= 5] for r in (one, two)]
        assert first[0] == pytest.approx(first[1], rel=1e-3), value


def test_a_run_learns_reports_and_leaves_what_later_commands_read(tiny_data: Path, tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", recipe_of(tiny_data, **{"steps": 60, "optim.lr": 1e-2}))
    reports: list[dict[str, float]] = []
    result = here(run, report=reports.append).figures
    losses = [m["loss"] for m in read_metrics(run) if m["kind"] == "step"]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    assert [r["step"] for r in reports] == [6.0 * k for k in range(1, 11)]
    assert result["best_validation_loss"] == min(r["validation_loss"] for r in reports)
    lines = [m for m in read_metrics(run) if m["kind"] == "step"]
    assert [m["step"] for m in lines] == list(range(1, 61))
    assert all(0 <= m["data_wait"] <= 1 for m in lines)
    assert here(run) == Ended("finished", {"step": 60.0})  # a finished run is not trained again
    assert len([m for m in read_metrics(run) if "loss" in m]) == 60 + 10
    written = [m for m in read_metrics(run) if m["kind"] == "checkpoint"]
    assert written[-1]["step"] == 60
    assert all(m["wrote_s"] > 0 <= m["stopped_s"] for m in written)


def test_validation_hides_the_same_frames_in_every_run(tiny_data: Path, tmp_path: Path) -> None:
    losses = []
    for seed in (1, 1, 2):
        recipe = recipe_of(
            tiny_data, **{"steps": 1, "seed": seed, "objective.name": "masked_frames", "optim.freeze": ["blocks.*"]}
        )
        run = new_run(tmp_path / f"run{len(losses)}", recipe)
        losses.append(here(run).figures["validation_loss"])
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_over_them(tiny_data: Path, tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", recipe_of(tiny_data, **{"steps": 4}))
    here(run)
    for folder in run.checkpoints.glob("step-*"):
        (folder / "training.pt").write_bytes(b"")
    before = list(read_metrics(run))
    with pytest.raises(RunFailed, match="no usable checkpoint.*delete .*checkpoints to start from nothing"):
        here(run)
    assert list(read_metrics(run)) == before


def test_one_bad_byte_in_metrics_or_pointers_ends_no_run(tiny_data: Path, tmp_path: Path) -> None:
    """Metrics are those of an earlier version: one file."""
    run = new_run(tmp_path / "run", recipe_of(tiny_data, **{"steps": 6}))
    here(run)
    old = "".join(json.dumps(line) + "\n" for line in read_metrics(run))
    shutil.rmtree(run.metrics)
    run.metrics_file.write_bytes(old.encode()[:40] + b"\xff" + old.encode()[41:])
    for name in ("last", "best"):
        (run.checkpoints / name).write_bytes(b"step-0000000\xff")
    run.recipe_file.write_text(json.dumps(plain(recipe_of(tiny_data, **{"steps": 9}))))
    assert here(run).figures["step"] == 9
    assert [line["step"] for line in read_metrics(run) if line["kind"] == "step"] == list(range(2, 10))
    assert run.pointer("last").name == "step-00000009"
    assert run.pointer("best").is_dir()


def test_a_start_that_others_have_followed_trains_no_more(tiny_data: Path, tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", recipe_of(tiny_data))
    here(run, start=Start(1, 2))
    assert (run.metrics / "1.2.jsonl").is_file()
    with pytest.raises(NewerStart, match=r"start 1\.2 has begun since start 1\.1"):
        here(run, start=Start(1, 1))


@pytest.mark.parametrize(("wish", "how"), [("stop", "stopped"), ("leave", "left")])
def test_a_stop_or_leave_file_saves_first(tiny_data: Path, tmp_path: Path, wish: str, how: str) -> None:
    run = new_run(tmp_path / "run", recipe_of(tiny_data, **{"steps": 1_000_000, "checkpoint.every_steps": None}))
    (run.path / wish).touch()
    assert here(run).how == how
    steps = [m["step"] for m in read_metrics(run) if m["kind"] == "step"]
    assert read_newest(run)[0].row.step == steps[-1]


def test_steps_that_are_not_finite_are_skipped_and_then_the_run_stops(tiny_data: Path, tmp_path: Path) -> None:
    """The first steps of a rate of 1e30 overflow float32: what is left stays finite, and the place is named."""
    run = new_run(
        tmp_path / "run", recipe_of(tiny_data, **{"nonfinite_limit": 3, "optim.lr": 1e30, "optim.ema_decay": 0.0})
    )
    with pytest.raises(RunFailed, match=r"4 steps in a row.*step \d+ skipped: the (loss|gradient).*songs: \w+"):
        here(run)


class Poisoned(Dataset):
    """One of its songs is not finite where an item of the third step, of five items each, begins."""

    def scale(self, song: str, role: Role, start_frame: int, gain: float, out: np.ndarray) -> None:
        super().scale(song, role, start_frame, gain, out)
        if (song, start_frame) == self.poisoned:
            out.fill(np.nan)

    def poison(self, recipe: Recipe) -> None:
        order = Order.of(self.manifest, recipe.objective, recipe.seed, recipe.batch.crop_frames)
        places = [[(read.song, read.start_frame) for read in item.reads] for item in order.items(0, 15)]
        before = {place for item in places[:10] for place in item}
        self.poisoned = next(place for item in places[10:] for place in item if place not in before)


def test_one_step_that_is_not_finite_leaves_no_trace(tiny_data: Path, tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", recipe_of(tiny_data, **{"steps": 3, "checkpoint.every_steps": 1}))

    def opens(folder: Path, *_: object) -> Dataset:
        data = Poisoned.open(folder)
        data.poison(run.recipe())
        return data

    assert math.isnan(here(run, opens=opens).figures["loss"])
    before, after = (read_checkpoint(run.checkpoints / f"step-{step:08d}") for step in (2, 3))
    for name, value in before.weights.items():
        assert torch.equal(after.weights[name], value), name
        assert torch.equal(after.training["model"][name], before.training["model"][name]), name
    for key, state in before.training["optimiser"]["state"].items():
        assert all(torch.equal(after.training["optimiser"]["state"][key][part], v) for part, v in state.items())
    assert after.training["skipped_in_a_row"] == 1


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


def test_pointers_are_mended_before_a_start_goes_on(tiny_data: Path, tmp_path: Path) -> None:
    """What `best` names has to be beaten from the first step on, and is what a run's weights are until then."""
    run = new_run(tmp_path / "run", recipe_of(tiny_data, **{"steps": 3}))
    here(run)
    for name in ("last", "best"):
        (run.checkpoints / name).write_bytes(b"step-0000000\xff")
    checkpoint = newest_checkpoint(run, run.recipe(), World.alone(torch.device("cpu")))
    assert checkpoint is not None
    assert {run.pointer(name) for name in ("last", "best")} == {checkpoint.folder}
