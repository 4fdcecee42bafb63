"""The proof that each item of a step was computed once, and how ranks' reports become one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dataprep.batches.order import Item
from dataprep.shards.manifest import read_manifest
from jobs.errors import RunFailed
from jobs.recipe import Recipe
from jobs.steps.phases import phases_of
from jobs.steps.shares import Speed
from jobs.steps.step_plan import StepPlan
from jobs.steps.step_report import RankReport, StepReport, position_hash
from jobs.steps.world import World
from tests.recorded.compare import BEFORE
from vr_core.config import validate

CPU = torch.device("cpu")
ITEMS = 16


def of_ranks(step: int, positions: list[list[int]], **wishes: bool) -> StepReport:
    """What ranks tell that computed these positions, each with a loss of 1 in one term and 2 in the other."""
    told = []
    for rank, of_rank in enumerate(positions):
        report = RankReport(step, World(rank, len(positions), CPU), ITEMS)
        losses = torch.ones(len(of_rank))
        report.add({"l1": losses, "phase": 2 * losses}, [Item(position, 0, 8, ()) for position in of_rank])
        report.computed(0.5 + rank)
        if rank == 0:
            report.wish(**wishes)
        told.append(report.vector())
    return StepReport.of_vector(step, report.terms, torch.stack(told).sum(0).tolist())


def plan() -> StepPlan:
    """Of the first step, of 16 items, by three ranks."""
    recipe = validate(Recipe, {"name": "demo", "steps": 9, "batch": {"items": ITEMS, "crop_frames": 16}}, "demo")
    manifest = read_manifest(BEFORE / "data")
    [phase] = phases_of(recipe)
    local = np.ones((3, len(manifest.shards)), bool)
    return StepPlan(recipe, manifest, {phase: [Speed(0, 1, 4)] * 3}, local, 0, 0)


def test_reports_of_ranks_add_up_to_the_step_s() -> None:
    report = of_ranks(3, [[48, 49, 50], list(range(51, 60)), list(range(60, 64))], stop=True, save_here=True)
    assert report.losses == {"l1": 1.0, "phase": 2.0}
    assert report.loss == 3.0
    assert report.busy_s == [0.5, 1.5, 2.5]
    plan().observe(report)
    assert (report.stop, report.leave, report.save, report.save_here) == (True, False, False, True)


@pytest.mark.parametrize(
    "positions",
    [
        [[0, 0, *range(1, 6)], list(range(6, 16)), []],  # item 0 twice: the sum of positions is right
        [list(range(1, 6)), list(range(6, 16)), []],  # item 0 missing: the same
        [[0, 0, 3, 3], list(range(4, 16)), []],  # 1 and 2 missing, 0 and 3 twice: sum and count are right
        [[*range(8)], [*range(8, 14)], [14, 14]],
    ],
)
def test_a_wrong_cut_is_found_though_the_sum_of_positions_may_be_right(positions: list[list[int]]) -> None:
    report = of_ranks(0, [of_rank for of_rank in positions if of_rank])
    with pytest.raises(RunFailed, match="step 1 was not shared out once: .* has every PC the same version"):
        plan().observe(report)


@given(st.integers(0, 2**40), st.integers(1, 40), st.integers(1, 40))
def test_positions_of_the_same_sum_have_another_sum_of_hashes(first: int, gap: int, further: int) -> None:
    """Any two items for two others as far inside of them."""
    inner, outer = (first + gap, first + gap + further), (first, first + 2 * gap + further)
    assert sum(inner) == sum(outer)
    assert sum(map(position_hash, inner)) != sum(map(position_hash, outer))
    assert all(0 <= position_hash(position) < 2**32 for position in (*inner, *outer))


def test_who_speaks_for_no_item_adds_nothing_but_its_time() -> None:
    report = RankReport(0, World(1, 2, CPU), ITEMS)
    report.add({"l1": torch.ones(3)}, [Item(position, 0, 8, ()) for position in range(3)])
    assert report.loss == 3 / 16
    report.computed(2.0)
    report.count_nothing()
    assert report.vector().tolist() == [0.0, 0, 0, 0, 0, 0, 0, 0.0, 2.0]


def test_the_number_of_items_counts_beside_their_hashes() -> None:
    report = of_ranks(0, [[*range(16)]])
    plan().observe(report)
    with pytest.raises(RunFailed, match="17 items were computed, 16 belong to it"):
        plan().observe(replace(report, items=17))
