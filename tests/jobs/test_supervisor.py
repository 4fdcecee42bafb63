"""One attempt of a run from its start to its end, with workers that one process stands in for: see `one_process`."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cluster.node.drain import Drained, change_drained, drop, put
from cluster.timings import Timings
from jobs.errors import Superseded, Unplaceable
from jobs.execution.membership import ClusterView
from jobs.execution.placement import Node
from jobs.execution.supervisor import Supervisor
from jobs.recipe import Recipe
from jobs.runs.creation import create_run
from jobs.runs.folder import RunFolder
from jobs.runs.state import RunState
from jobs.runs.state_writer import read_events
from jobs.runs.summary import read_summary
from tests.jobs.one_process import Act, OneProcess, Start, Unsaid, fails, finishes, hangs, save, waits
from tests.jobs.ports import listening
from vr_core.config import plain, validate
from vr_core.errors import UserError

STEPS = 6
QUICK = Timings(
    beat_s=0.02, first_retry_s=0.05, longest_retry_s=60, join_after_s=0.02, rest_s=0.02, storage_again_s=0.02,
    ask_every_s=0.05, silent_s=30,
)  # fmt: skip
"""What a test waits for is short; what ends something too early on a busy machine is long."""


def quick(**waits: float) -> Timings:
    return QUICK.model_copy(update=waits)


@pytest.fixture
def run(tmp_path, monkeypatch) -> RunFolder:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))  # who is drained
    (tmp_path / "data").mkdir()
    return create_run(Recipe(name="line", data=tmp_path / "data", out=tmp_path / "runs", steps=STEPS))


@pytest.fixture
def port() -> Iterator[int]:
    """Where the raylet of a PC that is there takes connections."""
    with listening() as (port, _):
        yield port


def pc(name: str, port: int = 0, cpus: int = 4, gpus: int = 0) -> Node:
    return Node(name, {"vr/node": name}, cpus, gpus, f"id-{name}", "127.0.0.1", port)


HERE = pc("here")


class Attempt:
    """The next attempt of `run`, carried with workers that follow `acts`."""

    def __init__(self, run: RunFolder, *acts: Act, timings: Timings = QUICK, shared: bool = True, **wish: Any) -> None:
        self.run, self.nodes = run, [HERE]
        self.shown: list[RunState] = []
        self.on_state: Callable[[RunState], None] = lambda state: None
        self.workers = OneProcess(*acts)
        recipe = validate(Recipe, {**plain(run.recipe()), **wish}, "test")
        self.supervisor = Supervisor(
            run, recipe, run.begin_attempt(), loop="", can_wait=shared, watch=self._watch, timings=timings,
            fits=self.workers.fits, view=ClusterView(lambda: list(self.nodes), lambda: self.nodes[0].id),
        )  # fmt: skip

    def _watch(self, state: RunState) -> None:
        self.shown.append(state)
        self.on_state(state)

    def supervise(self) -> RunState:
        try:
            return self.supervisor.supervise()
        finally:
            self.workers.end_all()

    @property
    def starts(self) -> list[Start]:
        return self.workers.starts

    @property
    def said(self) -> list[str]:
        return [event["said"] for event in read_events(self.run)]


def test_a_run_is_carried_to_its_end_and_its_workers_are_noted(run):
    def act(start: Start) -> dict[str, Any]:
        start.announce("here")
        start.train(3)
        start.wait_for(lambda: attempt.shown[-1].state == "running" and attempt.shown[-1].step == 3)
        with run.metrics_file.open("a") as file:
            file.write('{"kind": "st')
        shown = len(attempt.shown)
        start.wait_for(lambda: len(attempt.shown) > shown + 1)
        start.train(STEPS)
        return {"ended": "finished"}

    attempt = Attempt(run, act)
    state = attempt.supervise()
    assert (state.state, state.step, state.attempt, state.why) == ("finished", STEPS, 1, "")
    assert state == run.state() == attempt.shown[-1]
    assert attempt.shown[0].state == "pending"
    [here] = json.loads(run.origin_file.read_text())["machines"]["1.1"]
    assert here["host"] == "here"
    assert attempt.said == ["start 1.1: 1 worker(s)", "start 1.1: all workers are there"]
    events = [(event["kind"], event["start"]) for event in read_events(run)]
    assert events == [("start", "1.1"), ("workers_ready", "1.1")]


def test_a_run_is_summed_up_by_its_driver(run):
    def act(start: Start) -> dict[str, Any]:
        start.announce("here")
        start.train(3)
        start.wait_for(lambda: (told := read_summary(run)) is not None and told.step == 3)
        start.train(STEPS)
        return {"ended": "finished"}

    assert Attempt(run, act).supervise().state == "finished"
    summary = read_summary(run)
    assert summary is not None
    assert (summary.step, summary.steps, summary.loss) == (STEPS, run.recipe().steps, 1.0)


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "checkpoints/last", "checkpoints/best", "origin.json", "events.jsonl"]
)
def test_one_bad_byte_ends_no_run(run, name):
    def act(start: Start) -> dict[str, Any]:
        start.announce("here")
        start.train(3)
        start.wait_for(lambda: attempt.shown[-1].state == "running")
        (run.checkpoints / "best").write_text("step-00000003\n")
        data = (run.path / name).read_bytes()
        (run.path / name).write_bytes(data[:5] + b"\xff" + data[6:])
        raise RuntimeError("no")

    def goes_on(start: Start) -> dict[str, Any]:
        start.announce("here")
        assert start.first_step == 3
        save(run, 4)
        return {"ended": "finished"}

    attempt = Attempt(run, act, goes_on)
    assert attempt.supervise().state == "finished"
    machines = json.loads(run.origin_file.read_text())["machines"]
    assert list(machines) == (["1.2"] if name == "origin.json" else ["1.1", "1.2"])


def test_a_summary_that_cannot_be_written_keeps_no_heartbeat_back(run, capsys):
    run.summary_file.mkdir()

    def act(start: Start) -> dict[str, Any]:
        start.announce("here")
        start.train(3)
        start.wait_for(lambda: attempt.shown[-1].step == 3 and attempt.shown[-1].state == "running")
        return {"ended": "left"}

    attempt = Attempt(run, act, finishes)
    assert attempt.supervise().state == "finished"
    assert capsys.readouterr().err.count("progress not written") == 1


def test_a_driver_lets_go_of_a_run_that_a_newer_attempt_has_taken(run):
    before = ""

    def taken(state: RunState) -> None:
        nonlocal before
        if state.state == "running" and not before:
            before = run.state_file.read_text()
            run.begin_attempt()

    attempt = Attempt(run, hangs)
    attempt.on_state = taken
    with pytest.raises(Superseded, match="attempt 2 has taken over from attempt 1"):
        attempt.supervise()
    assert run.state_file.read_text() == before


def test_a_run_that_fails_goes_on_from_its_checkpoint(run):
    attempt = Attempt(run, fails(RuntimeError("no"), after=2), fails(RuntimeError("no\nand more")), finishes)
    assert attempt.supervise().state == "finished"
    assert [start.first_step for start in attempt.starts] == [0, 2, 2]
    assert [said for said in attempt.said if "again" in said] == [
        "RuntimeError: no; starting again from step 2 in 0.05 s",  # a new checkpoint: it is the first failure
        "RuntimeError: no; starting again from step 2 in 0.05 s",
    ]


def test_a_run_pauses_before_it_starts_again(run):
    def act(start: Start) -> dict[str, Any]:
        moments_s.append(time.monotonic())
        if len(moments_s) == 1:
            raise RuntimeError("no")
        return finishes(start)

    moments_s: list[float] = []
    Attempt(run, act, timings=quick(first_retry_s=1.0)).supervise()
    failed_s, again_s = moments_s
    assert again_s - failed_s >= 1.0


def test_three_failures_without_a_new_checkpoint_end_the_run(run):
    attempt = Attempt(run, fails(RuntimeError("no")))
    state = attempt.supervise()
    assert (state.state, state.user_error) == ("failed", False)
    assert state.why == "3 attempts without a new checkpoint after step 0; the last one: RuntimeError: no"
    assert [said.rpartition(" in ")[2] for said in attempt.said if "again" in said] == ["0.05 s", "0.1 s"]
    assert len(attempt.starts) == 3


def test_each_new_checkpoint_forgives_the_failures_before_it(run):
    attempt = Attempt(run, *(fails(RuntimeError("no"), after=step) for step in (1, 2, 3, 4)), finishes)
    assert attempt.supervise().state == "finished"
    assert [start.first_step for start in attempt.starts] == [0, 1, 2, 3, 4]


def test_a_mistake_of_the_user_is_told_once(run):
    state = Attempt(run, fails(UserError("the shard is cut short"), after=1)).supervise()
    assert (state.state, state.user_error, state.why) == ("failed", True, "the shard is cut short")
    assert len(list(run.attempt_folder(1).glob("error-*-rank-0.json"))) == 1


def test_workers_that_die_without_a_word_are_named(run):
    attempt = Attempt(run, fails(Unsaid("worker 1", silent=[1])), finishes)
    assert attempt.supervise().state == "finished"
    assert "worker 1 died: its machine, its network or its memory; starting again from step 0 in 0.05 s" in attempt.said
    assert (run.attempt_folder(1) / "error-1.txt").read_text() == "worker 1"


def test_machines_that_others_hold_are_waited_for_and_cost_no_attempt(run):
    class WorkerGroupStartupTimeoutError(Exception):
        """Ray Train's, by its name."""

    held = fails(Unsaid("no workers", cause=WorkerGroupStartupTimeoutError()))
    attempt = Attempt(run, held, held, held, held, finishes)
    assert attempt.supervise().state == "finished"
    assert "waits: other runs hold the machines it needs" in {state.why for state in attempt.shown}


