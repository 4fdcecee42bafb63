"""The proof that each item of a step was computed once, and how ranks' reports become one."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dataprep.order import Item
from jobs.training.step_report import RankReport, StepReport, position_hash
from jobs.training.world import World

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


def expected(step: int) -> tuple[int, int]:
    return ITEMS, sum(position_hash(position) for position in range(step * ITEMS, (step + 1) * ITEMS))


def test_reports_of_ranks_add_up_to_the_step_s() -> None:
    report = of_ranks(3, [[48, 49, 50], list(range(51, 60)), list(range(60, 64))], stop=True, save_here=True)
    assert report.losses == {"l1": 1.0, "phase": 2.0}
    assert report.loss == 3.0
    assert report.busy_s == [0.5, 1.5, 2.5]
    assert (report.items, report.positions) == expected(3)
    assert (report.stop, report.leave, report.save, report.save_here) == (True, False, False, True)


@pytest.mark.parametrize(
    "positions",
    [
        [[0, 0, *range(1, 6)], list(range(6, 16)), []],  # item 0 twice: a sum of positions is the same
        [list(range(1, 6)), list(range(6, 16)), []],  # item 0 missing
        [[0, 3], [3, *range(4, 16)], []],  # 1 and 2 for one 3: the sum is the same
        [[*range(16)], [0], []],
    ],
)
def test_a_wrong_cut_is_found_though_the_sum_of_positions_may_be_right(positions: list[list[int]]) -> None:
    report = of_ranks(0, [of_rank for of_rank in positions if of_rank])
    assert (report.items, report.positions) != expected(0)


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=40), st.data())
def test_other_positions_have_another_sum_of_hashes(positions: list[int], data: st.DataObject) -> None:
    other = data.draw(st.lists(st.integers(0, 2**40), min_size=len(positions), max_size=len(positions)))
    same = sorted(positions) == sorted(other)
    assert (sum(map(position_hash, positions)) == sum(map(position_hash, other))) == same


def test_who_speaks_for_no_item_adds_nothing_but_its_time() -> None:
    report = RankReport(0, World(1, 2, CPU), ITEMS)
    report.add({"l1": torch.ones(3)}, [Item(position, 0, 8, ()) for position in range(3)])
    assert report.loss == 3 / 16
    report.computed(2.0)
    report.count_nothing()
    assert report.vector().tolist() == [0.0, 0, 0, 0, 0, 0, 0, 0.0, 2.0]
