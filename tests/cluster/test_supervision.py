import contextlib
import os
import re
import signal
import socket
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from cluster.node import companions
from cluster.node.processes import ProcessRef, alive, end, spawn
from cluster.node.ray_start import MARKER
from cluster.node.supervise import POLL_S, _put_aside
from cluster.node.supervision import (
    FAILURES,
    Companion,
    CompanionSeen,
    Ended,
    GiveUp,
    HeadAnswer,
    QueryHead,
    RayProcessSpec,
    Start,
    Wait,
    decide,
    delay_s,
    failures_after,
)
from cluster.timings import DEFAULT_TIMINGS, Timings

KILLED = Ended(ended_s=100.0, came_up=True, ever_up=True, failures=0)


def of_head(ended, now_s, asked=None):
    return decide(ended, asked, now_s, is_head=True, timings=DEFAULT_TIMINGS)


def of_node(ended, now_s, asked=None):
    return decide(ended, asked, now_s, is_head=False, timings=DEFAULT_TIMINGS)


def changed(**changes):
    return Ended(**{**KILLED.__dict__, **changes})


@pytest.mark.parametrize("decision", [of_head, of_node])
def test_a_first_start_that_fails_is_not_repeated_and_ray_has_the_last_word(decision):
    assert decision(changed(came_up=False, ever_up=False, failures=1), 1e6) == GiveUp(why="")


def test_a_head_that_was_killed_starts_at_once_with_its_state():
    assert of_head(KILLED, 100.0) == Start(fresh=False)


def test_a_head_that_thrice_does_not_come_up_from_its_state_is_started_without_it():
    """The defect: one start that failed under load, and the cluster's jobs were forgotten."""
    for not_up in (1, 2, 3, 4, 5):  # once: what is put aside would be replaced by what never came up
        ended = changed(came_up=False, failures=1, not_up=not_up)
        assert of_head(ended, 101.9) == Wait()
        assert of_head(ended, 102.0) == Start(fresh=not_up == 3)


def test_a_state_that_is_given_up_is_put_aside(tmp_path):
    for content in ("one", "two"):
        (tmp_path / "gcs").mkdir()
        (tmp_path / "gcs" / "data").write_text(content)
        _put_aside(tmp_path / "gcs")
        assert (tmp_path / "gcs.old" / "data").read_text() == content
        assert not (tmp_path / "gcs").exists()
    _put_aside(tmp_path / "gcs")


def test_the_delay_grows_with_each_quick_failure_to_a_minute_and_ends_in_one_line():
    delays = [delay_s(failures, DEFAULT_TIMINGS) for failures in range(FAILURES)]
    assert delays[0] == 0.0
    assert delays == sorted(delays)
    assert delays[-1] == DEFAULT_TIMINGS.ray_longest_delay_s
    for decision in (of_head, of_node):
        assert decision(changed(failures=FAILURES - 1), 100.0 + DEFAULT_TIMINGS.ray_longest_delay_s - 1) == Wait()
        given_up = decision(changed(failures=FAILURES), 100.0)
        assert isinstance(given_up, GiveUp)
        assert f"ended {FAILURES} times in a row" in given_up.why


def test_only_an_end_soon_after_the_start_is_a_failure():
    assert failures_after(3, DEFAULT_TIMINGS.ray_quick_s - 1, DEFAULT_TIMINGS) == 4
    assert failures_after(3, DEFAULT_TIMINGS.ray_quick_s, DEFAULT_TIMINGS) == 0


def test_a_node_asks_before_it_starts_and_again_while_its_head_is_away():
    assert of_node(KILLED, 100.0) == QueryHead()
    away = HeadAnswer(at_s=100.5, answers=False, may_start=False)
    assert of_node(KILLED, 100.4 + DEFAULT_TIMINGS.head_away_s, away) == Wait()
    assert of_node(KILLED, 100.5 + DEFAULT_TIMINGS.head_away_s, away) == QueryHead()
    assert of_node(KILLED, 100.6, HeadAnswer(100.5, answers=True, may_start=True)) == Start()