def test_a_fit_that_takes_no_step_is_ended_and_the_run_goes_on(run):
    attempt = Attempt(run, hangs, finishes, workers={"hung_after_s": 2})
    assert attempt.supervise().state == "finished"
    assert attempt.workers.ended == [1]
    assert "no step for 2 s; starting again from step 0 in 0.05 s" in attempt.said


def test_a_stopped_run_ends_with_a_checkpoint(run):
    def act(start: Start) -> dict[str, Any]:
        start.train(2)
        attempt.supervisor.request_stop()
        save(run, 3)
        start.train(STEPS)
        return {"ended": "finished"}

    attempt = Attempt(run, act)
    state = attempt.supervise()
    assert (state.state, state.why, state.step) == ("stopped", "stopped by the user", 3)
    assert len(attempt.starts) == 1


def test_a_loop_that_does_not_stop_is_left_behind(run):
    attempt = Attempt(run, hangs, timings=quick(stop_within_s=0.3))
    attempt.on_state = lambda state: run.stop_file.touch() if state.state == "running" else None
    assert attempt.supervise().state == "stopped"


def test_a_worker_that_fails_while_the_run_stops_does_not_make_it_a_failed_one(run):
    def act(start: Start) -> dict[str, Any]:
        run.stop_file.touch()
        raise RuntimeError("Connection reset by peer")

    attempt = Attempt(run, act)
    assert attempt.supervise().state == "stopped"
    assert "starting again" not in " ".join(attempt.said)
    assert not any(state.why.startswith("starts again") for state in attempt.shown)


