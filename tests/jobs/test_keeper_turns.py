"""Turns of the keeper beside a head without Ray: what it does about a submitted run, whatever becomes of its jobs."""

import json
import sqlite3
import time

import pytest

from cluster.node.head import head_file, state_folder
from cluster.trust.token import read_token
from jobs.errors import JobUnknown
from jobs.execution.retry import ATTEMPTS_WITHOUT_PROGRESS
from jobs.queue.submit import submit_next
from jobs.queue.table import Claim, Ledger, Row
from tests.jobs.drivers import dies, drives
from tests.jobs.kept import QUICK, keeper_of, kept_with, waits_long
from tests.jobs.one_process import save
from vr_core.config import plain

cluster, run, kept = kept_with(QUICK)


def test_a_run_whose_driver_died_is_carried_by_another_job_with_the_same_code(kept):
    drives(kept.run)
    kept.api.becomes(f"{kept.run.id}.a1", "RUNNING")
    kept.turn()
    assert kept.jobs() == ["a1"]
    kept.fails()
    kept.turn()
    assert kept.jobs() == ["a1", "a2"]
    first, second = kept.api.jobs.values()
    assert f"-m jobs.execution.launch {kept.run.path} 2 --recipe " in second.entrypoint
    assert second.runtime_env == first.runtime_env
    assert second.status == "PENDING"
    assert (kept.row().submission, kept.row().attempt, kept.row().idle) == (f"{kept.run.id}.a2", 2, 1)
    assert kept.run.state().why == "submitted"
    kept.turn()
    assert kept.jobs() == ["a1", "a2"], "its job waits for a driver"
    assert kept.complaints == {}


def test_jobs_that_bring_no_checkpoint_end_the_run_and_one_forgives(kept):
    kept.fails()
    kept.turn()
    save(kept.run, 1)
    for _ in range(ATTEMPTS_WITHOUT_PROGRESS):
        kept.fails()
        kept.turn()
    assert kept.row().idle == ATTEMPTS_WITHOUT_PROGRESS - 1
    kept.fails()
    kept.turn()
    assert kept.jobs() == ["a1", "a2", "a3", "a4", "a5"], "two without a checkpoint, and three from it"
    assert kept.run.state().state == "failed"
    assert "3 jobs in a row ended without a new checkpoint" in kept.run.state().why
    assert not kept.row().open


def test_a_run_waits_before_it_is_submitted_again(kept, cluster):
    waits_long(cluster, first_retry_s=30.0, longest_retry_s=60.0)
    kept.fails()
    kept.turn()
    assert kept.jobs() == ["a1"]
    waits_long(cluster)
    kept.turn()
    assert kept.jobs() == ["a1", "a2"]


def test_a_job_that_the_head_has_forgotten_is_submitted_again_and_counts_for_nothing(kept):
    drives(kept.run)
    dies(kept.run)
    kept.api.jobs.clear()  # a head that was started again without its store
    kept.turn()
    assert kept.jobs() == ["a2"]
    assert kept.row().idle == 0


def test_a_row_without_a_job_yet_is_being_submitted_by_somebody(kept, cluster):
    waits_long(cluster, submitting_s=30.0)
    kept.api.jobs.clear()
    kept.turn()
    assert kept.jobs() == []
    waits_long(cluster)
    kept.turn()
    assert kept.jobs() == ["a2"], "whoever wrote the row has died"


def test_what_the_user_stopped_is_stopped_by_its_job_and_never_submitted_again(kept):
    drives(kept.run)
    kept.api.becomes(f"{kept.run.id}.a1", "RUNNING")
    kept.ledger.want_stopped(kept.run.id)
    kept.api.on_stop = lambda job: None
    kept.turn()
    assert kept.api.stopped == [f"{kept.run.id}.a1"]
    kept.api.becomes(f"{kept.run.id}.a1", "STOPPED")
    kept.turn()
    assert kept.run.state().state == "running", "its driver is still there"
    dies(kept.run)
    kept.turn()
    assert (kept.run.state().state, kept.run.state().why) == ("stopped", "stopped by the user")
    assert not kept.row().open
    kept.turn()
    assert kept.jobs() == ["a1"]


