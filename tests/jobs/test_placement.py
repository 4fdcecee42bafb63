import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.node.drain import Drained
from jobs.execution.placement import Missing, Node, Placement, avoiding, live_nodes, matches, needed, place
from jobs.recipe import WorkersSpec

ATTIC = Node("attic", {"room": "attic", "gpu": "3090"}, 8, 1)
CELLAR = Node("cellar", {"room": "cellar", "gpu": "3080"}, 4, 1)
LAPTOP = Node("laptop", {"room": "attic"}, 2, 0)


def spec(count: int = 1, **rest) -> WorkersSpec:
    return WorkersSpec(count=count, **rest)


def test_auto_takes_gpus_only_where_every_matching_machine_has_one():
    both = place(spec(2), [ATTIC, CELLAR])
    assert both == Placement(True, {"CPU": 1.0, "GPU": 1.0}, [{}, {}])
    assert place(spec(2), [ATTIC, CELLAR, LAPTOP]) == Placement(False, {"CPU": 1.0}, [{}, {}])
    assert place(spec(1, labels=({"room": "cellar"},)), [ATTIC, CELLAR, LAPTOP]).use_gpu
    assert not place(spec(2, device="cpu"), [ATTIC, CELLAR]).use_gpu


def test_selectors_keep_the_order_of_the_recipe_and_one_serves_all():
    labels = ({"room": "cellar"}, {"room": "attic"})
    assert place(spec(2, labels=labels), [ATTIC, CELLAR]).selectors == list(labels)
    assert place(spec(2, labels=({"room": "attic"},), cpus=4), [ATTIC]) == Missing(
        "no machine with labels room=attic has 4 free CPU core(s) and a GPU for worker 2 of 2; "
        "live: attic (8 cores, 1 GPUs)"
    )


@pytest.mark.parametrize(
    ("workers", "nodes", "part"),
    [
        (spec(1), [], "live: none"),
        (spec(1, labels=({"room": "loft"},)), [ATTIC], "with labels room=loft"),
        (spec(1, device="cuda"), [LAPTOP], "and a GPU"),
        (spec(1, cpus=16), [ATTIC], "16 free CPU"),
        (spec(3, device="cuda"), [ATTIC, CELLAR], "worker 3 of 3"),
    ],
)
def test_what_is_missing_is_said(workers, nodes, part):
    found = place(workers, nodes)
    assert isinstance(found, Missing)
    assert part in found.why


def test_a_worker_moves_aside_for_one_that_fits_nowhere_else():
    # First come, first served would put the first worker on the attic PC and leave none for the second.
    assert isinstance(
        place(spec(2, cpus=8, labels=({}, {"room": "attic"}), device="cpu"), [ATTIC, Node("shed", {}, 8, 0)]), Placement
    )


@given(
    st.lists(st.sets(st.integers(0, 2)), min_size=1, max_size=4), st.lists(st.integers(0, 3), min_size=3, max_size=3)
)
def test_a_placement_is_found_exactly_when_there_is_one(wanted, cores):
    nodes = [Node(str(i), {"n": str(i)}, c, 0) for i, c in enumerate(cores)]
    labels = tuple({"n": f"in({','.join(map(str, sorted(w)))})" if w else "none"} for w in wanted)
    found = place(WorkersSpec(count=len(wanted), labels=labels, device="cpu"), nodes)
    possible = any(all(membership.count(n) <= cores[n] for n in range(3)) for membership in itertools.product(*wanted))
    assert isinstance(found, Placement) == possible


@pytest.mark.parametrize(
    ("wanted", "yes"),
    [
        ("a", True),
        ("b", False),
        ("!a", False),
        ("!b", True),
        ("in(a, b)", True),
        ("in(b,c)", False),
        ("!in(b,c)", True),
    ],
)
def test_selectors_in_the_notation_of_ray(wanted, yes):
    assert matches({"k": wanted}, {"k": "a"}) == yes


def test_only_live_nodes_count():
    row = {
        "NodeName": "x", "Labels": {"a": "b"}, "Resources": {"CPU": 2.0}, "NodeID": "7f",
        "NodeManagerAddress": "10.0.0.1", "NodeManagerPort": 7,
    }  # fmt: skip
    expected = Node("x", {"a": "b"}, 2.0, 0.0, "7f", "10.0.0.1", 7)
    assert live_nodes([{**row, "Alive": True}, {**row, "Alive": False}]) == [expected]


def away(node: Node) -> Drained:
    return Drained(
        name=node.name, by="user", since_s=0, leaves_s=1, labels=dict(node.labels), cpus=node.cpus, gpus=node.gpus
    )


def test_a_drained_node_holds_no_worker_whether_it_has_left_or_not():
    found = place(spec(1), [ATTIC, CELLAR], [away(ATTIC)])
    assert found == Placement(True, {"CPU": 1.0, "GPU": 1.0}, [{"vr/node": "!in(attic)"}])
    for nodes in ([ATTIC, CELLAR], [CELLAR]):
        assert place(spec(2), nodes, [away(ATTIC)]) == Missing("attic is drained until `vr cluster undrain attic`")


def test_only_a_drained_node_that_would_help_is_named():
    assert place(spec(1, labels=({"room": "attic"},)), [], [away(CELLAR), away(ATTIC)]) == Missing(away(ATTIC).why)
    soon = away(CELLAR).model_copy(update={"until_s": 3600.0})
    assert place(spec(1), [], [away(ATTIC), soon]) == Missing(soon.why), "whoever is back first"
    found = place(spec(3, device="cuda"), [ATTIC], [away(CELLAR)])
    assert isinstance(found, Missing)
    assert found.why == "no machine has 1 free CPU core(s) and a GPU for worker 2 of 3; live: attic (8 cores, 1 GPUs)"


def test_a_run_keeps_its_device_when_the_machine_without_a_gpu_is_drained():
    assert not place(spec(1), [ATTIC, LAPTOP]).use_gpu
    assert not place(spec(1), [ATTIC], [away(LAPTOP)]).use_gpu


def test_of_absent_machines_as_few_as_can_be_are_needed():
    assert needed(spec(2, device="cuda"), [ATTIC], [LAPTOP, CELLAR]) == [CELLAR]
    assert needed(spec(1, device="cuda"), [ATTIC], [LAPTOP, CELLAR]) == []
    assert needed(spec(3, device="cuda"), [ATTIC], [LAPTOP, CELLAR]) == []


NAMES = st.sampled_from(["a", "b", "c"])
SELECTORS = st.one_of(
    st.none(), NAMES, NAMES.map("!{}".format), st.sets(NAMES, min_size=1).map(lambda s: f"in({','.join(sorted(s))})"),
    st.sets(NAMES, min_size=1).map(lambda s: f"!in({', '.join(sorted(s))})"),
)  # fmt: skip


@given(SELECTORS, st.sets(NAMES, max_size=2), NAMES)
def test_a_selector_is_narrowed_to_what_is_not_drained(wanted, drained, name):
    selector = {} if wanted is None else {"vr/node": wanted}
    narrowed = avoiding({"x": "y", **selector}, drained)
    labels = {"x": "y", "vr/node": name}
    left = [n for n in "abc" if n not in drained and matches(selector, {"vr/node": n})]
    if left or not drained:
        assert matches(narrowed, labels) == (matches(selector, labels) and name not in drained)
    assert narrowed["x"] == "y"
