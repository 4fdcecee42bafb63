"""Every wait has its documented value, and who waits on a PC waits by it; those of runs are in tests/jobs."""

import itertools
import json
import re
import threading
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import typer.testing

from cluster.errors import ClusterError, ClusterFailure
from cluster.facts import look
from cluster.node.head import Head, Joined, head_file, joined_file, read_head, read_joined, timings_here, write_member
from cluster.node.lifecycle import kept_timings, running_head, running_node
from cluster.node.processes import ProcessRef, boot_id, start_ticks_of
from cluster.node.ray_start import Ports, node_environment, node_start
from cluster.node.service import run as run_service
from cluster.node.supervision import (
    FAILURES,
    Ended,
    GiveUp,
    HeadAnswer,
    QueryHead,
    Start,
    Wait,
    decide,
    delay_s,
    failures_after,
    is_gone,
)
from cluster.timings import DEFAULT_TIMINGS, Timings, changed
from jobs import cli
from tests.quick_timings import QUICK, write_quick
from vr_core.config import load, validate
from vr_core.errors import ConfigError

ROOT = Path(__file__).parents[2]
DOCUMENTED = {
    "keeper_turn_s": 2.0,
    "submitting_s": 30.0,
    "wake_again_s": 180.0,
    "publish_again_s": 60.0,
    "leave_within_s": 120.0,
    "least_notice_s": 5.0,
    "first_retry_s": 2.0,
    "longest_retry_s": 60.0,
    "beat_s": 2.0,
    "driver_silent_s": 60.0,
    "join_after_s": 10.0,
    "rest_s": 30.0,
    "end_within_s": 10.0,
    "stop_within_s": 25.0,
    "stop_job_within_s": 40.0,
    "stopped_within_s": 45.0,
    "storage_again_s": 5.0,
    "tell_for_s": 900.0,
    "ask_every_s": 0.5,
    "answer_within_s": 1.0,
    "silent_s": 3.0,
    "health_check_every_s": 1.5,
    "health_check_within_s": 3.0,
    "ray_quick_s": 60.0,
    "ray_first_delay_s": 2.0,
    "ray_longest_delay_s": 60.0,
    "raylet_gone_s": 3.0,
    "left_s": 15.0,
    "head_away_s": 5.0,
    "drained_s": 30.0,
    "head_lost_after_s": 60.0,
    "service_again_s": 60.0,
}
BOTH = pytest.mark.parametrize("timings", [DEFAULT_TIMINGS, QUICK], ids=["default", "quick"])
KILLED = Ended(ended_s=0.0, came_up=True, ever_up=True, failures=0)


@pytest.mark.parametrize("name", [*DOCUMENTED])
def test_a_wait_has_its_documented_value(name):
    assert getattr(DEFAULT_TIMINGS, name) == DOCUMENTED[name]


def test_every_wait_is_documented_and_somebody_waits_by_it():
    fields = Timings.model_fields
    assert [*fields] == [*DOCUMENTED]
    assert [name for name, field in fields.items() if not (name.endswith("_s") and field.description)] == []
    sources = [path for folder in ("cluster", "jobs") for path in (ROOT / folder).rglob("*.py")]
    code = "\n".join(path.read_text() for path in sources if path.name != "timings.py")
    assert [name for name in fields if not re.search(rf"\.{name}\b", code)] == []


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"keper_turn_s": 1}, "keper_turn_s: unknown key (did you mean keeper_turn_s?)"),
        ({"rest_s": 0}, "rest_s: should be greater than 0"),
        ({"rest_s": "30 s"}, "rest_s: should be a valid number"),
        ({"ask_every_s": 3}, "silent_s 3: should be more than ask_every_s 3"),
        ({"answer_within_s": 3}, "silent_s 3: should be more than answer_within_s 3"),
        ({"beat_s": 60}, "driver_silent_s 60: should be more than beat_s 60"),
        ({"stop_within_s": 40}, "stop_job_within_s 40: should be more than stop_within_s 40"),
        ({"stopped_within_s": 40}, "stopped_within_s 40: should be more than stop_job_within_s 40"),
        ({"longest_retry_s": 1.5}, "longest_retry_s 1.5: should not be less than first_retry_s 2"),
        ({"ray_longest_delay_s": 1}, "ray_longest_delay_s 1: should not be less than ray_first_delay_s 2"),
        ({"leave_within_s": 4}, "leave_within_s 4: should not be less than least_notice_s 5"),
        ({"tell_for_s": 4}, "tell_for_s 4: should not be less than storage_again_s 5"),
    ],
)
def test_what_makes_no_sense_is_refused(raw, said):
    with pytest.raises(ConfigError) as refused:
        validate(Timings, raw, "t.yaml")
    assert str(refused.value).startswith(f"t.yaml: {said}")


