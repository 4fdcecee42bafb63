"""Who waits for a run, or for the cluster's PCs, waits by the cluster's `Timings`, which is given to it.

Each is tried with two of them, of which no value is the same: the default, and all of it three times as long. The clock
is the test's own.
"""

import datetime
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from cluster.facts import look as look_here
from cluster.inventory import Inventory, NodeSpec
from cluster.node.drain import Drained
from cluster.node.drain import Record as DrainRecord
from cluster.node.head import Head, head_file, write_member
from cluster.node.processes import Now, ProcessRef
from cluster.node.ray_start import Ports, node_start
from cluster.timings import DEFAULT_TIMINGS, Timings
from jobs.errors import RunExists, RunFailed
from jobs.execution import retry
from jobs.execution.heartbeat import Heartbeat
from jobs.execution.membership import ClusterView, Membership
from jobs.execution.placement import Node
from jobs.execution.retry import ATTEMPTS_WITHOUT_STORAGE, Failed, Retry
from jobs.execution.supervisor import Supervisor
from jobs.queue import node_power as machines
from jobs.queue.client import stop_run
from jobs.queue.keeper import Keeper, keep
from jobs.queue.policy import Seen, Submit, Wait, decide
from jobs.queue.submit import job_environment
from jobs.queue.table import Ledger, Row
from jobs.recipe import Recipe, WorkersSpec
from jobs.runs.creation import create_run
from jobs.runs.folder import RunFolder
from jobs.runs.liveness import Listener, require_resumable, write_driver
from jobs.runs.state import RunState
from jobs.runs.state_writer import Record
from tests.jobs.one_process import Act, OneProcess, Start, fails, finishes, hangs, waits
from tests.jobs.ports import listening
from vr_core.config import plain, validate
from vr_core.files import write_json

TREBLE = Timings(**{name: 3 * value for name, value in plain(DEFAULT_TIMINGS).items()})
NOW_S = 10_000.0
EPSILON_S = 0.01


@pytest.fixture(params=[DEFAULT_TIMINGS, TREBLE], ids=["default", "treble"])
def timings(request) -> Timings:
    return request.param


@pytest.fixture
def run(tmp_path, monkeypatch) -> RunFolder:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "data").mkdir()
    return create_run(Recipe(name="line", data=tmp_path / "data", out=tmp_path / "runs", steps=4))


@pytest.fixture
def head(run, tmp_path, timings) -> Head:
    """The record of a head that has died."""
    ref = ProcessRef(name="ray", pid=1, start_ticks=0, boot_id="", log=tmp_path / "log")
    node = node_start(look_here(), port_base=0)
    head = Head(
        id="x", node=node, ports=Ports(), token_file=tmp_path / "t", temp_dir=tmp_path, processes=(ref,),
        timings=timings,
    )  # fmt: skip
    write_member(head_file(), head)
    return head


class Ticking:
    """A clock that is so much later each time that it is looked at."""

    def __init__(self, tick_s: float) -> None:
        self.at_s, self._tick_s = NOW_S, tick_s

    def now_s(self) -> float:
        self.at_s += self._tick_s
        return self.at_s


