"""Faults planted between two hosts: network namespaces on one bridge, each with its own shaped and filtered link."""

import contextlib
import os
import subprocess
import sys

import pytest

from cluster.doctor import findings
from cluster.examination import Doctor, examine
from cluster.inventory import Inventory
from cluster.plan import Ports
from cluster.probe_call import Ran, run_here
from tests.lan import require
from vr_core.config import validate

pytestmark = pytest.mark.slow
# Short, and of this process alone: names of network cards have at most 15 characters.
TAG = f"vd{os.getpid() % 100000}"
ADDRESS = {"attic": "10.201.7.1", "study": "10.201.7.2"}


def sh(line):
    done = subprocess.run(line, shell=True, capture_output=True, text=True)
    assert done.returncode == 0, f"{line}: {done.stderr}"


def host(name):
    return f"{TAG}{name[0]}"


@pytest.fixture(scope="module")
def lan():
    """Two hosts and the switch between them, which is a namespace too."""
    require("nft")
    switch = f"{TAG}sw"
    namespaces = [switch, *map(host, ADDRESS)]
    try:
        for namespace in namespaces:
            sh(f"ip netns add {namespace}")
            sh(f"ip -n {namespace} link set lo up")
        sh(f"ip -n {switch} link add br0 type bridge && ip -n {switch} link set br0 up")
        for name, address in ADDRESS.items():
            own, plug = host(name), f"p{name[0]}"
            sh(f"ip -n {own} link add eth0 type veth peer name {plug} netns {switch}")
            sh(f"ip -n {own} addr add {address}/24 dev eth0 && ip -n {own} link set eth0 up")
            sh(f"ip -n {switch} link set {plug} master br0 up")
        yield switch
    finally:
        for namespace in namespaces:
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True)


@contextlib.contextmanager
def planted(plant, undo):
    sh(plant)
    try:
        yield
    finally:
        sh(undo)


def firewall(name, rules):
    """A host that lets in only what is said; what comes back to itself always."""
    table = "add table inet t; add chain inet t in { type filter hook input priority 0; policy drop; }; "
    table += "add rule inet t in iif lo accept; add rule inet t in ct state established,related accept; "
    lines = "; ".join(f"add rule inet t in {rule}" for rule in rules)
    # Inside the namespace of `nft`'s own caller: a table there is nobody else's.
    return planted(
        f"ip netns exec {host(name)} nft '{table}{lines}'", f"ip netns exec {host(name)} nft delete table inet t"
    )


@pytest.fixture
def visit(lan, tmp_path, monkeypatch):
    """Findings by check, each the worst, of what is between the two hosts."""
    monkeypatch.setattr("cluster.examination._RATE_S", 0.5)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    nodes = [{"name": name, "address": address} for name, address in ADDRESS.items()]
    nodes[0]["role"] = "head"
    inventory = validate(Inventory, {"nodes": nodes}, "test")

    def run(node, argv, stdin, timeout_s) -> Ran:
        return run_here(node, ["ip", "netns", "exec", host(node.name), *argv], stdin, timeout_s)

    def go(python=lambda node: [sys.executable]):
        measured = examine(inventory, Doctor(run, python, lambda what: None, Ports()))
        worst = {}
        for finding in findings(measured):
            worst.setdefault(finding.check, finding)
        return worst, measured.links.get(("attic", "study"))

    return go


BETWEEN = ("reached", "address", "clock", "ports", "link", "mtu")


def test_without_a_fault_nothing_is_found(visit):
    found, link = visit()
    assert {check: found[check].severity for check in BETWEEN} == dict.fromkeys(BETWEEN, "ok")
    assert min(link.there_mbit, link.back_mbit) > 800


def test_a_link_of_100_mbit_is_measured(visit, lan):
    shape = "root tbf rate 100mbit burst 32kb latency 50ms"
    with planted(f"tc -n {lan} qdisc add dev ps {shape}", f"tc -n {lan} qdisc del dev ps root"):
        found, link = visit()
    assert found["link"].severity == "warns"
    assert 70 < link.there_mbit < 110, "shaped towards study"
    assert link.back_mbit > 800
    assert found["ports"].severity == "ok"


def test_lost_packets_are_counted(visit, lan):
    # A queue of three packets: TCP finds its limit by losing some.
    shape = "root tbf rate 50mbit burst 3kb limit 4500"
    with planted(f"tc -n {lan} qdisc add dev ps {shape}", f"tc -n {lan} qdisc del dev ps root"):
        found, link = visit()
    assert link.there_resent > link.back_resent
    assert found["link"].severity == "warns"


def test_a_blocked_port_is_named(visit):
    ports = Ports()
    with firewall("study", [f"tcp dport != {{ {ports.object_manager} }} accept", "udp dport 1024-65535 accept"]):
        found, _ = visit()
    assert found["ports"].severity == "blocks"
    assert found["ports"].measured == f"on study: {ports.object_manager} (object manager: no answer)"
    with firewall("study", [f"tcp dport {ports.node_manager} reject with tcp reset", "accept"]):
        found, _ = visit()
    assert found["ports"].measured == f"on study: {ports.node_manager} (node manager: rejected)"


def test_a_firewall_that_admits_ray_and_not_torch(visit):
    with firewall("study", ["tcp dport { 6379-6384, 10002-10999, 52365 } accept"]):
        found, link = visit()
    assert found["ports"].severity == "blocks"
    assert "torch's connections" in found["ports"].needed
    assert link.there_mbit is None


def test_a_host_that_admits_nothing(visit):
    with firewall("study", []):
        found, _ = visit()
    assert "nor any other port" in found["ports"].measured


def test_a_switch_that_swallows_jumbo_frames(visit):
    large = " && ".join(f"ip -n {host(name)} link set eth0 mtu 9000" for name in ADDRESS)
    small = large.replace("9000", "1500")
    with planted(large, small):
        found, _ = visit()
    assert found["mtu"].severity == "blocks"
    assert "a full packet got lost" in found["mtu"].measured
    assert found["ports"].severity == "ok"
    # Nothing large gets through, so there is no rate either.
    assert "see mtu" in found["link"].remedy


def test_two_packet_sizes(visit):
    with planted(f"ip -n {host('study')} link set eth0 mtu 1400", f"ip -n {host('study')} link set eth0 mtu 1500"):
        found, _ = visit()
    assert found["mtu"].severity == "warns"
    assert "attic 1500, study 1400" in found["mtu"].measured


def test_a_host_without_its_cable(visit, lan):
    with planted(f"ip -n {lan} link set ps down", f"ip -n {lan} link set ps up"):
        found, _ = visit()
    assert found["ports"].severity == "blocks"
    assert "nor any other port" in found["ports"].measured