def test_a_file_says_what_differs_and_the_rest_is_as_by_default(tmp_path):
    (tmp_path / "t.yaml").write_text("rest_s: 60\nbeat_s: 0.5\n")
    timings = load(Timings, tmp_path / "t.yaml")
    assert timings == Timings(rest_s=60.0, beat_s=0.5)
    assert changed(timings) == {"beat_s": 0.5, "rest_s": 60.0}
    assert changed(DEFAULT_TIMINGS) == {}
    assert load(Timings, write_quick(tmp_path)) == QUICK


# The records.


@pytest.fixture
def node(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return node_start(look(), port_base=0)


def member(kind, node, tmp_path, ref=None, **more):
    """The record of a member whose process is this test's own, which lives, or `ref`."""
    own = psutil.Process()
    ticks = start_ticks_of(own.pid)
    log = tmp_path / "log"
    log.touch()
    ref = ref or ProcessRef(name="ray", pid=own.pid, start_ticks=ticks, boot_id=boot_id(), log=log)
    ports = Ports()
    return kind(id="x", node=node, ports=ports, token_file=tmp_path / "t", temp_dir=tmp_path, processes=(ref,), **more)


def test_a_record_holds_the_waits_and_one_of_before_those_of_before(node, tmp_path):
    write_member(head_file(), member(Head, node, tmp_path, timings=QUICK))
    assert read_head().timings == timings_here() == QUICK
    write_member(head_file(), member(Head, node, tmp_path))
    assert "timings" not in json.loads(head_file().read_text()), "code of before refuses keys that it does not know"
    assert read_head().timings == timings_here() == DEFAULT_TIMINGS
    head_file().write_text("damaged")
    assert timings_here() == DEFAULT_TIMINGS, "a run goes on all the same"
    head_file().unlink()
    assert timings_here() == DEFAULT_TIMINGS


def test_a_member_that_runs_with_other_waits_is_named_unless_none_are_given(node, tmp_path):
    head = member(Head, node, tmp_path, timings=QUICK)
    write_member(head_file(), head)
    assert running_head(node, QUICK) == running_head(node) == head
    with pytest.raises(ClusterError, match="head .* already runs here with another timings; end it with"):
        running_head(node, DEFAULT_TIMINGS)
    with pytest.raises(ClusterError, match="with another cpus, timings;"):
        running_head(node.model_copy(update={"cpus": node.cpus + 1}), DEFAULT_TIMINGS)

    joining = node.model_copy(update={"head": "192.168.1.9:6379"})
    joined = member(Joined, joining, tmp_path)
    write_member(joined_file(joining.name), joined)
    assert read_joined(joining.name) == running_node(joining) == running_node(joining, DEFAULT_TIMINGS) == joined
    with pytest.raises(ClusterError, match="node .* with another timings"):
        running_node(joining, QUICK)


def test_the_plan_shows_waits_that_are_not_as_by_default_and_a_wrong_file_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "200")
    file = tmp_path / "t.yaml"
    vr = typer.testing.CliRunner()

    def head(text):
        file.write_text(text)
        return vr.invoke(cli.app, ["cluster", "head", "--port", "0", "--timings", str(file)])

    planned = head("rest_s: 60\nbeat_s: 2\n")
    assert "timings rest_s=60\n" in planned.stderr, "what is as by default is not said"
    assert "add --yes" in str(planned.exception)
    assert "timings" not in head("{}").stderr
    wrong = head("rests_s: 60\n")
    assert str(wrong.exception) == f"{file}: rests_s: unknown key (did you mean rest_s?)"
    assert wrong.stderr == ""
    assert not head_file().exists()


# Who waits on a PC.