class Noting(threading.Event):
    """An event whose waits end at once, the last of `count` with it set; they are noted."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.waits_s: list[float | None] = []
        self._count = count

    def wait(self, timeout: float | None = None) -> bool:
        self.waits_s.append(timeout)
        if len(self.waits_s) == self._count:
            self.set()
        return self.is_set()


# The keeper.


def test_the_keeper_looks_every_keeper_turn_s(head, timings):
    end = Noting(3)
    ledger = Ledger(head_file().parent)
    keep(Keeper(ledger, ledger.take_fence()), end)
    assert end.waits_s == [timings.keeper_turn_s] * 3


def row(**changes: Any) -> Row:
    values = {"run": "r", "folder": "/r", "attempt": 1, "submission": "r.a1", "step": 10, "idle": 0}
    more = {"wanted": "running", "open": 1, "version": 1, "boot_id": "this", "since_boot_s": NOW_S}
    return Row(**{**values, **more, **changes})


def seen(job: str | None) -> Seen:
    return Seen(RunState(state="running", steps=100), job, step=10, driver="dead")


def test_the_keeper_waits_submitting_s_for_a_job_that_is_missing(timings):
    end_s = NOW_S + timings.submitting_s
    assert decide(row(), seen(None), Now("this", end_s - EPSILON_S), timings) == Wait()
    assert decide(row(), seen(None), Now("this", end_s), timings) == Submit(2, 0)


@pytest.mark.parametrize(("idle", "times"), [(0, 1), (1, 2)])
def test_the_keeper_submits_a_job_that_failed_after_first_retry_s_and_then_twice_of_it(timings, idle, times):
    end_s = NOW_S + times * timings.first_retry_s
    assert decide(row(idle=idle), seen("FAILED"), Now("this", end_s - EPSILON_S), timings) == Wait()
    assert decide(row(idle=idle), seen("FAILED"), Now("this", end_s), timings) == Submit(2, idle + 1)


def test_a_failed_run_pauses_for_first_retry_s_and_at_most_longest_retry_s(timings):
    away = [Failed(5, "the share failed", storage=True)] * (ATTEMPTS_WITHOUT_STORAGE - 1)
    assert retry.decide(away[:1], 5, timings) == Retry(timings.first_retry_s)
    assert retry.decide(away[:2], 5, timings) == Retry(2 * timings.first_retry_s)
    assert retry.decide(away, 5, timings) == Retry(timings.longest_retry_s)


# What the keeper does about PCs.

STUDY = NodeSpec(name="study", address="192.168.1.11", mac="00:11:22:33:44:55")
HOME = Inventory(nodes=(NodeSpec(name="attic", address="192.168.1.10", role="head"), STUDY))
NOW = datetime.datetime.fromtimestamp(NOW_S)


def there(name: str, is_head: bool = False) -> machines.Seen:
    return machines.Seen(name, f"id-{name}", True, is_head, False, {"vr/node": name}, 1, 0)


def actions(timings: Timings, record: DrainRecord, now_s: float, *, inventory=HOME, waiting=(), **memory: Any):
    nodes = [there("attic", is_head=True), *([there("study")] if record.nodes else [])]
    known = machines.noted(machines.Memory(**memory), record, nodes, now_s)
    return machines.decide(inventory, record, nodes, list(waiting), known, NOW, now_s, timings)


def test_a_pc_is_woken_again_after_wake_again_s(timings):
    big, none = WorkersSpec(cpus=2), {"published": frozenset(), "woken_s": {"study": NOW_S}}
    end_s = NOW_S + timings.wake_again_s
    assert actions(timings, DrainRecord(), end_s - EPSILON_S, waiting=[big], **none) == []
    assert actions(timings, DrainRecord(), end_s, waiting=[big], **none) == [machines.Wake(STUDY)]


def drained(leaves_s: float) -> DrainRecord:
    return DrainRecord(nodes=(Drained(name="study", by="user", since_s=NOW_S, leaves_s=leaves_s),))


def test_who_is_drained_is_told_again_after_publish_again_s(timings):
    told = {"published": frozenset({"study"}), "published_s": NOW_S, "asked": frozenset({"id-study"})}
    end_s = NOW_S + timings.publish_again_s
    assert actions(timings, drained(NOW_S), end_s - EPSILON_S, **told) == []
    assert actions(timings, drained(NOW_S), end_s, **told) == [machines.Publish(frozenset({"study"}))]


def test_a_drained_node_has_leave_within_s_and_its_processes_least_notice_s(timings):
    asleep = STUDY.model_copy(update={"owner_hours": ("mon 00:00-00:01",)})
    assert NOW.weekday() != 0
    home = Inventory(nodes=(HOME.nodes[0], asleep))
    [drain] = actions(timings, DrainRecord(), NOW_S, inventory=home, published=frozenset())
    assert drain.node.leaves_s == NOW_S + timings.leave_within_s
    by_user = machines.drained_node("study", None, "user", NOW_S, None, timings)
    assert by_user.leaves_s == NOW_S + timings.leave_within_s
    told = {"published": frozenset({"study"}), "published_s": NOW_S}
    [leave] = actions(timings, drained(NOW_S), NOW_S, **told)
    assert leave.within_s == timings.leave_within_s
    since = {("study", NOW_S): NOW_S - timings.leave_within_s}
    [late] = actions(timings, drained(NOW_S), NOW_S, **told, drained_since_s=since)
    assert late.within_s == timings.least_notice_s


# Who carries a run, and who stops it.


def test_a_driver_elsewhere_is_taken_for_dead_after_driver_silent_s(run, timings):
    attempt = run.begin_attempt()
    write_json(run.attempt_folder(attempt) / "driver.json", {"boot_id": "another PC's", "pid": 1, "start_ticks": 0})
    state = run.write_state(state="running", attempt=attempt, beat=1)
    silent_s = timings.driver_silent_s
    for count in (1, 2):
        moments = iter([NOW_S - 1, NOW_S, NOW_S + silent_s - EPSILON_S, NOW_S + silent_s])
        watch = Listener(lambda moments=moments: next(moments))
        watch.look(run, state.model_copy(update={"beat": 3}), silent_s)
        heard = [watch.look(run, state.model_copy(update={"beat": count}), silent_s) for _ in range(3)]
        assert heard == ["alive", "alive", "dead"]

    ticking = Ticking(silent_s / 8)

    def heard_of(seconds: float) -> None:
        run.write_state(beat=run.state().beat + 1)

    with pytest.raises(RunExists, match="running already"):
        require_resumable(run, silent_s, Listener(ticking.now_s, heard_of))
    began_s = ticking.at_s
    require_resumable(run, silent_s, Listener(ticking.now_s, lambda seconds: None))
    assert ticking.at_s - began_s == pytest.approx(9 * silent_s / 8)


@pytest.mark.parametrize(("within_s", "said"), [(40.0, "40"), (120.0, "120"), (0.5, "1"), (1.2, "2")])
def test_ray_ends_a_stopped_job_by_force_after_stop_job_within_s(within_s, said):
    changed = DEFAULT_TIMINGS.model_copy(update={"stop_job_within_s": within_s})
    assert job_environment(changed)["RAY_JOB_STOP_WAIT_TIME_S"] == said


def test_a_run_that_does_not_stop_is_given_stopped_within_s(run, head, timings):
    attempt = run.begin_attempt()
    write_driver(run, attempt)
    run.write_state(state="running", attempt=attempt)
    clock = Ticking(timings.stopped_within_s / 2)
    with pytest.raises(RunFailed, match="attempt 1 does not react"):
        stop_run(run, head, clock.now_s)
    assert 1 <= (clock.at_s - NOW_S) / timings.stopped_within_s <= 2


# What a supervisor tells, on storage that is away.


class Away(RunFolder):
    """A run's folder whose state cannot be written any more once `away` is set."""

    away = False

    def write_state(self, **changes: object) -> RunState:
        if self.away:
            raise OSError(107, "Transport endpoint is not connected")
        return super().write_state(**changes)


