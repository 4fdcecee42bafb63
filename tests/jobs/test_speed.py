"""Measured speeds: the fitted line, what is kept on a PC, and what makes a measurement another one."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jobs.steps.shares import Speed
from jobs.training.speed.kept import (
    SpeedRow,
    keep_or_note,
    keep_others,
    keep_speed,
    kept_row,
    kept_speeds,
    key_of,
    note_begin,
    note_end,
)
from jobs.training.speed.measure import line, measure_speed, speed_here, trying
from tests.jobs.training import recipe_of
from vr_core.errors import StorageError

CPU = torch.device("cpu")


@given(st.floats(0, 1), st.floats(0.01, 1))
def test_a_line_is_found_again(fixed_s, item_s):
    sizes = [1, 4, 8]
    found = line(sizes, [fixed_s + item_s * size for size in sizes])
    assert found == pytest.approx((fixed_s, item_s), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("times_s", [[2, 2, 1], [0.1, 4, 9], [1, 1, 1]])
def test_noise_gives_no_negative_part(times_s):
    fixed_s, item_s = line([1, 4, 8], times_s)
    assert fixed_s >= 0
    assert item_s > 0


def test_one_size_says_what_an_item_costs():
    assert line([4], [2.0]) == (0.0, 0.5)


def test_what_is_measured_is_what_was_computed():
    computed, now_s = [], 0.0

    def compute(count):
        nonlocal now_s
        computed.append(count)
        now_s += 0.02 + 0.01 * count

    speed = measure_speed(compute, 6, CPU, clock=lambda: now_s)
    assert set(computed) == {1, 3, 6}
    assert speed == Speed(pytest.approx(0.02), pytest.approx(0.01), 6)


def test_a_device_that_gets_slower_meanwhile_keeps_its_line():
    now_s = 0.0

    def compute(count):
        nonlocal now_s
        now_s += (0.02 + 0.005 * count) * (1 + now_s / 4)

    speed = measure_speed(compute, 8, CPU, clock=lambda: now_s)
    assert speed.fixed_s / speed.item_s == pytest.approx(4, rel=0.2)


def test_a_speed_is_kept_for_its_key_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    recipe = recipe_of(tmp_path)
    key = key_of(recipe, 32, CPU, False)
    for added, other in (("causal", True), ("block", "primer"), ("positions", "rotary")):
        assert added not in key["model"], "what earlier versions have kept is found"
        changed = recipe_of(tmp_path, **{f"model.{added}": other})
        assert key_of(changed, 32, CPU, False)["model"][added] == other
    assert kept_row(key) is None
    keep_speed(key, Speed(0.1, 0.25, 2))
    assert kept_row(key).speed == Speed(0.1, 0.25, 2)
    changes = ({"model.width": 32}, {"batch.crop_frames": 17}, {"objective.name": "masked_frames"}, {"lora": {}})
    for change in (*changes, {"optim.name": "muon"}):
        other = recipe_of(tmp_path, **change)
        assert kept_row(key_of(other, 32, CPU, False)) is None, change
        assert kept_speeds(other, 32) == {}, change
    assert list(kept_speeds(recipe, 32).values()) == [Speed(0.1, 0.25, 2)]
    same = recipe_of(tmp_path, steps=99, seed=5)
    assert kept_row(key_of(same, 32, CPU, False)).speed == Speed(0.1, 0.25, 2)


@pytest.mark.parametrize("text", ["", "{}", '{"speed": 3}', '{"speed": {"fixed_s": 0, "item_s": 0, "micro_batch": 1}}'])
def test_a_damaged_measurement_is_made_again(tmp_path, monkeypatch, text):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    key = key_of(recipe_of(tmp_path), 32, CPU, False)
    keep_speed(key, Speed(0.1, 0.25, 2))
    (kept,) = tmp_path.rglob("*.json")
    kept.write_text(text)
    assert kept_row(key) is None


def test_a_start_that_died_before_its_first_step_is_followed_by_a_smaller_one(tmp_path, monkeypatch):
    """Only where more would not have fitted: a start dies of many things."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    recipe = recipe_of(tmp_path)
    key = key_of(recipe, 32, CPU, False)

    def start():
        size = speed_here(recipe, key, None, None, None, None, CPU).micro_batch
        note_begin(key)
        return size

    keep_speed(key, Speed(0, 1, 20), tight=False, begun=True)
    assert [start(), start()] == [20, 20]
    keep_speed(key, Speed(0, 1, 20), tight=True, begun=True)
    assert [start(), start()] == [15, 11]
    note_end(key)
    assert [start(), start()] == [11, 8]
    note_end(key)
    keep_or_note(key, Speed(0, 2, 8))
    assert kept_row(key) == SpeedRow(fixed_s=0, item_s=2, micro_batch=8, tight=True, begun=False)