def test_a_run_that_is_stopped_while_the_keeper_asks_for_jobs_is_not_submitted_again(kept):
    kept.fails()
    kept.api.on_list = lambda: kept.ledger.want_stopped(kept.run.id)
    kept.turn()
    assert kept.jobs() == ["a1"]
    assert kept.row().wanted == "stopped"


def test_a_job_that_was_stopped_through_ray_ends_its_run(kept):
    kept.fails()
    kept.api.becomes(f"{kept.run.id}.a1", "STOPPED")
    kept.turn()
    assert (kept.run.state().state, kept.run.state().why) == ("stopped", "its job was stopped through Ray")
    assert kept.jobs() == ["a1"]


@pytest.mark.parametrize("state", ["finished", "failed", "stopped"])
def test_a_run_that_has_ended_is_forgotten(kept, state):
    kept.fails()
    kept.run.write_state(state=state, why="said so")
    kept.turn()
    assert not kept.row().open
    assert kept.run.state().why == "said so"
    asked = len(kept.api.requests)
    kept.turn()
    assert len(kept.api.requests) == asked, "nobody is asked about no run"


@pytest.mark.parametrize("broken", ["list", "token", "version", "gone"])
def test_a_head_that_does_not_answer_is_said_once_and_nothing_is_done_until_it_does(kept, cluster, caplog, broken):
    kept.fails()
    record = head_file().read_text()
    if broken == "token":
        kept.api.token = "b" * 64
    elif broken == "gone":
        head_file().unlink()
    else:
        kept.api.broken = frozenset({"GET /api/jobs/" if broken == "list" else "GET /api/version"})
    said = {"list": "HTTP 500", "version": "HTTP 500", "token": "does not accept this token", "gone": "no Ray head"}
    for _ in range(2):
        kept.turn()
    assert said[broken] in kept.complaints["jobs" if broken == "list" else "runs"]
    assert len(caplog.messages) == 1
    assert kept.jobs() == ["a1"]
    assert kept.run.state().state == "running"
    kept.api.broken, kept.api.token = frozenset(), read_token(cluster.head.token_file)
    head_file().write_text(record)
    kept.turn()
    assert kept.complaints == {}
    assert kept.jobs() == ["a1", "a2"]


def test_a_head_that_takes_no_job_is_asked_again(kept):
    kept.fails()
    kept.api.broken = frozenset({"POST /api/jobs/"})
    kept.turn()
    assert "the head did not take the job" in kept.complaints[kept.run.id]
    assert kept.run.state().state == "pending"
    assert kept.row().open
    kept.api.broken = frozenset()
    kept.turn()
    assert kept.jobs() == ["a1", "a3"]


def test_a_job_that_was_taken_without_an_answer_is_not_submitted_twice(kept):
    kept.fails()
    kept.api.closes_after_submit = True
    kept.turn()
    assert kept.complaints == {}
    kept.api.closes_after_submit = False
    kept.turn()
    assert kept.jobs() == ["a1", "a2"]
    assert kept.complaints == {}
    assert kept.row().submission == f"{kept.run.id}.a2"


def test_a_clock_that_was_set_back_or_forward_changes_nothing(kept):
    kept.fails()
    for wrong_s in (1e9, -1e9):
        with sqlite3.connect(state_folder() / "runs.sqlite") as connection:
            connection.execute("update runs set updated_s = ?, created_s = ?", (time.time() + wrong_s,) * 2)
        connection.close()
        kept.run.state_file.write_text(
            json.dumps({**plain(kept.run.state()), "updated_s": time.time() + wrong_s})
        )  # fmt: skip
        kept.turn()
        kept.turn()
        assert kept.jobs() == ["a1", "a2"]