@pytest.mark.parametrize("waits_for", ["machines", "retry"])
def test_a_run_that_waits_is_stopped_at_once(run, waits_for):
    attempt = Attempt(run, fails(RuntimeError("no")), timings=quick(first_retry_s=60.0))
    if waits_for == "machines":
        attempt.nodes = [pc("here", cpus=0)]
    why = "waits: no machine has" if waits_for == "machines" else "starts again after: RuntimeError: no"
    attempt.on_state = lambda state: run.stop_file.touch() if state.why.startswith(why) else None
    assert attempt.supervise().state == "stopped"
    assert len(attempt.starts) == (0 if waits_for == "machines" else 1)


def test_a_run_that_fits_on_no_machine_is_refused_where_none_can_join(run):
    attempt = Attempt(run, finishes, shared=False, workers={"count": 9})
    with pytest.raises(Unplaceable, match="for worker 5 of 9.*start a cluster with `vr cluster head`"):
        attempt.supervise()
    assert attempt.starts == []


def test_a_run_waits_for_machines_and_starts_when_they_come(run, port):
    attempt = Attempt(run, finishes, workers={"count": 5})

    def comes(state: RunState) -> None:
        if state.waiting_for == "machines":
            attempt.nodes = [HERE, pc("cellar", port)]

    attempt.on_state = comes
    assert attempt.supervise().state == "finished"
    assert run.state().waiting_for is None
    assert len(attempt.starts[0].placement.selectors) == 5


