"""Where a run may not go on as it is: a checkpoint of another place, ranks that cost more than they bring."""

import dataclasses
import json
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from dataprep.shards.dataset import Dataset
from jobs.checkpoints.format import read_newest
from jobs.errors import NotACheckpoint, RunFailed
from jobs.runs.folder import RunFolder
from jobs.search.trial import train_trial
from jobs.steps.gradient import has_bf16
from jobs.steps.phases import phases_of
from jobs.steps.shares import Speed
from jobs.steps.state import TrainingFile
from jobs.steps.world import World
from jobs.sync.busy_clock import BusyClock
from jobs.training.loop import train
from jobs.training.speed.kept import keep_speed, kept_row, key_of
from tests.jobs import ranks
from tests.jobs.training import finish, here, new_run, recipe_of, start
from vr_core.config import plain
from vr_core.errors import ConfigError

pytestmark = pytest.mark.xdist_group("ranks")

CPU = torch.device("cpu")


def test_a_checkpoint_at_another_position_than_its_step_s_is_refused(tiny_data: Path, tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", recipe_of(tiny_data, steps=3))
    here(run)
    checkpoint = read_newest(run)[0]
    assert TrainingFile.of(checkpoint, 5).position == 15
    moved = dataclasses.replace(checkpoint, training={**checkpoint.training, "position": 16})
    for wrong, items in ((moved, 5), (checkpoint, 6)):
        with pytest.raises(NotACheckpoint, match=r"step 3 of \d items each is at position .*delete it to go on"):
            TrainingFile.of(wrong, items)


def end_of_a_rank(run: Path, rank: int, world: int) -> None:
    """Its PC is alone with this rank, or not: ranks 0 and 1 are one PC's where the run says so."""
    machine = "attic" if (run / "one-pc").exists() else f"pc{rank}"
    ended = train(RunFolder(run).recipe(), run, World(rank, world, CPU, machine))
    (run / f"ended-{rank}").write_text(f"{ended.how} {ended.exclusion.ranks if ended.exclusion else ()}")


@pytest.mark.parametrize("one_pc", [False, True])
def test_a_run_is_left_by_all_ranks_where_a_pc_costs_more_than_it_brings(
    tiny_data: Path, tmp_path: Path, one_pc: bool
) -> None:
    """Items that cost nothing: what is sent is all that a step takes. Of two ranks on one PC none can be left out."""
    recipe = recipe_of(tiny_data, **{"steps": 2, "nodes": {"min": 1}, "batch.micro_batch": 5, "model.width": 20})
    bins = Dataset.open(tiny_data).manifest.stft.bins
    keep_speed(key_of(recipe, bins, CPU, has_bf16(CPU)) | {"threads": 1}, Speed(0, 1e-9, 5))
    run = new_run(tmp_path / "run", recipe)
    if one_pc:
        (run.path / "one-pc").touch()
    finish(ranks.group(partial(end_of_a_rank, run.path), 2, tmp_path / "meet"))
    told = [(run.path / f"ended-{rank}").read_text() for rank in range(2)]
    assert told[0] == told[1]
    assert told[0] in (["finished ()"] if one_pc else ["excluded (0,)", "excluded (1,)"])


def slow_at_rank_1(run: Path, rank: int, world: int) -> None:
    """By its own clock; what a step really takes plays no part."""
    with patch.object(BusyClock, "busy_s", lambda _: 10.0 if rank else 0.001):
        end_of_a_rank(run, rank, world)


@pytest.mark.parametrize("short_until", [0, 30])
def test_a_pc_that_gets_slow_while_training_is_left_out_but_not_before_the_last_phase(
    tiny_data: Path, tmp_path: Path, short_until: int
) -> None:
    """Whom short crops do not need, the long ones of later may."""
    curriculum = [{"until_step": short_until, "crop_frames": 7}] if short_until else []
    recipe = recipe_of(
        tiny_data, **{"steps": 400, "nodes": {"min": 1}, "batch.items": 8, "model.width": 18, "curriculum": curriculum,
                      "batch.micro_batch": 8, "validation.every_steps": 1000}
    )  # fmt: skip
    bins = Dataset.open(tiny_data).manifest.stft.bins
    for phase in phases_of(recipe):
        keep_speed(key_of(phase.recipe, bins, CPU, has_bf16(CPU)) | {"threads": 1}, Speed(0, 0.01, 8))
    run = new_run(tmp_path / "run", recipe)
    finish(ranks.group(partial(slow_at_rank_1, run.path), 2, tmp_path / "meet"))
    assert [(run.path / f"ended-{rank}").read_text() for rank in range(2)] == ["excluded (1,)"] * 2
    assert short_until < run.last_step() < 400


@pytest.mark.parametrize(("last_item_s", "chosen"), [(10.0, "plain"), (1e-9, "bf16")])
def test_how_ranks_become_one_is_chosen_for_the_last_phase(
    tiny_data: Path, tmp_path: Path, last_item_s: float, chosen: str
) -> None:
    """In the first one items cost nothing, or much."""
    recipe = recipe_of(
        tiny_data, **{"steps": 3, "sync": "auto", "workers.count": 2, "model.width": 22,
                      "curriculum": [{"until_step": 2, "crop_frames": 7}]}
    )  # fmt: skip
    bins = Dataset.open(tiny_data).manifest.stft.bins
    for phase, item_s in zip(phases_of(recipe), (1e-9 if last_item_s > 1 else 10.0, last_item_s), strict=True):
        keep_speed(key_of(phase.recipe, bins, CPU, has_bf16(CPU)) | {"threads": 1}, Speed(0, item_s, 2))
    run = new_run(tmp_path / "run", recipe)
    finish(start(run, 2, tmp_path / "meet"))
    assert read_newest(run)[0].training["exchange"]["sync"] == chosen


def test_a_trial_that_is_stopped_by_itself_has_failed_and_not_lost(tiny_data: Path, tmp_path: Path) -> None:
    recipe = recipe_of(tiny_data, **{"steps": 10**6, "validation.every_steps": 10**6})
    (tmp_path / "search" / "trials").mkdir(parents=True)
    run = new_run(tmp_path / "search" / "trials" / "0000", recipe)
    run.state_file.write_text('{"state": "running", "steps": 1000000}')
    run.stop_file.touch()
    trial = {"folder": str(run.path), "recipe": json.dumps(plain(run.recipe()))}
    with pytest.raises(RunFailed, match="was asked to stop by itself; stop the search instead"):
        train_trial({"trial": trial, "use_gpu": False})
    assert "asked to stop" in (run.path / "error.json").read_text()


def test_a_phase_that_trains_nothing_is_refused_before_the_first_step(tiny_data: Path, tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", recipe_of(tiny_data, **{"optim.unfreeze": {"*": 5}}))
    with pytest.raises(ConfigError, match="every parameter is frozen; leave something to train"):
        here(run)


def test_a_phase_that_was_not_reached_has_not_ended_a_start_by_its_memory(tiny_data: Path, tmp_path: Path) -> None:
    """Its kept size stays, however often the run starts before it."""
    recipe = recipe_of(
        tiny_data, **{"steps": 9, "model.width": 14, "curriculum": [{"until_step": 6, "crop_frames": 7}],
                     "validation.every_steps": 3}
    )  # fmt: skip
    bins = Dataset.open(tiny_data).manifest.stft.bins
    keys = [key_of(phase.recipe, bins, CPU, has_bf16(CPU)) for phase in phases_of(recipe)]
    for key in keys:
        keep_speed(key, Speed(0, 0.01, 2), tight=True)
    run = new_run(tmp_path / "run", recipe)
    for step in (3, 6):
        with pytest.raises(RuntimeError, match="the PC sleeps"):
            here(run, report=falls_asleep)
        assert read_newest(run)[0].row.step == step
        assert [(row.micro_batch, row.tight, row.begun) for row in map(kept_row, keys) if row] == [(2, True, False)] * 2
    here(run)
    assert [(row.micro_batch, row.tight, row.begun) for row in map(kept_row, keys) if row] == [(2, True, False)] * 2


def falls_asleep(figures: dict[str, float]) -> None:
    """At a validation, whose checkpoint is there."""
    raise RuntimeError("the PC sleeps")
