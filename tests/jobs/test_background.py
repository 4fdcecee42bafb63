"""Checkpoints in the background: what is written is what was saved, storage that is away is waited for and said."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.checkpoints.background import BackgroundCheckpoints
from jobs.checkpoints.format import read_newest
from jobs.checkpoints.writing import write_checkpoint
from jobs.runs.folder import RunFolder
from tests.jobs.checkpoints import SPEC, STFT
from tests.jobs.waiting import until
from vr_core.errors import StorageError
from vr_core.models.registry import build
from vr_core.weights import WeightsMeta


class Slow:
    """A storage: holds every write until it is let go, or fails as often as it is told."""

    def __init__(self) -> None:
        self.go, self.failures, self.begun = threading.Event(), 0, 0

    def __call__(self, *arguments: Any) -> Path:
        self.begun += 1
        if self.failures:
            self.failures -= 1
            raise StorageError("checkpoint: cannot be written (No space left on device)")
        self.go.wait(60)
        return write_checkpoint(*arguments)


@pytest.fixture
def slow() -> Slow:
    return Slow()


def state(value: float) -> dict[str, torch.Tensor]:
    return {name: torch.full_like(p, value) for name, p in build(SPEC, STFT.bins).state_dict().items()}


def save(writer: BackgroundCheckpoints, run: RunFolder, step: int, weights: dict[str, torch.Tensor]) -> None:
    meta = WeightsMeta(model=SPEC, stft=STFT, step=step, run=run.id)
    writer.save(weights, {"step": step, "nested": [{"moments": weights}]}, meta, step * 8, None, False)


def test_training_goes_on_while_it_is_written_and_changes_nothing_of_it(run, slow):
    weights = state(1.0)
    with BackgroundCheckpoints(run, 2, pytest.fail, write=slow) as writer:
        save(writer, run, 1, weights)
        assert writer.busy
        assert read_newest(run) == (None, [])
        for value in weights.values():
            value.fill_(2.0)
        slow.go.set()
        writer.wait()
        [written] = writer.written()
    assert (written.step, writer.written()) == (1, [])
    assert written.stopped_s >= 0
    checkpoint, problems = read_newest(run)
    assert problems == []
    for found in (checkpoint.weights, checkpoint.training["nested"][0]["moments"]):
        assert all((value == 1.0).all() for value in found.values())


def test_the_next_one_waits_for_the_one_before(run):
    gates = {1: threading.Event(), 2: threading.Event()}

    def write(folder: RunFolder, weights: Any, training: dict[str, Any], *more: Any) -> Path:
        gates[training["step"]].wait(60)
        return write_checkpoint(folder, weights, training, *more)

    with BackgroundCheckpoints(run, 2, pytest.fail, write=write) as writer:
        save(writer, run, 1, state(1.0))
        threading.Timer(0.2, gates[1].set).start()
        save(writer, run, 2, state(2.0))
        assert read_newest(run)[0].row.step == 1, "whole before the next is begun"
        gates[2].set()
    assert read_newest(run)[0].row.step == 2, "leaving the block waits"
    assert [written.step for written in writer.written()] == [1, 2]


def test_storage_that_is_away_is_told_once_and_waited_for(run, slow):
    said: list[str] = []
    slow.failures = 3
    slow.go.set()
    with BackgroundCheckpoints(run, 2, said.append, retry_every_s=0.01, write=slow) as writer:
        save(writer, run, 1, state(1.0))
        writer.wait()
    assert slow.begun == 4
    assert len(said) == 2, said
    assert "No space left" in said[0]
    assert "training goes on" in said[0]
    assert said[1] == "the storage is back, the checkpoint is written"
    assert read_newest(run)[0].row.step == 1


def test_storage_that_stays_away_ends_the_attempt_in_the_end(run, slow):
    slow.failures = 10**9
    with BackgroundCheckpoints(run, 2, [].append, retry_every_s=0.01, retry_for_s=0.05, write=slow) as writer:
        save(writer, run, 1, state(1.0))
        until(lambda: not writer.busy)
        with pytest.raises(StorageError, match="No space left"):
            save(writer, run, 2, state(2.0))
    assert read_newest(run) == (None, [])


def test_a_loop_that_fails_does_not_wait_for_storage_that_is_away(run, slow):
    slow.failures = 10**9

    def loop() -> None:
        with BackgroundCheckpoints(run, 2, [].append, retry_every_s=3600, retry_for_s=3600, write=slow) as writer:
            save(writer, run, 1, state(1.0))
            until(lambda: slow.begun)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):  # an hour later otherwise
        loop()


def test_what_is_no_matter_of_storage_reaches_the_loop_at_once(run):
    with BackgroundCheckpoints(run, 2, pytest.fail, write=lambda *_: 1 / 0) as writer:
        save(writer, run, 1, state(1.0))
        with pytest.raises(ZeroDivisionError):
            writer.wait()
