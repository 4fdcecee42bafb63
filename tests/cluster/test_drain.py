import datetime
import stat
import threading
from zoneinfo import ZoneInfo

import pytest

from cluster.errors import ClusterError
from cluster.node.drain import (
    Drained,
    Record,
    by_name,
    change_drained,
    drain_for,
    drained_file,
    drop,
    is_over,
    may_start,
    put,
    read_drained,
    read_spans,
    reckoned,
    shown_time,
    undrain,
    until,
)
from cluster.node.processes import Now

NOW = datetime.datetime(2026, 11, 23, 21, 30)
NOW_S = NOW.timestamp()
STUDY = Drained(name="study", by="user", since_s=NOW_S, until_s=NOW_S + 5400, leaves_s=NOW_S + 120)


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


@pytest.mark.parametrize(
    ("for_", "until_", "expected"),
    [
        ("3h", None, NOW + datetime.timedelta(hours=3)),
        (None, "23:00", NOW.replace(hour=23, minute=0)),
        (None, "21:30", NOW + datetime.timedelta(days=1)),
        (None, "07:15", NOW.replace(day=24, hour=7, minute=15)),
    ],
)
def test_when_it_comes_back(for_, until_, expected):
    assert until(NOW, for_, until_) == expected.timestamp()
    assert until(NOW, None, None) is None


def test_a_time_of_day_is_the_walls_on_its_date_and_a_duration_is_not():
    """25 October 2026, 3:00 summer time is 2:00 winter time in Berlin: that night has an hour more."""
    now = datetime.datetime(2026, 10, 24, 23, tzinfo=ZoneInfo("Europe/Berlin"))
    assert until(now, None, "07:00") - now.timestamp() == 9 * 3600
    assert until(now, "8h", None) - now.timestamp() == 8 * 3600


@pytest.mark.parametrize(
    ("for_", "until_", "said"),
    [("3", None, "--for '3' should be"), (None, "25:00", "--until '25:00' should be"), ("3h", "23:00", "choose one")],
)
def test_a_time_that_is_none_is_refused(for_, until_, said):
    with pytest.raises(ClusterError, match=said):
        until(NOW, for_, until_)


def test_why_a_run_waits_is_said_in_the_time_of_the_day():
    assert STUDY.why == "study is drained until 23:00"
    forever = STUDY.model_copy(update={"until_s": None})
    assert forever.why == "study is drained until `vr cluster undrain study`"
    assert forever.model_copy(update={"by": "hours"}).why == "study is drained until its owner hours begin"
    assert shown_time(NOW_S + 5400 * 2, NOW_S) == "2026-11-24 00:30"


def test_its_time_is_over_at_its_end_and_never_without_one():
    assert [is_over(STUDY, NOW_S + s) for s in (0, 5399, 5400)] == [False, False, True]
    assert not is_over(STUDY.model_copy(update={"until_s": None}), NOW_S * 2)


def test_a_node_is_drained_once_and_brought_back():
    record = put(put(Record(), STUDY), STUDY.model_copy(update={"until_s": None}))
    assert [node.until_s for node in record.nodes] == [None]
    assert drop(record, ["study"]) == Record()
    assert undrain(record, "study") == Record()
    assert set(by_name(record)) == {"study"}


def test_what_a_node_that_has_left_would_offer_is_kept_when_its_time_is_changed():
    before = STUDY.model_copy(update={"labels": {"room": "study"}, "cpus": 4.0, "gpus": 1.0})
    [node] = put(Record(nodes=(before,)), STUDY.model_copy(update={"until_s": NOW_S + 1})).nodes
    assert (node.labels, node.cpus, node.gpus, node.until_s) == ({"room": "study"}, 4, 1, NOW_S + 1)
    [node] = put(Record(nodes=(before,)), before.model_copy(update={"cpus": 2.0})).nodes
    assert node.cpus == 2


def test_one_that_is_brought_back_in_spite_of_its_hours_is_left_alone_until_they_begin():
    record = put(Record(), STUDY.model_copy(update={"by": "hours"}))
    lent = undrain(record, "study")
    assert lent == Record(lent=("study",))
    assert put(lent, STUDY) == Record(nodes=(STUDY,)), "and drained again when the user says so"
    assert drop(lent, ["study"]) == Record()


def test_a_node_starts_again_only_when_the_head_says_that_it_may():
    assert may_start("study", frozenset())
    assert may_start("study", {"attic"})
    assert not may_start("study", {"study"})
    assert not may_start("study", None)


def test_the_record_is_its_owners_alone_and_a_damaged_one_is_named():
    assert read_drained() == Record()
    assert change_drained(lambda record: put(record, STUDY)) == read_drained() == Record(nodes=(STUDY,))
    assert stat.S_IMODE(drained_file().stat().st_mode) == 0o600
    drained_file().write_text('{"nodes": 3}')
    with pytest.raises(ClusterError, match=r"drained\.json: unreadable .*delete it"):
        read_drained()


def test_of_changes_at_once_none_is_lost():
    def drain(name):
        change_drained(lambda record: put(record, STUDY.model_copy(update={"name": name})))

    threads = [threading.Thread(target=drain, args=(f"pc-{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {node.name for node in read_drained().nodes} == {f"pc-{i}" for i in range(8)}


def test_a_duration_is_counted_from_boot_whatever_the_clock(tmp_path):
    at = Now("this boot", 1000.0)
    drain_for(STUDY, 5400, at)
    assert read_drained() == Record(nodes=(STUDY,)), "as earlier versions read it"
    for later_s, clock_s in ((5399.0, NOW_S + 1e6), (5400.0, NOW_S - 1e6)):  # set forward, and back
        moment = at._replace(since_boot_s=1000.0 + later_s)
        [node] = reckoned(read_drained(), read_spans(), moment, clock_s).nodes
        assert is_over(node, clock_s) == (later_s >= 5400)
    [node] = reckoned(read_drained(), read_spans(), Now("the next boot", 20.0), NOW_S).nodes
    assert node == STUDY, "only the clock is left"


def test_a_duration_is_its_own_drains_alone():
    at = Now("this boot", 1000.0)
    drain_for(STUDY, 60, at)
    drain_for(STUDY.model_copy(update={"name": "attic"}), 120, at)
    later = STUDY.model_copy(update={"since_s": NOW_S + 1})
    change_drained(lambda record: put(record, later))
    moment = at._replace(since_boot_s=1060.0)
    nodes = by_name(reckoned(read_drained(), read_spans(), moment, NOW_S))
    assert (nodes["study"], nodes["attic"].until_s) == (later, NOW_S + 60)
    drain_for(later, 60, at)
    assert {span.name: span.since_s for span in read_spans()} == {"attic": NOW_S, "study": NOW_S + 1}
    drained_file().with_name("drained-for.json").write_text("{")
    with pytest.raises(ClusterError, match=r"drained-for\.json: unreadable .*delete it"):
        read_spans()
