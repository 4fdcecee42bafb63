"""One run that is damaged or on a share that hangs stops neither the others nor what the keeper does about the PCs."""

import datetime
import json
import shutil
import threading
import time

import pytest

from cluster.inventory import Inventory, NodeSpec
from cluster.node.drain import Drained, drain_for, read_drained
from cluster.node.drain import Record as DrainRecord
from cluster.node.head import head_file, keep_inventory, state_folder
from cluster.node.processes import now
from jobs.queue import node_power
from jobs.queue.keeper import Found, Keeper, look
from jobs.queue.node_power import Memory
from jobs.queue.submit import submit_next
from jobs.queue.table import Ledger, Row
from jobs.recipe import Recipe, WorkersSpec
from jobs.runs.creation import create_run
from jobs.runs.folder import RunFolder
from tests.jobs.drivers import dies, drives
from tests.jobs.job_api import WithoutRay, keep_little
from tests.jobs.kept import QUICK, Kept, keeper_of, kept_with, waits_long
from tests.jobs.waiting import until
from vr_core.config import plain

cluster, run, kept = kept_with(QUICK)


def another(kept: Kept, cluster: WithoutRay, seed: int) -> RunFolder:
    """One more run whose job has failed."""
    recipe = Recipe(name="other", data=kept.run.recipe().data, out=kept.run.path.parent, steps=100, seed=seed)
    run = create_run(recipe.model_copy(update={"workers": WorkersSpec(count=1 + seed)}))
    keep_little(run)
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
        next((state_folder() / "runs").glob(f"{run.id}-*/recipe.yaml")).write_text("{"),
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
            hung.wait(30)
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


def test_a_driver_elsewhere_is_not_dead_because_nobody_could_look(kept, cluster):
    """It was silent for as long as the keeper could not see its folder."""
    waits_long(cluster, driver_silent_s=0.5)
    kept.fails()
    attempt = kept.run.begin_attempt()
    note = {"boot_id": "another PC's", "machine": "another PC", "pid": 1, "start_ticks": 1}
    (kept.run.attempt_folder(attempt) / "driver.json").write_text(json.dumps(note))
    kept.run.write_state(state="running", attempt=attempt, beat=1)
    kept.turn()
    away = kept.run.path.rename(kept.run.path.with_name("away"))
    time.sleep(0.6)
    kept.turn()
    away.rename(kept.run.path)
    kept.turn()
    assert list(kept.api.jobs) == [f"{kept.run.id}.a1"]


def test_owner_hours_are_looked_up_in_the_time_zone_of_the_day(kept, monkeypatch):
    """They begin in the zone that the PC is in now, not in that of the keeper's start."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    begin = datetime.datetime.now() - datetime.timedelta(hours=1)
    end = begin + datetime.timedelta(hours=2)
    home = NodeSpec(name="attic", address="192.168.1.10", role="head")
    study = NodeSpec(name="study", address="192.168.1.11", owner_hours=(f"{begin:%H:%M}-{end:%H:%M}",))
    keep_inventory(Inventory(nodes=(home, study)))
    try:
        kept.turn()
        assert read_drained() == DrainRecord()
        monkeypatch.setenv("TZ", "EAST-5")
        kept.turn()
        assert [node.name for node in read_drained().nodes] == ["study"]
    finally:
        monkeypatch.undo()
        time.tzset()


def test_what_cannot_be_done_about_one_pc_hinders_no_other(kept, monkeypatch):
    other_day = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")[(datetime.datetime.now().weekday() + 3) % 7]
    home = NodeSpec(name="attic", address="192.168.1.10", role="head")
    hours = (f"{other_day} 00:00-01:00",)
    shed = NodeSpec(name="shed", address="192.168.1.11", owner_hours=hours)
    study = NodeSpec(name="study", address="192.168.1.12", owner_hours=hours)
    keep_inventory(Inventory(nodes=(home, shed, study)))
    acts = node_power.act

    def act(action, *more):
        if node_power.about(action) == "drain shed":
            raise OSError(28, "No space left on device")
        return acts(action, *more)

    monkeypatch.setattr(node_power, "act", act)
    kept.turn()
    assert [node.name for node in read_drained().nodes] == ["study"]
    assert "No space left" in kept.complaints["drain shed"]