def test_what_the_head_said_before_the_end_does_not_count():
    assert of_node(KILLED, 101.0, HeadAnswer(at_s=99.0, answers=True, may_start=True)) == QueryHead()


def test_a_drained_node_waits_for_its_time_however_often_it_asks():
    drained = changed(left=True)
    assert of_node(drained, 100.0 + DEFAULT_TIMINGS.left_s - 0.1) == Wait()
    assert of_node(drained, 100.0 + DEFAULT_TIMINGS.left_s) == QueryHead()
    now_s = 200.0
    for _ in range(1000):
        asked = HeadAnswer(now_s, answers=True, may_start=False)
        assert of_node(drained, now_s + DEFAULT_TIMINGS.drained_s - 0.1, asked) == Wait()
        assert of_node(drained, now_s + DEFAULT_TIMINGS.drained_s, asked) == QueryHead()
        now_s += DEFAULT_TIMINGS.drained_s
    assert of_node(drained, now_s, HeadAnswer(now_s, answers=True, may_start=True)) == Start()


UP = "echo up; echo 'Ray runtime started.'; "


@pytest.fixture
def supervised(tmp_path):
    """Start a supervisor of a shell script in the place of `ray start`."""
    refs = []

    def start(script, **more):
        log = tmp_path / "log"
        token = tmp_path / "token"
        process_spec = RayProcessSpec(
            name="attic", argv=("sh", "-c", script), log=log, temp_dir=tmp_path / "t" / "r", token_file=token, **more
        )
        environment = os.environ | {MARKER: "supervised", "HERE": str(tmp_path)}
        argv = [sys.executable, "-m", "cluster.node.supervise", process_spec.model_dump_json()]
        refs.append(spawn("ray", argv, environment, log, tmp_path))
        return refs[-1]

    yield start
    end(refs, "supervised", grace_s=5.0)


def await_true(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def in_session(ref):
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == ref.pid and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (OSError, psutil.Error):
            continue
    return [process for process in found if process.pid != ref.pid]


def named(ref, name):
    found = []
    for process in in_session(ref):
        try:
            if process.name() == name:
                found.append(process)
        except psutil.NoSuchProcess:
            continue  # ended meanwhile
    return found


def said_by(ref):
    return [line.partition("supervisor: ")[2] for line in ref.log.read_text().splitlines() if "supervisor: " in line]


def test_a_first_start_that_fails_ends_the_supervisor_with_rays_last_line(supervised):
    ref = supervised("echo 'ConnectionError: no head'; exit 1")
    await_true(lambda: not alive(ref))
    assert ref.log.read_text() == "ConnectionError: no head\n"


def test_what_was_up_is_started_again_and_nothing_of_the_first_is_left(supervised, tmp_path):
    # A child named as Ray's, since Ray without it has left; and one that outlives its parent.
    (tmp_path / "raylet").symlink_to("/usr/bin/sleep")
    ref = supervised(f"{UP} echo $$ >> $HERE/pids; $HERE/raylet 600 & wait")
    pids = tmp_path / "pids"
    await_true(lambda: pids.exists() and len(in_session(ref)) == 2 and "up" in ref.log.read_text())
    first = in_session(ref)
    psutil.Process(int(pids.read_text())).send_signal(signal.SIGKILL)
    await_true(lambda: len(pids.read_text().split()) == 2)
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in first)
    assert said_by(ref) == ["Ray has ended (-9)", "starting Ray again"]
    psutil.Process(ref.pid).terminate()
    await_true(lambda: not alive(ref))
    assert in_session(ref) == []