@pytest.mark.parametrize(
    ("drained", "shared", "leaves"),
    [("cellar", True, True), ("loft", True, False), ("cellar", False, False)],
)
def test_the_loop_is_asked_to_leave_when_one_of_its_machines_is_drained(run, port, drained, shared, leaves):
    def act(start: Start) -> dict[str, Any]:
        start.announce("here", "cellar")
        start.wait_for(lambda: attempt.shown[-1].state == "running")
        assert not run.leave_file.exists()
        change_drained(lambda record: put(record, Drained(name=drained, by="user", since_s=0, leaves_s=1)))
        shown = len(attempt.shown)
        start.wait_for(lambda: run.leave_file.exists() or len(attempt.shown) > shown + 5)
        start.train(STEPS)
        return {"ended": "finished"}

    attempt = Attempt(run, act, finishes, shared=shared, workers={"count": 5})
    attempt.nodes = [HERE, pc("cellar", port)]

    def back(state: RunState) -> None:
        if state.why.startswith("waits: cellar is drained"):
            change_drained(lambda record: drop(record, ["cellar"]))

    attempt.on_state = back
    assert attempt.supervise().state == "finished"
    whys = [state.why for state in attempt.shown]
    assert any(why.startswith("leaves: cellar is drained") for why in whys) == leaves
    assert any(why.startswith("starts again: cellar is drained") for why in whys) == leaves
    assert any(why.startswith("waits: cellar is drained") for why in whys) == leaves
    assert len(attempt.starts) == 1 + leaves


def test_a_wish_to_leave_is_of_one_start(run):
    attempt = Attempt(run, finishes)
    run.leave_file.touch()  # of an earlier start
    assert attempt.supervise().state == "finished"
    assert len(attempt.starts) == 1
    run.leave_file.touch()
    run.begin_attempt()
    assert not run.leave_file.exists(), "the next attempt knows by itself"


@pytest.mark.parametrize(("leaving", "again"), [(True, 0), (False, 1)])
def test_a_machine_that_is_gone_before_the_loop_could_leave_it_counts_as_no_failure(run, leaving, again):
    def act(start: Start) -> dict[str, Any]:
        if leaving:
            run.leave_file.touch()
        raise RuntimeError("the raylet died")

    attempt = Attempt(run, act, finishes)
    assert attempt.supervise().state == "finished"
    assert len(attempt.starts) == 2
    assert sum("starting again" in said for said in attempt.said) == again


def test_a_machine_that_makes_steps_longer_is_left_out_and_said(run, port):
    def act(start: Start) -> dict[str, Any]:
        start.announce(*start.placement.names)
        return {"ended": "excluded", "ranks": [1], "with_s": 0.93, "without_s": 0.41}

    attempt = Attempt(run, act, finishes, nodes={})
    attempt.nodes = [pc("a"), pc("b", port)]
    assert attempt.supervise().state == "finished"
    assert [start.placement.names for start in attempt.starts] == [("a", "b"), ("a",)]
    assert "b is excluded: with it a step takes 0.93 s, without 0.41 s (predicted)" in attempt.said


