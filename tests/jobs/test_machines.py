import dataclasses
import datetime
from zoneinfo import ZoneInfo

import pytest

from cluster.inventory import GpuSpec, Inventory, NodeSpec
from cluster.node.drain import Drained, Record
from cluster.timings import DEFAULT_TIMINGS as WAITS
from jobs.queue.node_power import (
    Drain,
    Leave,
    Memory,
    Publish,
    Return,
    Seen,
    Suspend,
    Wake,
    about,
    by_time,
    decide,
    has_cares,
    leaving,
    noted,
    offer,
    suspending,
    waking,
)
from jobs.recipe import WorkersSpec

NIGHT = datetime.datetime(2026, 11, 23, 23, 0)  # a Monday
DAY = datetime.datetime(2026, 11, 24, 12, 0)
NIGHT_S = NIGHT.timestamp()
CARD = GpuSpec(model="NVIDIA GeForce RTX 3080 Ti", memory_gib=12)
ATTIC = NodeSpec(name="attic", address="192.168.1.10", role="head", cpus=8, gpus=())
STUDY = NodeSpec(
    name="study",
    address="192.168.1.11",
    cpus=4,
    gpus=(CARD,),
    labels={"room": "study"},
    mac="9c:6b:00:12:34:56",
    idle_suspend="30m",
)
HOURS = ("22:00-07:00",)
HOME = Inventory(nodes=(ATTIC, STUDY))
LENT_BY_NIGHT = Inventory(nodes=(ATTIC, STUDY.model_copy(update={"owner_hours": HOURS})))
ATTIC_UP = Seen("attic", "a1", True, True, False, {"vr/node": "attic"}, 8, 0)
STUDY_UP = Seen("study", "s1", True, False, False, {"vr/node": "study", "room": "study"}, 4, 1)
STUDY_OFF = dataclasses.replace(STUDY_UP, alive=False, cpus=0, gpus=0)


def drained(**changes) -> Drained:
    base = {"name": "study", "by": "user", "since_s": NIGHT_S, "leaves_s": NIGHT_S + WAITS.leave_within_s}
    return Drained.model_validate({**base, **changes})


def test_a_drained_node_comes_back_at_its_time():
    record = Record(nodes=(drained(until_s=NIGHT_S), drained(name="attic")))
    assert by_time(None, record, [], NIGHT, WAITS) == [Return("study")]
    assert by_time(None, record, [], NIGHT - datetime.timedelta(seconds=1), WAITS) == []


def test_outside_of_its_owner_hours_a_node_is_drained_until_they_begin_also_when_it_is_off():
    [action] = by_time(LENT_BY_NIGHT, Record(), [ATTIC_UP, STUDY_UP], DAY, WAITS)
    assert isinstance(action, Drain)
    node = action.node
    assert (node.name, node.by, node.is_head, node.cpus, node.gpus) == ("study", "hours", False, 4, 1)
    assert node.why == "study is drained until 22:00"
    assert node.leaves_s == DAY.timestamp() + WAITS.leave_within_s
    assert by_time(LENT_BY_NIGHT, Record(nodes=(node,)), [STUDY_UP], DAY, WAITS) == []
    [off] = by_time(LENT_BY_NIGHT, Record(), [ATTIC_UP], DAY, WAITS)
    assert isinstance(off, Drain)
    assert by_time(LENT_BY_NIGHT, Record(), [STUDY_UP], NIGHT, WAITS) == []


def test_with_its_owner_hours_a_node_comes_back_but_not_one_that_the_user_drained():
    by_hours = drained(by="hours", until_s=NIGHT_S + 3600)  # the hours in the inventory were changed meanwhile
    assert by_time(LENT_BY_NIGHT, Record(nodes=(by_hours,)), [], NIGHT, WAITS) == [Return("study")]
    assert by_time(LENT_BY_NIGHT, Record(nodes=(drained(),)), [], NIGHT, WAITS) == []
    assert by_time(HOME, Record(nodes=(by_hours,)), [], NIGHT, WAITS) == [Return("study")], "it has no hours any more"


def test_a_node_that_was_brought_back_is_left_alone_until_its_hours_begin():
    lent = Record(lent=("study",))
    assert by_time(LENT_BY_NIGHT, lent, [STUDY_UP], DAY, WAITS) == []
    assert by_time(LENT_BY_NIGHT, lent, [STUDY_UP], NIGHT, WAITS) == [Return("study")]
    for inventory in (HOME, None):
        assert by_time(inventory, lent, [STUDY_UP], DAY, WAITS) == [Return("study")], "it has no hours any more"