def test_every_second_start_is_the_other_one(supervised, tmp_path):
    waits = Timings(ray_quick_s=0.001, ray_first_delay_s=0.01)
    again = ("sh", "-c", f"{UP} echo again >> $HERE/starts; exit 1")
    ref = supervised(f"{UP} echo first >> $HERE/starts; exit 1", timings=waits, again_argv=again)
    starts = tmp_path / "starts"
    await_true(lambda: starts.exists() and len(starts.read_text().split()) >= 4)
    assert starts.read_text().split()[:4] == ["first", "again", "first", "again"]
    assert alive(ref)


def test_ray_whose_raylet_has_ended_has_left_and_is_started_again(supervised, tmp_path):
    (tmp_path / "raylet").symlink_to("/usr/bin/sleep")
    waits = Timings(raylet_gone_s=0.1, left_s=0.1, ray_first_delay_s=0.1)
    ref = supervised(f"{UP} echo $$ >> $HERE/pids; $HERE/raylet 600 & wait; sleep 600", timings=waits)

    await_true(lambda: named(ref, "raylet") and "up" in ref.log.read_text())
    [first] = named(ref, "raylet")
    time.sleep(3 * POLL_S)  # so that the supervisor has seen it, of which nothing tells
    first.kill()
    await_true(lambda: any(process != first for process in named(ref, "raylet")))
    assert said_by(ref) == ["the node has left", "starting Ray again"]


@pytest.fixture
def with_dashboard(supervised, tmp_path):
    """A supervisor of scripts in the place of raylet and dashboard, whose port is what is given."""
    (tmp_path / "raylet").symlink_to("/usr/bin/sleep")
    place = tmp_path / "ray" / "dashboard"
    place.mkdir(parents=True)
    (place / "dashboard.py").symlink_to("/usr/bin/sleep")
    script = f"{UP} $HERE/raylet 600 & $HERE/ray/dashboard/dashboard.py 600 & wait; sleep 600"
    waits = Timings(raylet_gone_s=0.1, ray_first_delay_s=0.1)

    def start(port, **more):
        ref = supervised(script, dashboard_port=port, timings=waits.model_copy(update=more))
        await_true(lambda: named(ref, "dashboard.py") and "up" in ref.log.read_text())
        return ref, named(ref, "dashboard.py")

    return start


def test_a_head_whose_dashboard_ended_is_started_again(with_dashboard):
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()[1]
    ref, [first] = with_dashboard(free)
    time.sleep(3 * POLL_S)
    assert named(ref, "dashboard.py") == [first], "one that lives is left alone"
    first.kill()
    await_true(lambda: named(ref, "dashboard.py") and first not in named(ref, "dashboard.py"))
    assert said_by(ref) == ["the dashboard has ended", "starting Ray again"]


def test_a_head_whose_dashboard_cannot_have_its_port_says_who_has_it_and_waits(with_dashboard):
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        port = squatter.getsockname()[1]
        ref, [first] = with_dashboard(port)
        first.kill()
        await_true(lambda: said_by(ref))
        time.sleep(3 * POLL_S)  # nothing tells that it has looked again
        [line] = said_by(ref)
        assert f"(uid {os.getuid()}) holds port {port} of this PC" in line
        assert named(ref, "raylet")
    await_true(lambda: named(ref, "dashboard.py"))
    assert said_by(ref)[1:] == ["the dashboard has ended", "starting Ray again"]


def test_a_head_whose_dashboard_ends_again_and_again_is_never_given_up(with_dashboard):
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()[1]
    ref, _ = with_dashboard(free, ray_longest_delay_s=0.1)
    for count in range(1, FAILURES + 2):
        await_true(lambda: named(ref, "dashboard.py"))
        for process in named(ref, "dashboard.py"):
            process.kill()
        await_true(lambda count=count: said_by(ref).count("starting Ray again") == count)
    assert alive(ref)


