"""Healthy PCs for the doctor's tests, to be spoilt in one place each."""

from dataclasses import replace

from cluster.doctor.report import ClusterReport, NodeReport
from cluster.inventory import NodeSpec
from cluster.node.ray_start import Ports
from cluster.probe.readings import (
    Card,
    Disk,
    Graphics,
    Interface,
    Link,
    Names,
    NodeProbe,
    Port,
    Rates,
    SecretFile,
    Share,
    Software,
    System,
)
from vr_core.config import validate

CARD = Card(
    index=0,
    uuid="GPU-1",
    model="NVIDIA GeForce RTX 3090 Ti",
    memory_mib=24564,
    free_mib=24100,
    power_w=31.0,
    limit_w=450.0,
    temperature_c=41.0,
    capability="8.6",
)
SOFTWARE = Software("3.11.7", "/home/sam/vr/.venv/bin/python", "2.60.0", "2.13.0", "13.0", "0.1.0")
SYSTEM = System(
    kernel="6.8.0-47-generic",
    wsl=False,
    battery=False,
    boot_s=5000.0,
    clock_s=1.8e9,
    memory_bytes=64 * 2**30,
    cpus=16,
    open_files=1048576,
    inotify_instances=128,
    inotify_watches=65536,
    shm_bytes=32 * 2**30,
    shm_free_bytes=32 * 2**30,
    user="sam",
)


def probe(name="attic", address="192.168.1.10", **changes):
    card = Interface("enp5s0", (address,), 1500, 1000, wireless=False, up=True)
    loopback = Interface("lo", ("127.0.0.1",), 65536, None, wireless=False, up=True)
    values = {
        "software": SOFTWARE,
        "graphics": Graphics(1, "580.95.05", "13.0", (CARD,), (), None),
        "interfaces": (card, loopback),
        "names": Names(name, ("127.0.1.1",), ("127.0.0.1",), ipv6_disabled=False),
        "system": SYSTEM,
        "secrets": (SecretFile("/home/sam/.local/state/vr/token", 0o600, mine=True),),
        "disks": {"home": Disk("/home/sam", "ext4", "/dev/nvme0n1p2", 10**12, 4 * 10**11, None)},
    }
    return NodeProbe(**{**values, **changes})


def node_report(name="attic", address="192.168.1.10", role="worker", spec=None, **changes):
    """A node whose probe, or (`software=...`) whose part of it, is as given."""
    own = {"ahead_s", "cache", "share", "share_rates", "share_why"} & changes.keys()
    fields = {key: changes.pop(key) for key in own}
    node = validate(NodeSpec, {"name": name, "address": address, "role": role, **(spec or {})}, "test")
    return NodeReport(node, probe(name, address, **changes), **{"ahead_s": (-0.1, 0.4), **fields})


def away(name, why, role="worker", unanswered="off"):
    """A node that gave no answer."""
    return NodeReport(NodeSpec(name=name, address="192.168.1.12", role=role), why=why, unanswered=unanswered)


def head(**changes):
    return node_report("attic", "192.168.1.10", "head", **changes)


def study(**changes):
    return node_report("study", "192.168.1.11", **changes)


def link(**changes):
    values = {
        "ports": (Port(6379, "open"), Port(6380, "open"), Port(10002, "open")),
        "rtt_ms": 0.3,
        "clock_ahead_s": 0.002,
        "there_mbit": 941.0,
        "back_mbit": 938.0,
        "there_resent": 0.0,
        "back_resent": 0.0001,
        "path_mtu": 1500,
        "full_packet": True,
    }
    return Link(**{**values, **changes})


def examination(*reports, link=None, **changes):
    """These nodes, and the link between the first two."""
    links = {(reports[0].name, reports[1].name): link} if link is not None else {}
    return ClusterReport(reports, links=links, ports=Ports(), **changes)


def software(**changes):
    return replace(SOFTWARE, **changes)


def card(**changes):
    return replace(CARD, **changes)


def system(**changes):
    return replace(SYSTEM, **changes)


def share(**changes):
    values = {"path": "/mnt/nas", "same_file": True, "renamed": True, "locked": True, "lock_seen": True, "error": None}
    return Share(**{**values, **changes})


def rates(**changes):
    values = {"path": "/mnt/nas", "write": None, "read": 110e6, "crops": 95e6, "error": None}
    return Rates(**{**values, **changes})
