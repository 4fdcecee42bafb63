"""What fits into memory: the prediction, the budget from cgroups of either version, and what a GPU is tried with."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jobs.errors import ItemTooLarge
from jobs.steps.gradient import ItemLosses
from jobs.training.speed.measure import explained, fits_here
from jobs.training.speed.memory import (
    MARGIN,
    Fit,
    budget_bytes,
    cgroup_limits,
    fitting,
    fitting_on_gpu,
    largest,
    too_large,
)
from tests.jobs.training import here, new_run, recipe_of

MIB = 2**20


@given(st.integers(1, 10**9), st.integers(1, 10**8), st.integers(1, 10**10), st.integers(1, 500))
def test_the_largest_size_is_the_last_whose_prediction_keeps_the_margin(first, item, budget, most):
    size = largest(first, first + item, budget, most)
    fits = [n for n in range(1, most + 1) if first + item * (n - 1) <= MARGIN * budget]
    assert size == max(fits, default=1)


def test_what_is_predicted_to_fit_is_taken_and_the_rest_made_smaller():
    assert fitting(1, lambda: pytest.fail("measured"), 1) == Fit(1, is_tight=False)
    assert fitting(40, lambda: (10 * MIB, 20 * MIB), 801 * MIB) == Fit(40, is_tight=False)
    assert fitting(40, lambda: (10 * MIB, 20 * MIB), 500 * MIB) == Fit(40, is_tight=True)
    smaller = fitting(64, lambda: (10 * MIB, 20 * MIB), 500 * MIB)
    assert smaller == Fit(45, True, "micro-batch reduced from 64 to 45: memory limit 0.5 GiB")
    assert fitting(64, lambda: (900 * MIB, 920 * MIB), 500 * MIB).micro_batch == 1


def test_a_gpu_is_tried_from_the_top():
    tried = []
    fit = fitting_on_gpu(16, lambda n: tried.append(n) or n <= 9)
    assert fit == Fit(9, True, "micro-batch reduced from 16 to 9: the GPU has no memory for more")
    assert tried == [16, 12, 9]
    assert fitting_on_gpu(16, lambda n: True) == Fit(16, is_tight=False)
    assert fitting_on_gpu(3, lambda n: False).micro_batch == 1


def test_peaks_are_seen_below_an_earlier_one():
    """What a phase has freed would hide what the items of the next one take."""
    code = (
        "import torch\n"
        "from jobs.training.speed.memory import forget_peak, keep_freed_memory, peak_bytes\n"
        "keep_freed_memory(torch.device('cpu'))\n"
        "many = [torch.ones(2**20) for _ in range(200)]\n"
        "del many\n"
        "forget_peak()\n"
        "before = peak_bytes()\n"
        "some = torch.ones(20 * 2**20)\n"
        "print(peak_bytes() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 70 * MIB


def test_a_size_fits_where_the_allocator_raises_nothing():
    def compute(items):
        if items > 4:
            raise torch.OutOfMemoryError("no more")

    cpu = torch.device("cpu")
    assert fits_here(compute, 4, 1000, cpu)
    assert not fits_here(compute, 5, 1000, cpu)
    assert not fits_here(lambda items: raised(RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling")), 1, 0, cpu)
    with pytest.raises(RuntimeError, match="a bug"):
        fits_here(lambda items: raised(RuntimeError("a bug")), 1, 1000, cpu)


def raised(error):
    raise error


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


@pytest.mark.parametrize(
    ("changes", "ways"),
    [
        ({}, "shorter crops (batch.crop_frames=8)"),
        ({"init": "/w"}, "shorter crops (batch.crop_frames=8) or 'lora={rank: 8}'"),
        ({"init": "/w", "lora": {}}, "shorter crops (batch.crop_frames=8)"),
        ({"model": {"name": "bs_roformer"}}, "shorter crops (batch.crop_frames=8) or model.recompute=true"),
        ({"model": {"name": "bs_roformer", "recompute": True}}, "shorter crops (batch.crop_frames=8)"),
    ],
)
def test_what_would_need_less_is_said(tmp_path, changes, ways):
    said = too_large(recipe_of(tmp_path, **changes), "RTX 3080 Ti")
    assert said == f"one item of 16 frames does not fit the memory of RTX 3080 Ti; try {ways}"


def test_a_device_without_room_for_one_item_ends_the_run_with_that(tiny_data, tmp_path, monkeypatch):
    def no_room(*_args, **_options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    run = new_run(tmp_path / "run", recipe_of(tiny_data, **{"batch.micro_batch": 1}))
    with monkeypatch.context() as patched:
        patched.setattr(ItemLosses, "terms", no_room)
        with pytest.raises(ItemTooLarge, match="one item of 16 frames does not fit"):
            here(run)
    here(run)  # its speed is known now
    again = new_run(tmp_path / "again", recipe_of(tiny_data, **{"batch.micro_batch": 1}))
    monkeypatch.setattr(ItemLosses, "terms", no_room)
    with pytest.raises(ItemTooLarge, match="try shorter crops"):
        here(again)


def test_after_a_step_was_taken_somebody_else_may_have_the_memory(tiny_data, tmp_path, monkeypatch):
    run = new_run(tmp_path / "run", recipe_of(tiny_data, **{"batch.micro_batch": 1}))
    whole, calls = ItemLosses.terms, []

    def no_room_later(self, *given, **options):
        calls.append(1)
        if (run.checkpoints / "step-00000003").exists():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return whole(self, *given, **options)

    monkeypatch.setattr(ItemLosses, "terms", no_room_later)
    with pytest.raises(torch.OutOfMemoryError):  # which is tried again
        here(run)


def test_more_than_one_item_at_once_is_not_given_up_by_that(tmp_path):
    with pytest.raises(torch.OutOfMemoryError), explained(lambda: recipe_of(tmp_path), lambda: False, "x"):
        raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.gpu
def test_a_gpu_that_is_too_small_for_a_size_says_so_and_stays_usable():
    cuda = torch.device("cuda")
    free_bytes, _ = torch.cuda.mem_get_info()

    def compute(items):
        torch.empty(items * 2**20, dtype=torch.uint8, device=cuda)

    assert not fits_here(compute, 2 * free_bytes // 2**20, 0, cuda)
    assert not fits_here(compute, 1, 2 * free_bytes, cuda)
    assert fits_here(compute, 1, 2**20, cuda)
    assert torch.ones(3, device=cuda).sum().item() == 3