@BOTH
def test_rays_head_checks_its_nodes_by_them(node, timings):
    timings = timings.model_copy(update={"health_check_within_s": timings.health_check_within_s / 2})
    environment = node_environment({}, node, Ports(), Path("token"), "1", timings=timings)
    found = {key.removeprefix("RAY_health_check_"): value for key, value in environment.items() if "health" in key}
    every = str(round(timings.health_check_every_s * 1000))
    within = str(round(timings.health_check_within_s * 1000))
    assert found == {
        "initial_delay_ms": every,
        "period_ms": every,
        "timeout_ms": within,
        "failure_threshold": "3",
    }


@BOTH
def test_a_node_waits_for_its_head_for_head_lost_after_s(node, timings):
    joined = node.model_copy(update={"head": "192.168.1.10:6379"})
    environment = node_environment({}, joined, Ports(), Path("token"), "1", timings=timings)
    assert environment["RAY_gcs_rpc_server_reconnect_timeout_s"] == f"{timings.head_lost_after_s:.0f}"


@BOTH
def test_only_an_end_sooner_than_ray_quick_s_is_a_failure(timings):
    assert failures_after(3, timings.ray_quick_s - 0.01, timings) == 4
    assert failures_after(3, timings.ray_quick_s, timings) == 0
    given_up = decide(replace(KILLED, failures=FAILURES), None, 0.0, is_head=True, timings=timings)
    assert isinstance(given_up, GiveUp)
    assert f"within {timings.ray_quick_s:g} s of its start" in given_up.why


@BOTH
def test_ray_starts_again_after_ray_first_delay_s_and_at_last_ray_longest_delay_s(timings):
    assert delay_s(0, timings) == 0.0
    assert delay_s(2, timings) == 2 * delay_s(1, timings) == 2 * timings.ray_first_delay_s
    assert delay_s(FAILURES, timings) == timings.ray_longest_delay_s
    for failures, wait_s in ((1, timings.ray_first_delay_s), (FAILURES - 1, timings.ray_longest_delay_s)):
        ended = replace(KILLED, failures=failures)
        assert decide(ended, None, wait_s - 0.01, is_head=True, timings=timings) == Wait()
        assert decide(ended, None, wait_s, is_head=True, timings=timings) == Start()


@BOTH
def test_a_node_has_left_when_its_raylet_is_gone_for_raylet_gone_s(timings):
    assert not is_gone(100.0, 100.0 + timings.raylet_gone_s, timings)
    assert is_gone(100.0, 100.01 + timings.raylet_gone_s, timings)


@BOTH
def test_a_node_that_left_asks_after_left_s_and_then_every_drained_s_or_head_away_s(timings):
    def action(now_s, asked=None):
        return decide(replace(KILLED, left=True), asked, now_s, is_head=False, timings=timings)

    assert action(timings.left_s - 0.01) == Wait()
    assert action(timings.left_s) == QueryHead()
    for answers, wait_s in ((True, timings.drained_s), (False, timings.head_away_s)):
        asked = HeadAnswer(at_s=200.0, answers=answers, may_start=False)
        assert action(200.0 + wait_s - 0.01, asked) == Wait()
        assert action(200.0 + wait_s, asked) == QueryHead()


class Passing(threading.Event):
    """An event whose waits end at once, and move the clock; it is set once the clock has come so far."""

    def __init__(self, until_s):
        super().__init__()
        self.at_s, self._until_s = 0.0, until_s

    def now_s(self):
        return self.at_s

    def wait(self, timeout=None):
        self.at_s += timeout
        return self.at_s > self._until_s


@BOTH
def test_the_service_tries_again_after_service_again_s(node, tmp_path, timings):
    dead = ProcessRef(name="ray", pid=1, start_ticks=0, boot_id="another", log=tmp_path / "log")
    write_member(head_file(), member(Head, node, tmp_path, dead, timings=timings))
    clock, tried_s, said = Passing(until_s=3.5 * timings.service_again_s), [], []

    def companions(head):
        tried_s.append(clock.at_s)
        raise ClusterFailure("not now")

    run_service(companions, said.append, clock, clock.now_s)
    assert said == ["not now"] * len(tried_s)
    assert len(tried_s) >= 3
    # It looks every two seconds.
    assert all(0 <= later - at_s - timings.service_again_s < 2 for at_s, later in itertools.pairwise(tried_s)), tried_s


def test_a_head_that_died_is_started_again_with_the_waits_that_it_had(node, tmp_path):
    assert kept_timings(None) == DEFAULT_TIMINGS
    write_member(head_file(), member(Head, node, tmp_path, timings=QUICK))
    assert kept_timings(read_head()) == QUICK
