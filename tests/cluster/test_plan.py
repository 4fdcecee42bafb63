import re
from pathlib import Path

import pytest
from ray.scripts.scripts import start as ray_start

from cluster.errors import ClusterError
from cluster.facts import Facts
from cluster.inventory import GpuSpec, NodeSpec
from cluster.node.ray_start import (
    BLOCK,
    MARKER,
    Ports,
    client_environment,
    head_address,
    node_environment,
    node_start,
    ports_from,
    ray_argv,
    temp_dir,
)
from cluster.timings import DEFAULT_TIMINGS
from cluster.versions import Versions, labels

CARD = GpuSpec(model="NVIDIA GeForce RTX 3090 Ti", memory_gib=24)
FACTS = Facts(
    hostname="attic pc.lan",
    cpus=12,
    memory_bytes=2**35,
    gpus=(CARD,),
    interfaces={"lo": ("127.0.0.1",), "enp5s0": ("192.168.1.10",)},
)
SPEC = NodeSpec(name="attic", address="192.168.1.10", role="head", cpus=8, labels={"room": "attic"})


def ray_options(argv):
    """The options as Ray's own command line understands them."""
    assert argv[:4] == ["python3", "-m", "ray.scripts.scripts", "start"]
    return ray_start.make_context("start", argv[4:], resilient_parsing=False).params


def ports_of(options):
    return {key: value for key, value in options.items() if key.endswith("_port") and value is not None}


def test_without_a_word_a_head_stays_on_this_machine():
    node = node_start(FACTS)
    assert (node.address, node.interface, node.loopback_only, node.name) == ("127.0.0.1", "lo", True, "attic-pc.lan")
    options = ray_options(ray_argv(node, Ports(), Path("ray"), "python3"))
    assert options["head"]
    assert options["block"]
    assert options["disable_usage_stats"]
    assert (options["node_ip_address"], options["dashboard_host"]) == ("127.0.0.1", "127.0.0.1")
    assert (options["num_cpus"], options["num_gpus"], options["object_store_memory"]) == (12, 1, 200 * 2**20)


def test_every_port_that_ray_would_choose_by_chance_is_fixed():
    head = ray_options(ray_argv(node_start(FACTS, SPEC), Ports(), Path("ray"), "python3"))
    worker_node = node_start(FACTS, SPEC, head="192.168.1.9:6379")
    worker = ray_options(ray_argv(worker_node, Ports(), Path("ray"), "python3"))
    fixed = {
        "object_manager_port",
        "node_manager_port",
        "runtime_env_agent_port",
        "dashboard_agent_grpc_port",
        "dashboard_agent_listen_port",
        "metrics_export_port",
        "min_worker_port",
        "max_worker_port",
    }
    head_only = {"port", "dashboard_port", "ray_client_server_port"}
    known = {p.name for p in ray_start.params if p.name.endswith("port") and not getattr(p, "hidden", False)}
    assert known == fixed | head_only, "Ray has ports that the plan does not know"
    assert fixed <= ports_of(worker).keys()
    # Two values that Ray fills in itself, on a worker too.
    assert all(head[name] for name in fixed | head_only)
    assert (head["port"], head["dashboard_port"]) == (6379, 8265)


def test_a_worker_is_told_its_head_its_cards_and_its_labels():
    node = node_start(FACTS, SPEC, head="192.168.1.9:7000", port_base=0)
    options = ray_options(ray_argv(node, ports_from(20000), Path("ray"), "python3"))
    assert not options["head"]
    assert options["address"] == "192.168.1.9:7000"
    assert options["node_name"] == "attic"
    assert options["num_cpus"] == 8
    assert set(options["labels"].split(",")) == {
        "room=attic",
        "vr/node=attic",
        "vr/gpu-count=1",
        "vr/gpu-model=GeForce-RTX-3090-Ti",
        "vr/gpu-memory-gib=24",
        "vr/gpu-0-model=GeForce-RTX-3090-Ti",
        "vr/gpu-0-memory-gib=24",
    }


def test_a_node_that_starts_again_has_its_manager_on_a_port_that_no_worker_takes():
    node, ports = node_start(FACTS, SPEC, head="192.168.1.9:7000"), Ports()
    first = ray_options(ray_argv(node, ports, Path("ray"), "python3"))
    again = ray_options(ray_argv(node, ports, Path("ray"), "python3", again=True))
    assert {name for name in first if first[name] != again[name]} == {"node_manager_port"}
    assert (first["node_manager_port"], again["node_manager_port"]) == (6380, 10999)
    assert first["max_worker_port"] == again["max_worker_port"] == 10998


def test_no_two_ports_of_a_node_are_the_same_and_a_block_holds_them_all():
    for ports in (Ports(), ports_from(20000)):
        singles = ports.singles(head=True)
        assert len(set(singles.values())) == len(singles) == len(Ports.model_fields) - 2
        assert not any(ports.worker_low <= port <= ports.worker_high for port in singles.values())
    assert all(20000 <= port < 20000 + BLOCK for port in ports_from(20000).model_dump().values())
    for base in (1, 65535):
        with pytest.raises(ClusterError, match="--port"):
            ports_from(base)


