"""What fits into memory: the prediction, the budget from cgroups of either version, and a child killed for it."""

import json
import os
import subprocess
import sys
import uuid

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jobs.training.memory import (
    CERTAIN,
    MARGIN,
    SMALLER,
    budget_bytes,
    cgroup_limits,
    fitting,
    fitting_on_gpu,
    largest,
    lives,
)
from tests.box.cgroups import Groups
from tests.jobs.training import recipe_of
from tests.lan import require
from vr_core.config import plain

MIB = 2**20


@given(st.integers(1, 10**9), st.integers(1, 10**8), st.integers(1, 10**10), st.integers(1, 500))
def test_the_largest_size_is_the_last_whose_prediction_keeps_the_margin(first, item, budget, most):
    size = largest(first, first + item, budget, most)
    fits = [n for n in range(1, most + 1) if first + item * (n - 1) <= MARGIN * budget]
    assert size == max(fits, default=1)


def test_what_is_certain_is_not_tried():
    tried = []
    assert fitting(8, lambda: (100, 110), int(170 / CERTAIN), lambda n: tried.append(n) or True) == (8, "")
    assert tried == []
    assert fitting(1, lambda: pytest.fail("measured"), 1, lambda n: pytest.fail("tried")) == (1, "")


def test_what_is_near_the_budget_is_tried_and_made_smaller_until_a_child_lives():
    tried = []

    def try_it(size):
        tried.append(size)
        return size <= 20

    size, said = fitting(64, lambda: (10 * MIB, 20 * MIB), 500 * MIB, try_it)
    assert tried == [45, 33, 24, 18]
    assert size == 18
    assert said == "computes 18 items at once, not 64: it may take 0.5 GiB of memory"
    assert fitting(40, lambda: (10 * MIB, 20 * MIB), 500 * MIB, lambda n: True) == (40, "")
    assert fitting(64, lambda: (900 * MIB, 920 * MIB), 500 * MIB, lambda n: False)[0] == 1


def test_a_gpu_is_tried_from_the_top():
    tried = []
    size, said = fitting_on_gpu(16, lambda n: tried.append(n) or n <= 9)
    assert (size, tried) == (9, [16, 12, 9])
    assert "no memory for more" in said
    assert fitting_on_gpu(16, lambda n: True) == (16, "")


@pytest.fixture(params=[1, 2])
def tree(request, tmp_path):
    """A hierarchy of either version: the process in `outer/inner`, of which the outer one is the tighter."""
    v2 = request.param == 2
    place = tmp_path / "fs" if v2 else tmp_path / "fs" / "memory"
    limit, used = ("memory.max", "memory.current") if v2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    unlimited = "max" if v2 else str(2**63 - 4096)
    for group, most, now in (("outer/inner", 900, 100), ("outer", 500, 300), ("", unlimited, 700)):
        folder = place / group
        folder.mkdir(parents=True, exist_ok=True)
        (folder / limit).write_text(f"{most}\n")
        (folder / used).write_text(f"{now}\n")
        (folder / "memory.stat").write_text(f"rss 3\n{'' if v2 else 'total_'}inactive_file 60\n")
    told = tmp_path / "told"
    told.write_text("0::/outer/inner\n" if v2 else "5:cpu:/x\n4:memory:/outer/inner\n0::/\n")
    return tmp_path / "fs", told


def test_every_cgroup_above_counts_and_what_the_kernel_gives_back_does_not(tree):
    assert list(cgroup_limits(*tree)) == [(900, 40), (500, 240)]


def test_a_path_of_the_machine_outside_means_the_containers_own_group(tree):
    root, told = tree
    place = root if (root / "memory.max").exists() else root / "memory"
    name = "memory.max" if place == root else "memory.limit_in_bytes"
    (place / name).write_text("800\n")
    told.write_text(told.read_text().replace("/outer/inner", "/docker/7f"))
    assert list(cgroup_limits(root, told)) == [(800, 640)]


def test_the_budget_is_the_least_that_anything_allows():
    assert budget_bytes(0.001) == int(0.001 * 2**30)
    assert budget_bytes(10**6) <= budget_bytes() * 1.1


TRIAL = {
    "model": {"name": "dense_frame_transformer", "width": 64, "blocks": 2, "heads": 2, "feedforward": 128},
    "batch.crop_frames": 256,
}


def request(tmp_path):
    recipe = plain(recipe_of(tmp_path, **TRIAL))
    return {"recipe": recipe, "bins": 256, "device": "cpu", "bf16": False, "threads": 1, "held_bytes": 1000}


WORKER = """
import json, sys
from jobs.training.memory import fitting, lives
request = json.loads(sys.stdin.read())
tried = []
def try_it(size):
    tried.append((size, lives(request, size)))
    return tried[-1][1]
# Believes that it may take four times of what its cgroup lets it have.
size, said = fitting(64, lambda: (300 * 2**20, 360 * 2**20), 4 * 2**30, try_it)
print(json.dumps({"size": size, "tried": tried, "said": said}))
"""


def test_a_child_killed_by_its_cgroup_leaves_the_worker_running_with_a_smaller_size(tmp_path):
    require()
    groups = Groups(f"vr-memory-{uuid.uuid4().hex[:8]}")
    try:
        groups.memory("worker", 1024 * MIB)
        entrances = groups.entrances("worker")
        worker = subprocess.Popen(
            [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, preexec_fn=lambda: [entrance.write_text(str(os.getpid())) for entrance in entrances],
        )  # fmt: skip
        out, err = worker.communicate(json.dumps(request(tmp_path)), timeout=280)
    finally:
        for folder in groups.folders:
            for part in (*folder.iterdir(), folder):
                if part.is_dir():
                    part.rmdir()
    assert worker.returncode == 0, err
    told = json.loads(out)
    assert told["tried"][0] == [57, False], "it was killed"
    assert told["tried"][-1] == [told["size"], True]
    assert 1 <= told["size"] < 64 * SMALLER


@pytest.mark.gpu
def test_a_gpu_that_is_too_small_for_a_size_says_so_and_stays_usable(tmp_path):
    asked = request(tmp_path) | {"device": "cuda", "bf16": False}
    assert not lives(asked, 10**6)
    assert lives(asked, 2)
    assert torch.ones(3, device="cuda").sum().item() == 3


def test_a_child_that_has_room_lives_wherever_the_worker_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert lives(request(tmp_path), 2)