def test_a_companion_that_cannot_be_started_for_a_full_disk_is_tried_again_later(monkeypatch):
    """The defect: the error ended the supervisor, and Ray with it."""
    said, starts = [], []

    def start(head, companion):
        starts.append(companion)
        raise OSError(28, "No space left on device")

    ended = ProcessRef(name="keeper", pid=2**22, start_ticks=1, boot_id="b", log=Path("/dev/null"))
    monkeypatch.setenv(MARKER, "mine")
    monkeypatch.setattr(companions, "read_head", lambda: SimpleNamespace(id="mine", processes=(ended,)))
    monkeypatch.setattr(companions, "unchanging", lambda timeout_s: contextlib.nullcontext())
    monkeypatch.setattr(companions, "start_companion", start)
    watch = companions.CompanionWatch([Companion(name="keeper", argv=("true",))], DEFAULT_TIMINGS, said.append)
    for turn in range(100):
        watch.look(turn * DEFAULT_TIMINGS.keeper_turn_s)
    assert 4 <= len(starts) <= 12, "after ever longer waits"
    assert any("No space left" in line for line in said)


def test_a_companion_that_ends_at_once_is_started_after_ever_longer_waits():
    started_s, waits = float("-inf"), []
    seen = CompanionSeen(started_s, ended_s=50.0, failures=0)
    for _ in range(10):
        delay = next(d for d in range(1000) if seen.is_due(seen.ended_s + d, DEFAULT_TIMINGS))
        waits.append(delay)
        started_s = seen.ended_s + delay
        seen = CompanionSeen(started_s, started_s + 1.0, seen.failures_now(DEFAULT_TIMINGS))
    assert waits == [0, 2, 4, 8, 16, 32, 60, 60, 60, 60]
    lived = CompanionSeen(seen.started_s, seen.started_s + DEFAULT_TIMINGS.ray_quick_s, seen.failures)
    assert lived.is_due(lived.ended_s, DEFAULT_TIMINGS)


def test_how_long_a_supervisor_waits_stands_in_its_charge(supervised):
    ref = supervised(f"{UP} exit 1", timings=Timings(ray_first_delay_s=0.01, ray_longest_delay_s=0.01))
    await_true(lambda: not alive(ref))  # by default after three minutes
    assert f"Ray ended {FAILURES} times in a row" in ref.log.read_text().splitlines()[-1]


def test_ray_ends_with_a_supervisor_that_was_killed(supervised, tmp_path):
    (tmp_path / "raylet").symlink_to("/usr/bin/sleep")
    ref = supervised(f"{UP} exec $HERE/raylet 600")
    await_true(lambda: named(ref, "raylet"))
    psutil.Process(ref.pid).kill()
    await_true(lambda: in_session(ref) == [])


def test_a_node_is_started_by_nobody_while_its_head_is_away(supervised, tmp_path):
    ref = supervised(f"{UP} echo start >> $HERE/starts; exit 1", head="127.0.0.9:1")
    await_true(lambda: "127.0.0.9:1 does not answer; waiting for it" in ref.log.read_text())
    assert alive(ref)
    assert (tmp_path / "starts").read_text() == "start\n"


def test_after_a_boot_a_node_looks_for_its_head_before_anything_else(supervised, tmp_path):
    ref = supervised("echo start >> $HERE/starts; exit 1", head="127.0.0.9:1", after_boot=True)
    await_true(lambda: "127.0.0.9:1 does not answer" in ref.log.read_text())
    assert alive(ref)
    assert not (tmp_path / "starts").exists()


def test_what_stops_the_supervisor_itself_is_one_line_and_ray_ends_with_it(supervised, tmp_path):
    (tmp_path / "raylet").symlink_to("/usr/bin/sleep")
    ref = supervised(f"{UP} exec $HERE/raylet 600")
    await_true(lambda: named(ref, "raylet"))
    (tmp_path / "t" / "r").rmdir()
    (tmp_path / "t").rmdir()
    (tmp_path / "t").write_text("no folder")
    [raylet] = in_session(ref)
    raylet.kill()
    await_true(lambda: not alive(ref))
    assert re.search(r"supervisor: .*File exists", ref.log.read_text().splitlines()[-1])
    assert in_session(ref) == []