def test_the_join_endpoint_is_beside_a_head_with_a_lan_address_only():
    assert "admission" in Ports().singles(head=True)
    assert "admission" not in Ports().singles(head=True, lan=False)
    assert "admission" not in Ports().singles(head=False)


def test_the_environment_of_a_node_carries_no_other_clusters_secrets_nor_its_own():
    inherited = {"PATH": "bin", "RAY_ADDRESS": "10.0.0.1:6379", "RAY_AUTH_TOKEN": "other", "NCCL_SOCKET_IFNAME": "eth9"}
    node = node_start(FACTS, SPEC)
    environment = node_environment(inherited, node, Ports(), Path("token"), "1234", DEFAULT_TIMINGS)
    assert environment["PATH"] == "bin"
    assert environment[MARKER] == "1234"
    assert "RAY_ADDRESS" not in environment
    assert "RAY_AUTH_TOKEN" not in environment
    assert (environment["RAY_AUTH_MODE"], environment["RAY_AUTH_TOKEN_PATH"]) == ("token", "token")
    assert environment["NCCL_SOCKET_IFNAME"] == "=enp5s0", "= asks for this very name"
    assert environment["GLOO_SOCKET_IFNAME"] == "enp5s0"


def test_only_a_loopback_cluster_uses_the_switch_that_keeps_ray_there():
    switch = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
    assert client_environment("127.0.0.1", Path("token"))[switch] == "0"
    assert switch not in client_environment("192.168.1.10", Path("token"))


def test_a_lost_node_is_noticed_within_15_s():
    environment = node_environment({}, node_start(FACTS, SPEC), Ports(), Path("token"), "1", DEFAULT_TIMINGS)
    delay_ms, period_ms, timeout_ms, failures = (
        int(environment[f"RAY_health_check_{key}"])
        for key in ("initial_delay_ms", "period_ms", "timeout_ms", "failure_threshold")
    )
    assert max(delay_ms, period_ms) + timeout_ms * failures + period_ms * (failures - 1) <= 14_000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"address": "attic.lan"}, "--address attic.lan: should be an IPv4 address"),
        ({"address": "192.168.1.77"}, "192.168.1.77: not an address of this machine"),
        ({"spec": SPEC.model_copy(update={"interface": "eno1"})}, "192.168.1.10 is on enp5s0"),
        ({"spec": SPEC.model_copy(update={"gpus": (CARD, CARD)})}, "the inventory lists 2 GPUs, this machine shows 1"),
        ({"head": "192.168.1.9:6379"}, "another machine cannot reach it"),
        ({"spec": SPEC, "head": "192.168.1.10:6379"}, "is the head's own address"),
    ],
)
def test_a_node_that_cannot_be_is_refused(arguments, said):
    with pytest.raises(ClusterError, match=said):
        node_start(FACTS, **arguments)


def test_an_inventory_may_keep_cards_back():
    assert node_start(FACTS, SPEC.model_copy(update={"gpus": ()})).gpus == ()


def test_the_address_of_a_head():
    assert head_address("192.168.1.10") == "192.168.1.10:6379"
    assert head_address("192.168.1.10:7000") == "192.168.1.10:7000"
    for wrong in ("attic", "192.168.1.10:", "192.168.1.10:x", "192.168.1.10:80", "127.0.0.1"):
        with pytest.raises(ClusterError):
            head_address(wrong)


def test_rays_sockets_fit_where_they_are_put():
    folder = temp_dir(Path("/tmp"), Path("state/head.json"))
    session = "session_2026-11-24_02-57-45_316358_4194304/sockets/plasma_store"
    assert len(str(folder / session)) < 108
    assert folder != temp_dir(Path("/tmp"), Path("state/joined-a.json")), "each member has its own"
    with pytest.raises(ClusterError, match="TMPDIR"):
        temp_dir(Path("/tmp/a-folder-that-is-far-too-deep"), Path("state/head.json"))


def test_what_a_node_says_of_itself_reaches_ray_and_is_no_part_of_what_it_is():
    node = node_start(FACTS, SPEC)
    said = labels(Versions(vr="0.1.0+cu130", ray="2.60.0", python="3.11", commit="5bed1e4" * 6), 2500)
    assert said["vr/commit"] == "5bed1e45bed1"
    assert said["vr/link-mbit"] == "2500"
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", said["vr/version"]), "a value that Ray takes"
    argv = ray_argv(node, Ports(), Path("/tmp/r"), "python", said)
    [given] = [word.removeprefix("--labels=") for word in argv if word.startswith("--labels=")]
    assert {*given.split(",")} == {f"{key}={value}" for key, value in {**node.labels, **said}.items()}
    assert not set(said) & set(node.labels)
    assert set(labels(Versions(vr="1", ray="1", python="3.11"), None)) == {"vr/version", "vr/python"}
