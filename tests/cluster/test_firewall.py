import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cluster
from cluster.hardware.firewall import EPHEMERAL, guarded, ruleset, spans
from cluster.inventory import Inventory, NodeSpec
from cluster.node.ray_start import Ports, ports_from
from tests.command_line import vr
from tests.needs import lacking
from vr_core.config import load

EXAMPLE = Path(cluster.__path__[0]) / "example.yaml"
HOME = Inventory(
    nodes=(
        NodeSpec(name="attic", address="10.77.0.1", role="head"),
        NodeSpec(name="study", address="10.77.0.2"),
    )
)
RANGES = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)).map(lambda x: (x[0], x[0] + x[1])))


@given(RANGES)
def test_spans_are_the_same_ports_apart_and_rising(ranges):
    merged = spans(ranges)
    assert {p for low, high in merged for p in range(low, high + 1)} == {
        p for low, high in ranges for p in range(low, high + 1)
    }
    assert all(a[1] + 1 < b[0] for a, b in zip(merged, merged[1:], strict=False))


@pytest.mark.parametrize("ports", [Ports(), ports_from(20000)])
def test_every_port_of_the_plan_is_guarded(ports):
    covered = {p for low, high in guarded(ports) for p in range(low, high + 1)}
    wanted = {*ports.singles(head=True).values(), *range(ports.worker_low, ports.worker_high + 1), *EPHEMERAL}
    assert wanted <= covered
    assert 22 not in covered


def test_it_names_the_pcs_of_the_inventory_and_no_other():
    text = ruleset(load(Inventory, EXAMPLE), Ports())
    assert "elements = { 192.168.1.10, 192.168.1.11 }" in text
    assert "6379-6385" in text


def test_the_command_prints_it():
    assert vr("cluster", "firewall", EXAMPLE, "--port", 20000).stdout == ruleset(
        load(Inventory, EXAMPLE), ports_from(20000)
    )


@pytest.fixture
def nft(root):
    """The program."""
    found = shutil.which("nft", path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        lacking("no nft (Debian's nftables)")
    return found


@pytest.mark.parametrize("ports", [Ports(), ports_from(20000)])
def test_nft_takes_it(tmp_path, nft, ports):
    file = tmp_path / "rules.nft"
    file.write_text(ruleset(load(Inventory, EXAMPLE), ports))
    subprocess.run([nft, "-c", "-f", str(file)], check=True, capture_output=True)


TRY = """
import socket, sys
for port in map(int, sys.argv[2:]):
    try:
        socket.create_connection((sys.argv[1], port), timeout=1.0).close()
        print(port, "open")
    except TimeoutError:
        print(port, "dropped")
    except ConnectionRefusedError:
        print(port, "refused")
"""
LISTEN = """
import socket, sys
servers = [socket.create_server(("0.0.0.0", int(port))) for port in sys.argv[1:]]
print("listening", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def three_pcs(root):
    """Network namespaces attic (10.77.0.1), study (.2) and a stranger (.3) on one bridge inside a fourth."""
    if shutil.which("ip") is None:
        lacking("no ip (Debian's iproute2)")

    def ip(*words):
        subprocess.run(["ip", *words], check=True, capture_output=True)

    made = [f"vrfw{os.getpid()}{letter}" for letter in "sabc"]
    switch, *pcs = made
    with contextlib.ExitStack() as undo:
        for name in made:
            ip("netns", "add", name)
            undo.callback(ip, "netns", "del", name)
        ip("-n", switch, "link", "add", "br0", "type", "bridge")
        ip("-n", switch, "link", "set", "br0", "up")
        for i, pc in enumerate(pcs, start=1):
            ip("-n", switch, "link", "add", f"p{i}", "type", "veth", "peer", "name", "eth0", "netns", pc)
            ip("-n", switch, "link", "set", f"p{i}", "master", "br0", "up")
            ip("-n", pc, "addr", "add", f"10.77.0.{i}/24", "dev", "eth0")
            ip("-n", pc, "link", "set", "lo", "up")
            ip("-n", pc, "link", "set", "eth0", "up")
        yield pcs


def test_the_other_pc_gets_in_and_a_stranger_does_not(nft, three_pcs, tmp_path):
    attic, study, stranger = three_pcs
    file = tmp_path / "rules.nft"
    file.write_text(ruleset(HOME, Ports()))
    for _ in range(2):  # a second time replaces the first
        subprocess.run(["ip", "netns", "exec", attic, nft, "-f", str(file)], check=True)
    listed = subprocess.run(["ip", "netns", "exec", attic, nft, "list", "ruleset"], capture_output=True, text=True)
    assert listed.stdout.count("tcp dport @guarded") == 1
    guarded_ports, free_port = ["6379", "6385", "10500", "44227", "50000"], "8080"

    def inside(pc, *argv, **how):
        return subprocess.Popen(["ip", "netns", "exec", pc, sys.executable, "-c", *argv], text=True, **how)

    with inside(attic, LISTEN, *guarded_ports, free_port, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout.readline() == "listening\n"

        def seen(pc, address="10.77.0.1"):
            told = inside(pc, TRY, address, *guarded_ports, free_port, stdout=subprocess.PIPE).communicate()[0]
            return dict(line.split() for line in told.splitlines())

        everything = dict.fromkeys([*guarded_ports, free_port], "open")
        assert seen(study) == everything
        assert seen(attic) == everything
        assert seen(attic, "127.0.0.1") == everything
        assert seen(stranger) == dict.fromkeys(guarded_ports, "dropped") | {free_port: "open"}
        server.stdin.close()

    # What the guarded PC opens itself is answered, on an ephemeral port of its own.
    with inside(stranger, LISTEN, "7000", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout.readline() == "listening\n"
        told = inside(attic, TRY, "10.77.0.3", "7000", stdout=subprocess.PIPE).communicate()[0]
        assert told == "7000 open\n"
        server.stdin.close()