def test_ray_is_asked_once_for_each_life_of_a_node_and_never_to_end_the_head():
    record = Record(nodes=(drained(), drained(name="attic", is_head=True)))
    names = frozenset({"study", "attic"})
    nodes = [ATTIC_UP, STUDY_UP]
    publish, leave = leaving(record, nodes, Memory(), NIGHT_S, WAITS)
    assert publish == Publish(names)
    assert leave == Leave(STUDY_UP, "study is drained until `vr cluster undrain study`", WAITS.leave_within_s)
    done = Memory(published=names, published_s=NIGHT_S, asked=frozenset({"s1"}))
    again_s = NIGHT_S + WAITS.publish_again_s
    assert leaving(record, nodes, done, again_s - 1, WAITS) == []
    assert leaving(record, nodes, done, again_s, WAITS) == [Publish(names)], "a new GCS knows nothing"
    again = dataclasses.replace(STUDY_UP, node_id="s2")
    since = noted(done, record, nodes, NIGHT_S)
    [_, leave] = leaving(record, [ATTIC_UP, again], since, NIGHT_S + 1e4, WAITS)
    assert isinstance(leave, Leave)
    assert leave.within_s == WAITS.least_notice_s
    assert leaving(record, [ATTIC_UP, STUDY_OFF], Memory(published=names, published_s=NIGHT_S), NIGHT_S, WAITS) == []


def test_a_pc_is_woken_when_a_run_waits_that_fits_with_it():
    gpu = WorkersSpec(count=1, device="cuda")
    nodes = [ATTIC_UP, STUDY_OFF]
    assert waking(HOME, Record(), nodes, [gpu], Memory(), NIGHT_S, WAITS) == [Wake(STUDY)]
    for workers in (
        WorkersSpec(count=1, device="cpu"),  # waits for another run to end
        WorkersSpec(count=2, device="cuda"),  # would not fit with it either
        WorkersSpec(count=1, device="cuda", labels=({"room": "cellar"},)),
    ):
        assert waking(HOME, Record(), nodes, [workers], Memory(), NIGHT_S, WAITS) == []
    assert waking(HOME, Record(nodes=(drained(),)), nodes, [gpu], Memory(), NIGHT_S, WAITS) == [], "the owner has it"
    assert waking(HOME, Record(), [ATTIC_UP, STUDY_UP], [gpu], Memory(), NIGHT_S, WAITS) == [], "it is up"
    no_mac = Inventory(nodes=(ATTIC, STUDY.model_copy(update={"mac": None})))
    assert waking(no_mac, Record(), nodes, [gpu], Memory(), NIGHT_S, WAITS) == []


def test_a_drained_head_offers_nothing_to_a_run_that_waits_for_a_sleeping_pc():
    record = Record(nodes=(drained(name="attic", is_head=True, cpus=8),))
    cpu = WorkersSpec(count=1, device="cpu")
    assert waking(HOME, record, [ATTIC_UP, STUDY_OFF], [cpu], Memory(), NIGHT_S, WAITS) == [Wake(STUDY)]


def test_a_pc_that_was_woken_has_time_to_start():
    gpu, woken = WorkersSpec(count=1, device="cuda"), Memory(woken_s={"study": NIGHT_S})
    assert waking(HOME, Record(), [ATTIC_UP], [gpu], woken, NIGHT_S + WAITS.wake_again_s - 1, WAITS) == []
    assert waking(HOME, Record(), [ATTIC_UP], [gpu], woken, NIGHT_S + WAITS.wake_again_s, WAITS) == [Wake(STUDY)]


def test_what_the_inventory_leaves_open_is_taken_for_enough():
    found = offer(STUDY.model_copy(update={"cpus": None, "gpus": None}))
    assert found.cpus > 1000
    assert found.gpus > 1000
    assert (offer(STUDY).cpus, offer(STUDY).gpus) == (4, 1)
    assert offer(STUDY).labels["vr/gpu-model"] == "GeForce-RTX-3080-Ti"


def test_idle_is_counted_from_the_last_moment_in_use():
    def idle(before: dict[str, float], nodes: list[Seen], at_s: float) -> dict[str, float]:
        return dict(noted(Memory(idle_since_s=before), Record(), nodes, at_s).idle_since_s)

    busy = dataclasses.replace(STUDY_UP, busy=True)
    assert idle({}, [ATTIC_UP, STUDY_UP], 10) == {"attic": 10, "study": 10}
    assert idle({"study": 10.0}, [STUDY_UP], 20) == {"study": 10}
    assert idle({"study": 10.0}, [busy], 30) == {}
    assert idle({"study": 10.0}, [STUDY_OFF], 30) == {}


