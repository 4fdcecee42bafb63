"""Which groups are prepared once more when a PC that prepares is gone, and what counts as a loss."""

import pytest

from dataprep.audio.tracks import Track
from dataprep.errors import WorkerError
from dataprep.preparing.group import GroupPlan
from jobs.prepare_on_nodes import TRIES, Attempt, given_up, take_back

STUDY, DEN = "id of study", "id of den"


def attempt(name, losses=0):
    return Attempt(GroupPlan(name=name, songs=()), [Track("song", {})], losses).renamed()


def test_a_group_that_had_begun_on_a_pc_that_is_gone_counts_a_loss():
    one, other = attempt("one"), attempt("other", losses=1)
    begun_on = {one.name: STUDY, other.name: STUDY}
    again = given_up({"ref 1": one, "ref 2": other}, begun_on, {STUDY})
    assert {ref: (a.plan, a.losses) for ref, a in again.items()} == {"ref 1": (one.plan, 1), "ref 2": (other.plan, 2)}


def test_a_group_at_work_on_another_pc_is_left_alone():
    one = attempt("one")
    assert given_up({"ref": one}, {one.name: DEN}, {STUDY}) == {}


def test_a_queued_group_is_queued_anew_without_a_loss_however_often_pcs_go():
    queued = attempt("queued", losses=TRIES - 1)
    for number in range(2 * TRIES):
        (queued,) = given_up({"ref": queued.renamed()}, {}, {f"{STUDY} {number}"}).values()
    assert queued.losses == TRIES - 1


def test_the_last_loss_ends_the_preparation():
    one = attempt("one")
    for _ in range(TRIES - 1):
        (one,) = given_up({"ref": one}, {one.name: STUDY}, {STUDY}).values()
        one = one.renamed()
    with pytest.raises(WorkerError, match=rf"lost {TRIES} times: its PC went silent"):
        given_up({"ref": one}, {one.name: STUDY}, {STUDY})


def test_no_two_attempts_at_a_group_have_one_name():
    one = attempt("one")
    assert one.renamed().name != one.name
    assert one.renamed().plan.name == "one"


def test_what_is_queued_anew_is_cancelled_and_what_goes_on_is_not():
    lost, queued, busy = attempt("lost"), attempt("queued"), attempt("busy")
    running, cancelled = {1: lost, 2: queued, 3: busy}, []
    again = take_back(running, {lost.name: STUDY, busy.name: DEN}, {STUDY}, cancelled.append)
    assert sorted(one.plan.name for one in again) == ["lost", "queued"]
    assert (sorted(cancelled), running) == ([1, 2], {3: busy})
