"""Which machines an attempt goes on with: what it waits for, leaves, excludes, loses, and who joins."""

import json
from typing import Any

import pytest

from cluster.node.drain import Drained, change_drained, drop, put
from jobs.errors import Unplaceable
from jobs.runs.state import RunState
from tests.jobs.attempts import HERE, STEPS, Attempt, of_a_line, pc, quick
from tests.jobs.one_process import Start, finishes, waits
from tests.jobs.ports import listening

run, port = of_a_line()


def test_a_run_that_fits_on_no_machine_is_refused_where_none_can_join(run):
    attempt = Attempt(run, finishes, shared=False, workers={"count": 9})
    with pytest.raises(Unplaceable, match="for worker 5 of 9.*start a cluster with `vr cluster head`"):
        attempt.supervise()
    assert attempt.starts == []


def test_a_run_waits_for_machines_and_starts_when_they_come(run, port):
    attempt = Attempt(run, finishes, workers={"count": 5})

    def comes(state: RunState) -> None:
        if state.state == "pending" and state.why:
            attempt.nodes = [HERE, pc("cellar", port)]

    attempt.on_state = comes
    assert attempt.supervise().state == "finished"
    assert {state.waiting_for for state in attempt.shown if state.why.startswith("waits: ")} == {"machines"}
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