def test_a_driver_that_is_gone_with_an_earlier_boot_is_not_listened_for(kept, cluster):
    waits_long(cluster, driver_silent_s=60.0)
    kept.fails()
    file = kept.run.attempt_folder(1) / "driver.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "boot_id": "an earlier boot", "machine": ""}))
    kept.turn()
    assert kept.jobs() == ["a1", "a2"]


def test_a_driver_elsewhere_is_listened_for_and_left_alone_while_it_counts(kept, cluster):
    waits_long(cluster, driver_silent_s=60.0)
    kept.fails()
    attempt = kept.run.begin_attempt()  # `vr jobs resume --here` on another PC
    note = {"boot_id": "another PC's", "machine": "another PC", "pid": 1, "start_ticks": 1}
    (kept.run.attempt_folder(attempt) / "driver.json").write_text(json.dumps(note))
    for beat in (1, 2, 2):
        kept.run.write_state(state="running", attempt=attempt, beat=beat)
        kept.turn()
    assert kept.jobs() == ["a1"]
    waits_long(cluster)
    kept.turn()
    assert kept.jobs() == ["a1", "a3"], "it was silent for longer than a driver may be"


class Between(Ledger):
    """Something happens between each claim and what its owner does."""

    def __init__(self, happens) -> None:
        super().__init__(state_folder())
        self.happens = happens

    def claim(self, row: Row, fence: int) -> Claim | None:
        claim = super().claim(row, fence)
        self.happens()
        return claim


def test_a_stop_that_is_wished_between_claim_and_submission_is_kept(kept):
    def stops() -> None:
        kept.ledger.want_stopped(kept.run.id)
        kept.run.stop_file.touch()

    kept.fails()
    kept.keeper = keeper_of(Between(stops))
    kept.turn()
    assert kept.jobs() == ["a1"]
    assert kept.row().wanted == "stopped"
    assert kept.run.newest_attempt() == 1, "nobody waits for a driver that does not come"
    kept.keeper = keeper_of(kept.ledger)
    kept.turn()
    assert (kept.run.state().state, kept.run.state().why) == ("stopped", "stopped by the user")
    assert not kept.row().open
    assert kept.jobs() == ["a1"]


def test_a_stop_that_another_pc_wishes_between_claim_and_submission_reaches_the_driver(kept):
    kept.fails()
    kept.keeper = keeper_of(Between(kept.run.stop_file.touch))
    kept.turn()
    assert kept.jobs() == ["a1", "a2"]
    assert kept.run.stop_file.exists(), "its driver reads it before it starts anything"


def test_a_run_that_another_pc_wants_stopped_is_not_submitted_again(kept):
    kept.fails()
    kept.run.stop_file.touch()
    kept.turn()
    assert kept.jobs() == ["a1"]
    assert kept.run.state().state == "stopped"


def test_an_attempt_that_somebody_else_has_taken_is_theirs(kept):
    kept.fails()
    kept.keeper = keeper_of(Between(lambda: kept.run.begin_attempt()))
    kept.turn()
    assert kept.jobs() == ["a1"]
    assert kept.run.newest_attempt() == 2, "a third one would end theirs"


def test_a_keeper_that_is_not_the_newest_submits_nothing(kept):
    kept.fails()
    newer = keeper_of(kept.ledger)
    kept.turn()
    assert kept.jobs() == ["a1"]
    assert not kept.keeper.is_newest()
    kept.keeper = newer
    kept.turn()
    assert kept.jobs() == ["a1", "a2"]


def test_a_job_that_nobody_could_be_asked_about_is_found_later_and_not_submitted_twice(cluster, run):
    cluster.api.closes_after_submit, cluster.api.broken = True, frozenset({"GET /api/jobs/"})
    with pytest.raises(JobUnknown):
        submit_next(cluster.head, run)
    cluster.api.closes_after_submit, cluster.api.broken = False, frozenset()
    ledger = Ledger(state_folder())
    for _ in range(3):
        keeper_of(ledger).turn()
    assert list(cluster.api.jobs) == [f"{run.id}.a1"]
    assert ledger.row(run.id).open