def test_an_end_that_cannot_be_written_is_tried_every_storage_again_s_for_tell_for_s(run, timings):
    away, slept_s = Away(run.path), []
    record = Record(away, 1, lambda state: None, timings, sleep=slept_s.append, now_s=lambda: sum(slept_s))
    record.write(state="running")
    away.away = True
    with pytest.raises(OSError, match="not connected"):
        record.write(state="finished")
    assert {*slept_s} == {timings.storage_again_s}
    assert timings.tell_for_s < sum(slept_s) <= timings.tell_for_s + timings.storage_again_s


def test_a_folder_that_is_away_is_looked_for_every_storage_again_s(run, timings):
    run.path.rename(run.path.with_name("away"))
    stop = Noting(3)
    Record(run, 1, lambda state: None, timings).await_folder(stop)
    assert stop.waits_s == [timings.storage_again_s] * 3


# Who answers, who joins.


def pc(name: str, port: int = 0) -> Node:
    return Node(name, {"vr/node": name}, 4, 0, f"id-{name}", "127.0.0.1", port)


def test_a_pc_is_asked_every_ask_every_s_for_answer_within_s_and_lost_after_silent_s(timings):
    asked, end, at_s = [], Noting(3), [NOW_S]

    def ask(*arguments: Any) -> bool:
        asked.append(arguments)
        return False

    with Heartbeat([pc("study", 7)], timings, ask=ask, now_s=lambda: at_s[0], end=end) as heartbeat:
        threading.Event.wait(end, 60)
        at_s[0] = NOW_S + timings.silent_s
        assert heartbeat.unresponsive() == []
        at_s[0] += EPSILON_S
        assert heartbeat.unresponsive() == ["study"]
    assert asked == [("127.0.0.1", 7, timings.answer_within_s)] * 3
    assert end.waits_s == [timings.ask_every_s] * 3


def test_a_pc_joins_after_join_after_s_and_rest_s(run, timings):
    clock, nodes = [NOW_S], [pc("here")]
    recipe = validate(Recipe, {"name": "demo", "steps": 9, "nodes": {}}, "demo")
    membership = Membership(recipe, True, timings, ClusterView(lambda: list(nodes), lambda: "", lambda: clock[0]))
    now = membership.place(None)
    nodes.append(pc("study"))
    membership.place(None)
    clock[0] = NOW_S + timings.join_after_s - EPSILON_S
    assert membership.joining(now, 0.0) == []
    clock[0] = NOW_S + timings.join_after_s
    assert membership.joining(now, 0.0) == ["study"]
    clock[0] = NOW_S + timings.rest_s - EPSILON_S
    assert membership.joining(now, NOW_S) == []
    clock[0] = NOW_S + timings.rest_s
    assert membership.joining(now, NOW_S) == ["study"]


# A supervisor: a wait lasts from its value to twice of it, since its clock goes by a part of the wait at a time.


