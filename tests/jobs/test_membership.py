"""Which machines a run takes that takes what is there, who joins when, and who is not responding."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.node.drain import Drained
from cluster.timings import DEFAULT_TIMINGS
from jobs.execution.heartbeat import Heartbeat, answers
from jobs.execution.membership import ClusterView, Membership
from jobs.execution.placement import Missing, Node, Placement, least_workers, place, place_run
from jobs.recipe import Recipe
from tests.jobs.ports import listening
from tests.jobs.waiting import until
from vr_core.config import validate
from vr_core.errors import ConfigError


def node(name, gpus=1, memory=None, cpus=8, id=None, **labels):
    more = {"vr/gpu-memory-gib": str(memory)} if memory else {}
    return Node(name, {"vr/node": name, **more, **labels}, cpus, gpus, id or f"id-{name}")


BIG, SMALL, OLD = node("big", memory=24), node("small", memory=12, room="attic"), node("old", memory=8)
LAPTOP = node("laptop", gpus=0)
TWO = node("two", gpus=2, memory=12)


def recipe(workers=None, items=16, **nodes):
    return validate(
        Recipe,
        {"name": "demo", "steps": 9, "batch": {"items": items}, "workers": workers or {}, "nodes": nodes},
        "demo",
    )


def drained(of):
    return Drained(name=of.name, by="user", since_s=0, leaves_s=1, labels=dict(of.labels), cpus=of.cpus, gpus=of.gpus)


@pytest.mark.parametrize(
    ("wish", "there", "taken"),
    [
        ({}, [LAPTOP, OLD, SMALL, BIG], ("big", "small", "old")),
        ({}, [LAPTOP], ("laptop",)),
        ({"memory_gib": 10}, [OLD, SMALL, BIG], ("big", "small")),
        ({"max": 1}, [SMALL, BIG, OLD], ("big",)),
        ({"exclude": ["big"]}, [SMALL, BIG], ("small",)),
        ({"labels": {"room": "attic"}}, [SMALL, BIG], ("small",)),
        ({"labels": {"room": "!attic"}}, [SMALL, BIG], ("big",)),
        ({}, [node("busy", cpus=0, memory=24), SMALL], ("small",)),
    ],
)
def test_who_is_taken(wish, there, taken):
    found = place_run(recipe(**wish), there)
    assert isinstance(found, Placement)
    assert found.names == taken
    assert [selector["vr/node"] for selector in found.selectors] == list(taken)


def test_a_machine_has_a_worker_for_each_gpu_and_one_without():
    found = place_run(recipe(), [TWO, SMALL])
    assert [selector["vr/node"] for selector in found.selectors] == ["two", "two", "small"]
    assert found.use_gpu
    assert len(place_run(recipe({"device": "cpu"}), [TWO, LAPTOP]).selectors) == 2
    # No more workers than items.
    assert len(place_run(recipe(items=2), [TWO, SMALL]).selectors) == 2


def test_too_few_are_waited_for_and_the_drained_ones_are_named():
    found = place_run(recipe(min=2), [BIG, LAPTOP])
    assert found == Missing(
        "1 of 2 machines with 1 CPU core(s) and a GPU; live: big (8 cores, 1 GPUs), laptop (8 cores, 0 GPUs)"
    )
    away = place_run(recipe(min=2), [BIG, SMALL], [drained(SMALL)])
    assert isinstance(away, Missing)
    assert "small is drained" in away.why
    assert place_run(recipe(), [BIG, SMALL], [drained(SMALL)]).names == ("big",)


def test_a_run_keeps_its_device():
    assert place_run(recipe(), [BIG, LAPTOP], on_gpus=False).names == ("big", "laptop")
    assert isinstance(place_run(recipe(), [LAPTOP], on_gpus=True), Missing)
    # The only GPU is drained: the laptop would be another device.
    assert isinstance(place_run(recipe(), [LAPTOP], [drained(BIG)]), Missing)


def test_without_nodes_it_is_a_fixed_number():
    plain = validate(Recipe, {"name": "demo", "steps": 9, "workers": {"count": 2}}, "demo")
    assert place_run(plain, [BIG, SMALL]) == place(plain.workers, [BIG, SMALL])
    assert least_workers(plain) == plain.workers


def test_what_a_waiting_run_needs_at_least_wakes_a_pc():
    workers = least_workers(recipe(min=2, exclude=["laptop"], labels={"room": "attic"}))
    assert (workers.count, workers.labels) == (2, ({"room": "attic", "vr/node": "!in(laptop)"},))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"workers": {"count": 2}, "nodes": {}}, "leave out workers.count"),
        ({"nodes": {"min": 3, "max": 2}}, "max 2 is less than min 3"),
        ({"nodes": {"min": 17}}, "more than batch.items"),
        ({"nodes": {"mim": 1}}, "did you mean nodes.min"),
    ],
)
def test_a_wish_that_makes_no_sense_is_refused(more, said):
    with pytest.raises(ConfigError, match=said):
        validate(Recipe, {"name": "demo", "steps": 9, **more}, "demo")


@given(st.lists(st.sampled_from([BIG, SMALL, OLD, LAPTOP, TWO]), unique_by=lambda node: node.name), st.integers(1, 4))
def test_a_placement_never_has_a_drained_machine_nor_too_few(there, least):
    found = place_run(recipe(min=least), there, [drained(SMALL)])
    if isinstance(found, Placement):
        assert "small" not in found.names
        assert len(found.names) >= least


class World:
    """Ray's nodes and the clock, as a test sets them."""

    def __init__(self):
        self.nodes, self.now_s = [], 1000.0
        self.view = ClusterView(lambda: list(self.nodes), lambda: "", lambda: self.now_s)


