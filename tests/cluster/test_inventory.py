from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

# Ray says what labels it takes nowhere else, and a node that has others does not start.
from ray._private.label_utils import parse_node_labels_string, validate_label_key, validate_label_value

import cluster
from cluster.inventory import GpuSpec, Inventory, NodeSpec, label_value, node_labels
from vr_core.config import load, to_yaml, validate
from vr_core.errors import ConfigError
from vr_core.yaml12 import parse_yaml

FOLDER = Path(cluster.__path__[0])
HEAD = {"name": "attic", "address": "192.168.1.10", "role": "head"}
WORKER = {"name": "study", "address": "192.168.1.11"}


def test_the_shipped_example_describes_two_pcs_with_unequal_cards():
    example = load(Inventory, FOLDER / "example.yaml")
    assert example.head.name == "attic"
    assert [node.gpus[0].memory_gib for node in example.nodes if node.gpus] == [24, 12]
    assert example.at(["10.0.0.1", "192.168.1.11"]).name == "study"
    assert example.at(["10.0.0.1"]) is None
    assert validate(Inventory, parse_yaml(to_yaml(example), "text"), "text") == example


def test_the_shipped_localhost_stays_on_this_machine():
    (node,) = load(Inventory, FOLDER / "localhost.yaml").nodes
    assert (node.role, node.address, node.gpus, node.cpus) == ("head", "127.0.0.1", None, None)


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ([], "exactly one node needs `role: head`, found none"),
        ([WORKER], "exactly one node needs `role: head`, found none"),
        ([HEAD, {**WORKER, "role": "head"}], "exactly one node needs `role: head`, found attic, study"),
        ([HEAD, {**WORKER, "name": "attic"}], "the name attic stands twice"),
        ([HEAD, {**WORKER, "address": "192.168.1.10"}], "the address 192.168.1.10 stands twice"),
        ([{**HEAD, "address": "127.0.0.1"}, WORKER], "no other PC reaches"),
        ([{**HEAD, "address": "attic.lan"}], "nodes.0.address: should be an IPv4 address"),
        ([{**HEAD, "address": "0.0.0.0"}], "the address of one machine"),
        ([{**HEAD, "gpu": []}], "did you mean nodes.0.gpus?"),
        ([{**HEAD, "gpus": [{"model": "RTX 3090", "memory": 24}]}], "nodes.0.gpus.0.memory: unknown key"),
        ([{**HEAD, "labels": {"vr/node": "x"}}], "the prefix vr/"),
        ([{**HEAD, "labels": {"ray.io/zone": "x"}}], "the prefix ray.io/"),
        ([{**HEAD, "labels": {"room": "2nd floor"}}], "label room"),
        ([{**HEAD, "cpus": 0}], "nodes.0.cpus"),
        ([HEAD, {**WORKER, "user": "-oProxyCommand=id"}], "nodes.1.user"),
        ([HEAD, {**WORKER, "ssh": ["study.lan"]}], 'nodes.1.ssh: should be options, such as ["-p", "2222"]'),
        ([HEAD, {**WORKER, "python": "vr/bin/python"}], "nodes.1.python: should be a path from / on"),
    ],
)
def test_a_wrong_inventory_is_refused_in_one_line_that_names_the_place(nodes, said):
    with pytest.raises(ConfigError) as caught:
        validate(Inventory, {"nodes": nodes}, "home.yaml")
    message = str(caught.value)
    assert message.startswith("home.yaml: ")
    assert said in message
    assert "\n" not in message


def ray_accepts(key, value):
    try:
        validate_label_value(value)
    except ValueError:
        return False
    return validate_label_key(key) is None


label_text = st.text(alphabet="aB0-_./ ,=é", max_size=8)


@given(label_text, label_text)
def test_whatever_label_the_inventory_accepts_ray_accepts(key, value):
    try:
        node = validate(NodeSpec, {**HEAD, "labels": {key: value}}, "test")
    except ConfigError:
        accepted = False
    else:
        accepted = node.labels == {key: value}
    # Ray's own pattern lets parts of a prefix be empty or in capitals, which DNS names are not.
    assert not accepted or ray_accepts(key, value)
    if "/" not in key:
        assert accepted == ray_accepts(key, value)


@given(st.lists(st.text(min_size=1, max_size=80), max_size=3), st.floats(0.5, 200))
def test_the_labels_of_any_cards_reach_ray_unchanged(models, memory_gib):
    gpus = [GpuSpec(model=model, memory_gib=memory_gib) for model in models]
    labels = node_labels("attic", gpus, {"room": "study"})
    assert parse_node_labels_string(",".join(f"{k}={v}" for k, v in labels.items())) == labels


def test_a_card_is_named_the_same_with_and_without_its_maker():
    assert label_value("NVIDIA GeForce RTX 3090 Ti") == label_value("GeForce RTX 3090 Ti") == "GeForce-RTX-3090-Ti"


def test_unlike_cards_of_one_pc_are_not_labelled_by_the_first():
    big, small = GpuSpec(model="RTX 3090", memory_gib=24), GpuSpec(model="RTX 3060", memory_gib=11.6)
    labels = node_labels("pc", [big, small], {"room": "attic"})
    assert labels == {
        "room": "attic",
        "vr/node": "pc",
        "vr/gpu-count": "2",
        "vr/gpu-model": "mixed",
        "vr/gpu-memory-gib": "12",
        "vr/gpu-0-model": "RTX-3090",
        "vr/gpu-0-memory-gib": "24",
        "vr/gpu-1-model": "RTX-3060",
        "vr/gpu-1-memory-gib": "12",
    }
    assert node_labels("pc", [big, big], {})["vr/gpu-model"] == "RTX-3090"
    assert node_labels("pc", [], {}) == {"vr/node": "pc", "vr/gpu-count": "0"}
