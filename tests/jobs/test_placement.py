import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.placement import Missing, Node, Placement, live_nodes, matches, place
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
    possible = any(all(seats.count(n) <= cores[n] for n in range(3)) for seats in itertools.product(*wanted))
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
    row = {"NodeName": "x", "Labels": {"a": "b"}, "Resources": {"CPU": 2.0}}
    assert live_nodes([{**row, "Alive": True}, {**row, "Alive": False}]) == [Node("x", {"a": "b"}, 2.0, 0.0)]