def test_the_time_to_leave_is_counted_from_when_the_keeper_saw_it_drained_whatever_the_clock():
    record = Record(nodes=(drained(since_s=NIGHT_S + 1e6, leaves_s=NIGHT_S - 1e6),))
    told = Memory(published=frozenset({"study"}), published_s=500.0)
    memory = noted(told, record, [STUDY_UP], 500.0)
    [leave] = leaving(record, [STUDY_UP], memory, 530.0, WAITS)
    assert leave.within_s == WAITS.leave_within_s - 30
    anew = Record(nodes=(drained(since_s=NIGHT_S + 2e6),))
    [leave] = leaving(anew, [STUDY_UP], noted(memory, anew, [STUDY_UP], 540.0), 540.0, WAITS)
    assert leave.within_s == WAITS.leave_within_s


def test_a_complaint_names_the_pc():
    gone = Drain(drained())
    actions = [gone, Return("study"), Leave(STUDY_UP, "", 1.0), Wake(STUDY), Suspend(STUDY, STUDY_UP)]
    assert [about(action) for action in actions] == [
        f"{verb} study" for verb in ("drain", "return", "leave", "wake", "suspend")
    ]
    assert about(Publish(frozenset())) == "publish the nodes"


BERLIN = ZoneInfo("Europe/Berlin")


def test_hours_begin_at_their_time_of_day_also_when_the_clocks_were_changed_meanwhile():
    """25 October 2026, 3:00 summer time is 2:00 winter time: 22:00 that day is an hour later than on other days."""
    before = datetime.datetime(2026, 10, 24, 12, tzinfo=BERLIN)
    sunday = Inventory(nodes=(ATTIC, STUDY.model_copy(update={"owner_hours": ("sun 22:00-23:00",)})))
    [drain] = by_time(sunday, Record(), [STUDY_UP], before, WAITS)
    assert drain.node.until_s == datetime.datetime(2026, 10, 25, 22, tzinfo=BERLIN).timestamp()
    assert drain.node.until_s - before.timestamp() == 35 * 3600
    # Reckoned by what the offset was, or by a clock that has been set since.
    early = Record(nodes=(drain.node.model_copy(update={"until_s": drain.node.until_s - 3600}),))
    at = datetime.datetime(2026, 10, 25, 21, 30, tzinfo=BERLIN)
    assert by_time(sunday, early, [STUDY_OFF], at, WAITS) == []
    assert by_time(sunday, early, [STUDY_OFF], at.replace(hour=22), WAITS) == [Return("study")]


@pytest.mark.parametrize(
    ("nodes", "idle_s", "waiting", "suspended"),
    [
        ([ATTIC_UP, STUDY_UP], 1800, [], True),
        ([ATTIC_UP, STUDY_UP], 1799, [], False),
        ([ATTIC_UP, STUDY_UP], 1800, [WorkersSpec()], False),
        ([ATTIC_UP, STUDY_UP], 1800, None, False),
        ([ATTIC_UP, STUDY_OFF], 1800, [], False),
        ([ATTIC_UP, dataclasses.replace(STUDY_UP, is_head=True)], 1800, [], False),
    ],
)
def test_a_pc_that_was_idle_long_enough_is_suspended_but_never_the_head(nodes, idle_s, waiting, suspended):
    memory = Memory(idle_since_s={"study": NIGHT_S - idle_s, "attic": 0.0})
    expected = [Suspend(STUDY, STUDY_UP)] if suspended else []
    assert suspending(HOME, nodes, waiting, memory, NIGHT_S) == expected


def test_a_cluster_without_such_wishes_is_not_looked_at():
    plain = Inventory(nodes=(ATTIC, STUDY.model_copy(update={"mac": None, "idle_suspend": None})))
    told = Memory(published=frozenset())
    for inventory in (None, plain):
        assert not has_cares(inventory, Record(), told)
        assert has_cares(inventory, Record(), Memory()), "what an earlier keeper has told the nodes may be old"
        assert has_cares(inventory, Record(nodes=(drained(),)), told)
        assert has_cares(inventory, Record(lent=("study",)), told)
    assert has_cares(HOME, Record(), told)
    assert has_cares(LENT_BY_NIGHT, Record(), told)
    assert decide(None, Record(), [ATTIC_UP], [WorkersSpec(count=9)], told, NIGHT, 0.0, WAITS) == []