class Attempt:
    """An attempt of `run` whose clock goes by `tick_s` at each look."""

    def __init__(self, run: RunFolder, timings: Timings, tick_s: float, *acts: Act, **wish: Any) -> None:
        self.clock, self.nodes = Ticking(tick_s), [pc("here")]
        self.looked_s: list[float] = []
        """When it looked for machines."""
        self.ended_s = 0.0
        """When it first ended workers."""
        self.shown: list[tuple[float, RunState]] = []
        self.on_state: Callable[[RunState], None] = lambda state: None
        self.workers = OneProcess(*acts)
        recipe = validate(Recipe, {**plain(run.recipe()), **wish}, "test")
        self._supervisor = Supervisor(
            run, recipe, run.begin_attempt(), "", True, self._watch, timings,
            replace(self.workers.fits, end=self._end), ClusterView(self._look, lambda: "id-here", self.clock.now_s),
        )  # fmt: skip

    def _look(self) -> list[Node]:
        self.looked_s.append(self.clock.at_s)
        return list(self.nodes)

    def _end(self) -> None:
        self.ended_s = self.ended_s or self.clock.at_s
        self.workers.fits.end()

    def _watch(self, state: RunState) -> None:
        self.shown.append((self.clock.at_s, state))
        self.on_state(state)

    def supervise(self) -> RunState:
        try:
            return self._supervisor.supervise()
        finally:
            self.workers.end_all()

    def first_s(self, why: str, state: str = "pending") -> float:
        """When a state was first told whose reason begins so."""
        return next(at_s for at_s, told in self.shown if told.state == state and told.why.startswith(why))


def test_a_waiting_run_looks_for_machines_every_beat_s(run, timings):
    attempt = Attempt(run, timings, timings.beat_s / 8, finishes)
    attempt.nodes = []
    attempt.on_state = lambda state: run.stop_file.touch() if len(attempt.looked_s) == 3 else None
    assert attempt.supervise().state == "stopped"
    first_s, second_s, third_s = attempt.looked_s
    assert timings.beat_s <= second_s - first_s < 2 * timings.beat_s
    assert timings.beat_s <= third_s - second_s < 2 * timings.beat_s


def test_the_state_of_a_running_run_is_written_every_beat_s(run, timings):
    attempt = Attempt(run, timings, timings.beat_s / 8, waits)

    def beats() -> list[float]:
        return [at_s for at_s, state in attempt.shown if state.state == "running"]

    attempt.on_state = lambda state: run.stop_file.touch() if len(beats()) == 3 else None
    assert attempt.supervise().state == "stopped"
    first_s, second_s, third_s = beats()[:3]
    # It may be told some ticks after it was due.
    assert timings.beat_s / 2 < second_s - first_s < 2 * timings.beat_s
    assert timings.beat_s / 2 < third_s - second_s < 2 * timings.beat_s


def test_a_run_starts_again_first_retry_s_after_a_failure(run, timings):
    attempt = Attempt(run, timings, timings.first_retry_s / 8, fails(RuntimeError("no")), finishes)
    assert attempt.supervise().state == "finished"
    failed_s = attempt.first_s("starts again after: RuntimeError")
    waited_s = next(at_s for at_s in attempt.looked_s if at_s > failed_s) - failed_s
    assert timings.first_retry_s <= waited_s < 2 * timings.first_retry_s


def test_workers_that_were_ended_have_end_within_s(run, timings):
    gone = threading.Event()

    def stuck(start: Start) -> dict[str, Any]:
        start.announce("here")
        gone.wait(60)
        return {}

    attempt = Attempt(
        run, timings, timings.end_within_s / 8, stuck, finishes, workers={"hung_after_s": timings.end_within_s}
    )
    assert attempt.supervise().state == "finished"
    gone.set()
    waited_s = attempt.first_s("starts again after: no step") - attempt.ended_s
    assert timings.end_within_s <= waited_s < 2 * timings.end_within_s


def test_the_workers_of_a_stopped_run_have_stop_within_s(run, timings):
    attempt = Attempt(run, timings, timings.stop_within_s / 8, hangs)
    attempt.on_state = lambda state: run.stop_file.touch() if state.state == "running" else None
    assert attempt.supervise().state == "stopped"
    waited_s = attempt.first_s("stopped", "stopped") - attempt.first_s("", "running")
    assert timings.stop_within_s <= waited_s < 2 * timings.stop_within_s


def test_a_run_rests_for_rest_s_before_it_starts_again_with_more_pcs(run, timings):
    with listening() as (port, _):
        attempt = Attempt(run, timings, timings.rest_s / 32, waits, finishes, nodes={})

        def comes(state: RunState) -> None:
            if state.state == "running":
                attempt.nodes = [pc("here"), pc("study", port)]

        attempt.on_state = comes
        assert attempt.supervise().state == "finished"
    waited_s = attempt.first_s("leaves: study joins", "running") - attempt.first_s("", "running")
    assert timings.rest_s <= waited_s < 2 * timings.rest_s
