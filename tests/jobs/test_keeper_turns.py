"""Turns of the keeper beside a head without Ray: what it does about a submitted run, whatever becomes of its jobs."""

import datetime
import json
import shutil
import sqlite3
import threading
import time
from typing import Any

import pytest

from cluster.inventory import Inventory, NodeSpec
from cluster.node.drain import Drained, drain_for, read_drained
from cluster.node.drain import Record as DrainRecord
from cluster.node.head import head_file, keep_inventory, state_folder, write_member
from cluster.node.processes import now
from cluster.node.token import read_token
from cluster.timings import Timings
from jobs.errors import JobUnknown
from jobs.execution.retry import ATTEMPTS_WITHOUT_PROGRESS
from jobs.queue.keeper import Found, Keeper, look
from jobs.queue.node_power import Memory
from jobs.queue.submit import submit_next
from jobs.queue.table import Claim, Ledger, Row
from jobs.recipe import Recipe, WorkersSpec
from jobs.runs.creation import create_run
from jobs.runs.folder import RunFolder
from tests.jobs.drivers import dies, drives
from tests.jobs.job_api import WithoutRay, cluster_with, nearly_without_code
from tests.jobs.one_process import save
from tests.jobs.waiting import until
from vr_core.config import plain

QUICK = Timings(submitting_s=0.01, first_retry_s=0.01, beat_s=0.01, driver_silent_s=0.02)
"""Everything that the keeper waits for is over at its next turn."""


cluster = cluster_with(QUICK)


def waits_long(cluster: WithoutRay, **waits: float) -> None:
    """Let the keeper wait for what it waits for by default."""
    timings = QUICK.model_copy(update=waits)
    write_member(head_file(), cluster.head.model_copy(update={"timings": timings}))


@pytest.fixture
def run(cluster, tmp_path) -> RunFolder:
    """A run with next to no code."""
    return nearly_without_code(tmp_path)


def keeper_of(ledger: Ledger, **changes: Any) -> Keeper:
    """A new keeper, whose nodes know already that none of them is drained."""
    keeper = Keeper(ledger, ledger.take_fence(), **changes)
    keeper.memory = Memory(published=frozenset())
    return keeper


class Kept:
    """A run that was submitted, and turns of its keeper."""

    def __init__(self, cluster: WithoutRay, run: RunFolder) -> None:
        self.api, self.run, self.ledger = cluster.api, run, Ledger(state_folder())
        self.keeper = keeper_of(self.ledger)
        submit_next(cluster.head, run)

    @property
    def complaints(self) -> dict[str, str]:
        return self.keeper.complaints.said

    def turn(self) -> None:
        time.sleep(0.05)  # what is over at the next turn by QUICK
        self.keeper.turn()

    def jobs(self) -> list[str]:
        return [job.removeprefix(f"{self.run.id}.") for job in self.api.jobs]

    def row(self) -> Row:
        row = self.ledger.row(self.run.id)
        assert row is not None
        return row

    def fails(self) -> None:
        """The driver of the newest job dies, as Ray notices."""
        drives(self.run)
        dies(self.run)
        self.api.becomes(f"{self.run.id}.a{self.run.newest_attempt()}", "FAILED")


@pytest.fixture
def kept(cluster, run) -> Kept:
    return Kept(cluster, run)


def test_a_run_whose_driver_died_is_carried_by_another_job_with_the_same_code(kept):
    drives(kept.run)
    kept.api.becomes(f"{kept.run.id}.a1", "RUNNING")
    kept.turn()
    assert kept.jobs() == ["a1"]
    kept.fails()
    kept.turn()
    assert kept.jobs() == ["a1", "a2"]
    first, second = kept.api.jobs.values()
    assert second.entrypoint.endswith(f"-m jobs.execution.launch {kept.run.path} 2")
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


def another(kept: Kept, cluster: WithoutRay, seed: int) -> RunFolder:
    """One more run whose job has failed."""
    recipe = Recipe(name="other", data=kept.run.recipe().data, out=kept.run.path.parent, steps=100, seed=seed)
    run = create_run(recipe.model_copy(update={"workers": WorkersSpec(count=1 + seed)}))
    shutil.copytree(kept.run.path / "source", run.path / "source")
    submit_next(cluster.head, run)
    drives(run)
    dies(run)
    kept.api.becomes(f"{run.id}.a1", "FAILED")
    return run


class Listening(Keeper):
    """A keeper that notes what its PCs are looked after with."""

    wanted: list[int] | None = None

    def keep_machines(self, waiting) -> None:
        self.wanted = None if waiting is None else [workers.count for workers in waiting]