@pytest.mark.parametrize("ray_is_quicker", [False, True])
def test_a_run_goes_on_without_a_machine_that_answers_no_more(run, ray_is_quicker):
    with listening() as (port, close):

        def act(start: Start) -> dict[str, Any]:
            start.announce(*start.placement.names)
            start.train(2)
            start.wait_for(lambda: attempt.shown[-1].state == "running")
            close()
            if not ray_is_quicker:
                start.wait_for(lambda: False)
            raise RuntimeError("the raylet died")

        # The raylet that is gone refuses a connection at once.
        silent = quick(silent_s=30.0 if ray_is_quicker else 1.0)
        attempt = Attempt(run, act, finishes, timings=silent, nodes={})
        attempt.nodes = [HERE, pc("cellar", port)]
        assert attempt.supervise().state == "finished"
    assert [start.placement.names for start in attempt.starts] == [("cellar", "here"), ("here",)]
    assert attempt.workers.ended == ([] if ray_is_quicker else [1])
    assert attempt.starts[1].first_step == 2
    assert "starts again: cellar is not responding" in attempt.said
    assert not any("starting again" in said for said in attempt.said), "it is no failure"


def test_a_pc_that_joins_takes_part_from_the_next_start(run, port):
    def act(start: Start) -> dict[str, Any]:
        attempt.nodes = [HERE, pc("attic", port)]
        return waits(start)

    attempt = Attempt(run, act, finishes, nodes={})
    assert attempt.supervise().state == "finished"
    assert [start.placement.names for start in attempt.starts] == [("here",), ("attic", "here")]
    assert "attic joins" in attempt.said


def test_a_run_keeps_its_device_when_a_pc_with_a_gpu_is_there_at_the_next_start(run, port):
    def act(start: Start) -> dict[str, Any]:
        start.announce("here")
        start.train(1)
        start.wait_for(lambda: attempt.shown[-1].state == "running")
        attempt.nodes = [HERE, pc("attic", port, gpus=1)]
        raise RuntimeError("no")

    attempt = Attempt(run, act, finishes, nodes={})
    assert attempt.supervise().state == "finished"
    assert [start.placement.use_gpu for start in attempt.starts] == [False, False]


def test_a_start_is_told_which_pcs_have_trained_before(run):
    starts = {"1.1": [{"host": "attic", "device": "cpu"}, {"host": "den", "device": "cpu"}], "1.2": [{"host": "attic"}]}
    run.origin_file.write_text(json.dumps({"machines": starts}))
    attempt = Attempt(run, finishes)
    attempt.supervise()
    assert attempt.starts[0].previous_hosts == {"attic", "den"}


@pytest.mark.parametrize("when", ["it trains", "it pauses"])
def test_a_folder_that_goes_away_is_waited_for_and_costs_no_attempt(run, capsys, when):
    away = run.path.with_name("away")
    back = threading.Timer(0.5, lambda: away.rename(run.path))

    def goes_away() -> None:
        if back.ident is None:  # once
            run.path.rename(away)
            back.start()

    def act(start: Start) -> dict[str, Any]:
        start.announce("here")
        start.train(2)
        start.wait_for(lambda: attempt.shown[-1].state == "running")
        if when == "it pauses":
            raise RuntimeError("no")
        goes_away()
        return {"ended": "left"}

    attempt = Attempt(run, act, finishes)
    attempt.on_state = lambda state: goes_away() if state.why.startswith("starts again after") else None
    assert attempt.supervise().state == "finished"
    back.join()
    assert [start.first_step for start in attempt.starts] == [0, 2]
    assert capsys.readouterr().err.count("is away; waiting for it") == 1


@pytest.mark.parametrize(("sync", "told"), [("diloco", True), ("plain", False)])
def test_a_run_that_began_with_a_key_of_no_effect_goes_on_and_says_so(run, sync, told):
    attempt = Attempt(run, finishes, sync=sync, checkpoint={"own_disk_every_s": 5})
    assert attempt.supervise().state == "finished"
    assert any("own_disk_every_s has no effect with sync diloco" in e["said"] for e in read_events(run)) is told
