"""One attempt of a run from its start to its end, with workers that one process stands in for: see `one_process`."""

import json
import threading
import time
from typing import Any

import pytest

from jobs.errors import Superseded
from jobs.runs.state import RunState
from jobs.runs.state_writer import read_events
from jobs.runs.summary import read_summary
from tests.jobs.attempts import STEPS, Attempt, of_a_line, pc, quick
from tests.jobs.one_process import Start, Unsaid, fails, finishes, hangs, save
from vr_core.errors import UserError

run, port = of_a_line()


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
    waits = [state.waiting_for for state in attempt.shown if state.why.startswith("waits: other runs hold")]
    assert set(waits) == {"machines"}


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