@pytest.fixture
def world(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return World()


def test_a_pc_joins_when_it_is_steady_and_the_run_has_rested(world):
    membership = Membership(recipe(), shared=True, view=world.view, timings=DEFAULT_TIMINGS)
    world.nodes = [BIG]
    now = membership.place(None)
    world.now_s += DEFAULT_TIMINGS.rest_s
    world.nodes = [BIG, SMALL]
    assert membership.joining(now, 1000.0) == [], "it has just come"
    world.now_s += DEFAULT_TIMINGS.join_after_s
    assert membership.joining(now, world.now_s - 1) == [], "the run has just begun"
    assert membership.joining(now, 1000.0) == ["small"]
    fixed = validate(Recipe, {"name": "demo", "steps": 9}, "demo")
    assert Membership(fixed, True, view=world.view, timings=DEFAULT_TIMINGS).joining(now, 0.0) == []


def test_a_lost_pc_is_left_alone_until_it_has_another_id(world):
    membership = Membership(recipe(), shared=True, view=world.view, timings=DEFAULT_TIMINGS)
    world.nodes = [BIG, SMALL]
    assert membership.place(None).names == ("big", "small")
    membership.lose([SMALL])
    assert membership.place(None).names == ("big",), "Ray still takes it for alive"
    world.nodes = [BIG, node("small", memory=12, id="another")]
    assert membership.place(None).names == ("big", "small")


def test_a_fixed_number_of_workers_is_kept_from_a_ghost_as_well(world):
    membership = Membership(
        validate(Recipe, {"name": "demo", "steps": 9, "workers": {"count": 2}}, "demo"),
        True,
        view=world.view,
        timings=DEFAULT_TIMINGS,
    )
    world.nodes = [BIG, SMALL, OLD]
    membership.lose([SMALL])
    assert membership.place(None).selectors == [{"vr/node": "!in(small)"}] * 2


def test_who_answers_is_there_and_who_does_not_is_lost():
    with listening() as (port, _):
        there, nowhere = (Node(n, {}, 1, 0, n, "127.0.0.1", p) for n, p in (("there", port), ("nowhere", 1)))
        assert answers("127.0.0.1", port, DEFAULT_TIMINGS.answer_within_s)
        began_s = time.monotonic()
        with Heartbeat([there, nowhere], DEFAULT_TIMINGS) as heartbeat:
            assert heartbeat.unresponsive() == []
            until(lambda: heartbeat.unresponsive())
            assert time.monotonic() - began_s > DEFAULT_TIMINGS.silent_s, "one lost answer is none"
            assert heartbeat.unresponsive() == ["nowhere"]
