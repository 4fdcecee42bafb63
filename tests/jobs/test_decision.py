"""What follows from a step: every case of it."""

import itertools

import pytest

from jobs.steps.decision import Decision, decide
from jobs.steps.step_report import StepReport


def after(step: int, every_steps: int | None = None, round_steps: int = 1, **facts: bool) -> Decision:
    """The decision after `step` of ten steps; wishes were told with the first step of the round."""
    reports = [StepReport(before, {"l1": 1.0}) for before in range(step - round_steps, step)]
    for wish in ("stop", "leave", "save", "save_here"):
        setattr(reports[0], wish, facts.pop(wish, False))
    known = {"excluded": False, "improved": False, "skipped": False, "local_steps": round_steps > 1}
    return decide(reports, 10, every_steps, **(known | facts))


def test_nothing_happens_after_most_steps() -> None:
    assert after(5) == Decision(None, None)


@pytest.mark.parametrize(
    ("facts", "end"),
    [
        ({}, "finished"),
        ({"stop": True}, "finished"),
        ({"leave": True, "excluded": True}, "finished"),
    ],
)
def test_the_last_step_finishes_the_run_whatever_was_wished(facts: dict[str, bool], end: str) -> None:
    assert after(10, **facts) == Decision("share", end)


def test_who_asks_for_an_end_gets_it_with_a_checkpoint_a_stop_before_all_others() -> None:
    for stop, excluded, leave in itertools.product((False, True), repeat=3):
        found = after(5, stop=stop, excluded=excluded, leave=leave, skipped=True)
        wanted = "stopped" if stop else "excluded" if excluded else "left" if leave else None
        assert found == Decision("share" if wanted else None, wanted)


@pytest.mark.parametrize(("step", "saves"), [(3, False), (4, True), (5, False), (8, True)])
def test_a_checkpoint_comes_every_so_many_steps(step: int, saves: bool) -> None:
    assert (after(step, every_steps=4).save == "share") == saves
    assert after(step, every_steps=4, skipped=True).save is None, "the last good one would be let go"


def test_a_round_of_steps_counts_those_in_it() -> None:
    assert after(9, every_steps=4, round_steps=2, skipped=True).save == "share", "8 is in it; each rank skips its own"
    assert after(7, every_steps=4, round_steps=2).save is None
    assert after(7, round_steps=2, save=True).save == "share", "told with the first of the round"


def test_a_copy_on_the_own_disk_is_made_where_the_share_gets_none() -> None:
    assert after(5, save_here=True).save == "own disk"
    assert after(5, save_here=True, skipped=True).save is None
    assert after(5, save_here=True, save=True).save == "share"
    assert after(5, improved=True, skipped=True).save == "share"