def test_speeds_of_other_pcs_are_kept_for_plans_and_never_taken_for_this_ones(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    recipe = recipe_of(tmp_path)
    key = key_of(recipe, 32, CPU, False)

    devices = [key["device"], "RTX 3080 Ti"]
    keep_speed(key, Speed(0.1, 0.25, 2))
    for item_s in (0.5, 0.4):
        keep_others(key, devices, [Speed(0.1, 0.3, 2), Speed(0.1, item_s, 8)])
    assert kept_speeds(recipe, 32) == {key["device"]: Speed(0.1, 0.25, 2), "RTX 3080 Ti": Speed(0.1, 0.4, 8)}
    other = key | {"device": "RTX 3080 Ti"}
    with pytest.raises(AttributeError):  # it measures, and there is nothing to measure with
        speed_here(recipe, other, None, None, None, None, CPU)
    keep_speed(other, Speed(0.1, 0.35, 4))
    keep_others(key, devices, [Speed(0.1, 0.3, 2), Speed(0.1, 0.5, 8)])
    assert kept_row(other).speed == Speed(0.1, 0.35, 4), "its own measurement counts more"


DIES = """
import os, signal, sys, torch
from pathlib import Path
from jobs.training.speed.memory import Fit
from jobs.training.speed.kept import key_of
from jobs.training.speed.measure import measure_and_keep
from tests.jobs.training import recipe_of
from vr_core.errors import StorageError

def compute(items):
    if items > 2:
        os.kill(os.getpid(), signal.SIGKILL)
    torch.ones(items, 10_000).sum()

key = key_of(recipe_of(Path(sys.argv[1])), 32, torch.device("cpu"), False)
measure_and_keep(key, compute, Fit(8, is_tight=sys.argv[2] == "tight"), torch.device("cpu"))
"""


@pytest.mark.parametrize("tight", [True, False])
def test_a_worker_that_is_killed_while_it_measures_a_tight_size_is_followed_by_a_smaller_one(
    tmp_path, monkeypatch, tight
):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # part of what a measurement is kept for
    done = subprocess.run(
        [sys.executable, "-c", DIES, str(tmp_path), "tight" if tight else "loose"], env=os.environ | threads
    )
    assert done.returncode == -signal.SIGKILL
    recipe = recipe_of(tmp_path)
    key = key_of(recipe, 32, CPU, False)
    if tight:
        assert speed_here(recipe, key, None, None, None, None, CPU).micro_batch == 6
    else:
        assert kept_row(key) is None, "it is measured again"


@pytest.mark.parametrize(
    ("error", "tight", "next_size"),
    [
        (None, True, 8),
        (StorageError("the share is away"), True, 8),
        (RuntimeError("another rank is gone"), True, 8),
        (KeyboardInterrupt(), True, 8),
        (torch.OutOfMemoryError("no more"), False, 6),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling"), False, 6),
    ],
)
def test_only_too_little_memory_makes_the_next_start_smaller(tmp_path, monkeypatch, error, tight, next_size):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    recipe = recipe_of(tmp_path)
    key = key_of(recipe, 32, CPU, False)
    keep_speed(key, Speed(0, 1, 8), tight=tight)
    with contextlib.suppress(type(error)) if error else contextlib.nullcontext(), trying(lambda: key):
        assert kept_row(key).begun == tight
        if error:
            raise error
    for _ in range(2):
        assert speed_here(recipe, key, None, None, None, None, CPU).micro_batch == next_size