DAMAGES = {
    "cut": lambda run: run.state_file.write_text("{"),
    "bytes": lambda run: run.state_file.write_bytes(b"\xff\x00"),
    "deep": lambda run: run.state_file.write_text("[" * 100_000),
    "newer": lambda run: run.state_file.write_text(json.dumps({**plain(run.state()), "mood": "good"})),
    "a number": lambda run: run.state_file.write_text(json.dumps({**plain(run.state()), "step": -1})),
    "deleted": lambda run: shutil.rmtree(run.path),
    "a file": lambda run: (shutil.rmtree(run.path), run.path.touch()),
    "attempts": lambda run: (shutil.rmtree(run.attempts), run.attempts.touch()),
    "recipe": lambda run: (
        run.recipe_file.write_text("{"),
        run.write_state(state="pending", why="waits: no machine", waiting_for="machines"),
    ),
}


def test_runs_that_are_damaged_in_any_way_hinder_neither_another_nor_the_pcs(kept, cluster, caplog):
    damaged = {name: another(kept, cluster, seed) for seed, name in enumerate(DAMAGES)}
    waiting = another(kept, cluster, len(DAMAGES))
    waiting.write_state(state="pending", why="waits: no machine", waiting_for="machines")
    kept.fails()
    for name, damage in DAMAGES.items():
        damage(damaged[name])
    kept.keeper = keeper = Listening(kept.ledger, kept.ledger.take_fence())
    caplog.clear()
    kept.turn()
    assert f"{kept.run.id}.a2" in kept.api.jobs
    assert f"{waiting.id}.a2" in kept.api.jobs
    assert keeper.wanted == [1 + len(DAMAGES)]
    kept.turn()
    told = {name: [text for text in caplog.messages if text.startswith(f"{run.id}: ")] for name, run in damaged.items()}
    assert {name: len(texts) for name, texts in told.items()} == dict.fromkeys(DAMAGES, 1)


def test_a_share_that_hangs_hinders_neither_another_run_nor_the_pcs(kept, cluster, caplog):
    away, hung = another(kept, cluster, 0), threading.Event()
    kept.fails()

    def looks(row: Row) -> Found:
        if row.run == away.id:
            hung.wait()
        return look(row)

    keeper = Listening(kept.ledger, kept.ledger.take_fence(), look=looks, look_within_s=0.2)
    kept.keeper = keeper
    caplog.clear()
    kept.turn()
    until(lambda: kept.turn() or f"{kept.run.id}.a2" in kept.api.jobs)
    assert keeper.wanted == []
    assert "no answer in 0.2 s" in kept.complaints[away.id]
    assert sum(text.startswith(f"{away.id}: ") for text in caplog.messages) == 1
    hung.set()
    until(lambda: kept.turn() or f"{away.id}.a2" in kept.api.jobs)
    assert away.id not in kept.complaints


def test_a_job_list_that_is_missing_leaves_the_pcs_to_what_runs_wait_for(kept):
    kept.fails()
    kept.run.write_state(state="pending", why="waits: no machine", waiting_for="machines")
    kept.api.broken = frozenset({"GET /api/jobs/"})
    kept.keeper = keeper = Listening(kept.ledger, kept.ledger.take_fence())
    kept.turn()
    assert keeper.wanted == [1]
    assert "HTTP 500" in kept.complaints["jobs"]
    head_file().unlink()
    kept.turn()
    assert keeper.wanted is None, "nobody knows what may wait"


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


def away(until_s: float) -> Drained:
    return Drained(name="study", by="user", since_s=time.time(), until_s=until_s, leaves_s=time.time())


@pytest.mark.parametrize(("wrong_s", "over"), [(-1e6, False), (1e6, True)], ids=["set forward", "set back"])
def test_a_pc_that_was_drained_for_a_while_returns_by_the_clock_from_boot(cluster, wrong_s, over):
    at = now()
    drain_for(away(time.time() + wrong_s), 0.0 if over else 3600.0, at)
    keeper = keeper_of(Ledger(state_folder()))
    keeper.memory = Memory(published=frozenset({"study"}), published_s=at.since_boot_s)
    keeper.turn()
    assert (read_drained() == DrainRecord()) == over
    assert keeper.complaints.said == {}


def test_damaged_durations_leave_owner_hours_and_the_clock_to_tell(cluster):
    drain_for(away(time.time() - 1), 3600.0, now())
    (state_folder() / "drained-for.json").write_text("{")
    keeper = keeper_of(Ledger(state_folder()))
    keeper.memory = Memory(published=frozenset({"study"}), published_s=now().since_boot_s)
    keeper.turn()
    assert "drained-for.json: unreadable" in keeper.complaints.said["durations"]
    assert read_drained() == DrainRecord()


def test_owner_hours_go_on_beside_a_run_that_is_damaged(kept):
    other_day = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")[(datetime.datetime.now().weekday() + 3) % 7]
    home = NodeSpec(name="attic", address="192.168.1.10", role="head")
    study = NodeSpec(name="study", address="192.168.1.11", owner_hours=(f"{other_day} 00:00-01:00",))
    keep_inventory(Inventory(nodes=(home, study)))
    kept.run.state_file.write_text("{")
    kept.turn()
    assert [(node.name, node.by) for node in read_drained().nodes] == [("study", "hours")]
    assert "state.json is damaged" in kept.complaints[kept.run.id]
