"""Faults planted between two PCs of a LAN in a box; and the command that examines them through ssh."""

import contextlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys

import pytest

from cluster.doctor.diagnosis import findings
from cluster.doctor.examination import Doctor, Patience, examine
from cluster.inventory import Inventory
from cluster.node.ray_start import Ports
from cluster.remote.probe_call import Ran, run_here
from tests.box.files import HOME
from tests.lan import INTERFACE, Lan, require
from vr_core.config import validate

pytestmark = pytest.mark.xdist_group("box")

OTHER_RAY = "2.59.0"
SHAPED_MBIT = 100


@pytest.fixture(scope="module")
def lan():
    """Two PCs, without Ray."""
    require("nft", "faketime")
    with Lan("attic", "study") as box:
        yield box


@contextlib.contextmanager
def firewall(host, rules):
    """A host that lets in only what is said; what comes back to itself always."""
    table = "add table inet t; add chain inet t in { type filter hook input priority 0; policy drop; }; "
    table += "add rule inet t in iif lo accept; add rule inet t in ct state established,related accept; "
    lines = "; ".join(f"add rule inet t in {rule}" for rule in rules)
    host.run(["nft", table + lines])
    try:
        yield
    finally:
        host.run(["nft", "delete", "table", "inet", "t"])


@contextlib.contextmanager
def shaped(lan, shape):
    """What the switch sends to study goes through this queue."""
    tc = ["nsenter", f"--target={lan.switch_pid}", "--net", "tc", "qdisc"]
    device = ["dev", "port2", "root"]
    subprocess.run([*tc, "replace", *device, *shape.split()], check=True)
    try:
        yield
    finally:
        subprocess.run([*tc, "replace", *device, "noqueue"], check=True)


@contextlib.contextmanager
def packet_size(hosts, mtu):
    """One packet a time, as a cable carries them: a virtual switch lets a bundle pass that is to be cut up later."""
    for host in hosts:
        host.run(["ip", "link", "set", INTERFACE, "mtu", str(mtu), "gso_max_segs", "1"])
    try:
        yield
    finally:
        for host in hosts:
            host.run(["ip", "link", "set", INTERFACE, "mtu", "1500", "gso_max_segs", "65535"])


@pytest.fixture
def visit(lan):
    """Findings by check, each the worst, of what is between the two hosts."""
    nodes = {host.name: {"name": host.name, "address": host.address} for host in lan.hosts.values()}
    nodes["attic"]["role"] = "head"

    def run(node, argv, stdin, timeout_s) -> Ran:
        return run_here(node, lan[node.name].entered(argv), stdin, timeout_s)

    def go(study_python=(sys.executable,), **study):
        described = [nodes["attic"], nodes["study"] | study]
        inventory = validate(Inventory, {"nodes": described}, "test")

        def python(node):
            return list(study_python) if node.name == "study" else [sys.executable]

        measured = examine(inventory, Doctor(run, python, lambda what: None, Ports(), Patience(rate_s=0.5)))
        worst = {}
        for finding in findings(measured):
            # How full the machine is that carries the box is no plant of these tests.
            if finding.check == "disk" and "cache folder" not in finding.measured:
                continue
            worst.setdefault(finding.check, finding)
        return worst, measured.links.get(("attic", "study"))

    return go


# The link is judged by its figures: a busy test machine carries less than its virtual cards claim.
BETWEEN = ("reached", "address", "clock", "ports", "mtu")


def test_without_a_fault_nothing_is_found(visit):
    found, link = visit()
    assert {check: found[check].severity for check in BETWEEN} == dict.fromkeys(BETWEEN, "ok")
    assert found["link"].severity != "blocks"
    assert min(link.there_mbit, link.back_mbit) > SHAPED_MBIT


def test_a_link_of_100_mbit_is_measured(visit, lan):
    with shaped(lan, f"tbf rate {SHAPED_MBIT}mbit burst 32kb latency 50ms"):
        found, link = visit()
    assert found["link"].severity == "warns"
    assert link.there_mbit < 1.1 * SHAPED_MBIT, "shaped towards study, and only there"
    assert link.back_mbit > link.there_mbit
    assert found["ports"].severity == "ok"


def test_lost_packets_are_counted(visit, lan):
    # A queue of three packets: TCP finds its limit by losing some.
    with shaped(lan, "tbf rate 50mbit burst 3kb limit 4500"):
        found, link = visit()
    assert link.there_resent > link.back_resent
    assert found["link"].severity == "warns"


def test_a_blocked_port_is_named(visit, lan):
    ports = Ports()
    with firewall(lan["study"], [f"tcp dport != {{ {ports.object_manager} }} accept", "udp dport 1024-65535 accept"]):
        found, _ = visit()
    assert found["ports"].severity == "blocks"
    assert found["ports"].measured == f"on study: {ports.object_manager} (object manager: no answer)"
    with firewall(lan["study"], [f"tcp dport {ports.node_manager} reject with tcp reset", "accept"]):
        found, _ = visit()
    assert found["ports"].measured == f"on study: {ports.node_manager} (node manager: rejected)"


def test_a_firewall_that_admits_ray_and_not_torch(visit, lan):
    with firewall(lan["study"], ["tcp dport { 6379-6384, 10002-10999, 52365 } accept"]):
        found, link = visit()
    assert found["ports"].severity == "blocks"
    assert "torch's connections" in found["ports"].needed
    assert link.there_mbit is None


def test_a_host_that_admits_nothing(visit, lan):
    with firewall(lan["study"], []):
        found, _ = visit()
    assert "nor any other port" in found["ports"].measured


def test_a_switch_that_swallows_jumbo_frames(visit, lan):
    with packet_size(lan.hosts.values(), 9000):
        found, _ = visit()
    assert found["mtu"].severity == "blocks"
    assert "a full packet got lost" in found["mtu"].measured
    assert found["ports"].severity == "ok"
    # Nothing large gets through, so there is no rate either.
    assert "see mtu" in found["link"].remedy


def test_two_packet_sizes(visit, lan):
    with packet_size([lan["study"]], 1400):
        found, _ = visit()
    assert found["mtu"].severity == "warns"
    assert "attic 1500, study 1400" in found["mtu"].measured


def test_a_host_without_its_cable(visit, lan):
    lan["study"].cut()
    try:
        found, _ = visit()
    finally:
        lan["study"].mend()
    assert found["ports"].severity == "blocks"
    assert "nor any other port" in found["ports"].measured


def test_a_clock_that_is_wrong(visit):
    found, _ = visit(study_python=("faketime", "-f", "+90s", sys.executable))
    clock = found["clock"]
    assert (clock.severity, clock.nodes) == ("blocks", ("study",))
    ahead_s, unit, *rest = clock.measured.split()
    assert 89 < float(ahead_s) < 91
    assert [unit, *rest] == ["s", "ahead", "of", "the", "head"]
    assert "timedatectl set-ntp true" in clock.remedy
    assert {found[check].severity for check in BETWEEN if check != "clock"} == {"ok"}


@pytest.fixture
def cache(lan):
    """A cache disk of 8 MB on study."""
    lan["study"].run(["mkdir", "-p", "cache"])
    lan["study"].run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", "cache"])
    yield lan["study"].home / "cache"
    lan["study"].run(["umount", "cache"])


def test_a_disk_with_little_room_and_a_full_one(visit, lan, cache):
    spec = {"cache": {"path": f"{HOME}/cache", "quota_gb": 100}}
    found, _ = visit(**spec)
    assert (found["disk"].severity, found["disk"].nodes) == ("warns", ("study",))
    assert found["disk"].measured == f"cache folder {HOME}/cache: 8.39 MB of 8.39 MB free"
    assert "du -xh" in found["disk"].remedy

    lan["study"].run(["dd", "if=/dev/zero", "of=cache/songs", "bs=64k"], code=1)
    found, _ = visit(**spec)
    assert found["disk"].measured == f"cache folder {HOME}/cache: 0 B of 8.39 MB free"
    rate = found["storage rate"]
    assert (rate.severity, rate.nodes) == ("blocks", ("study",))
    assert "No space left on device" in rate.measured
    assert "du -xh" in rate.remedy
    assert lan["study"].run(["ls", "-A", "cache"]).stdout == "songs\n", "nothing of the doctor's is left"


def test_another_python_without_anything_of_ours(visit, lan):
    version = lan["study"].run(["/usr/bin/python3", "-c", "import platform; print(platform.python_version())"])
    other = version.stdout.strip()
    found, _ = visit(study_python=("/usr/bin/python3",))
    assert (found["installed"].severity, found["installed"].nodes) == ("blocks", ("study",))
    assert found["installed"].measured == "vr, ray, torch missing in /usr/bin/python3"
    ours = platform.python_version()
    severity = "ok" if other == ours else "warns" if other.split(".")[:2] == ours.split(".")[:2] else "blocks"
    assert found["python"].severity == severity
    if other != ours:
        assert found["python"].measured == f"{other} (/usr/bin/python3)"
        assert "as on attic" in found["python"].needed


@pytest.mark.long("cluster")
def test_another_ray(visit, lan):
    uv = os.environ.get("UV") or shutil.which("uv", path=f"{sys.base_prefix}/bin") or shutil.which("uv")
    folder = lan["study"].home / "other"
    for argv in (
        [uv, "venv", "--quiet", "--python", sys.executable, folder],
        [uv, "pip", "install", "--quiet", "--no-deps", "--python", folder / "bin" / "python", f"ray=={OTHER_RAY}"],
    ):
        subprocess.run(argv, check=True, timeout=200)
    found, _ = visit(study_python=(f"{HOME}/other/bin/python",))
    ray = found["ray"]
    assert (ray.severity, ray.nodes, ray.measured) == ("blocks", ("study",), OTHER_RAY)
    assert ray.needed == f"{importlib.metadata.version('ray')}, as on attic"
    assert ray.remedy == "there: the same commit, then uv sync"


INVENTORY = """
nodes:
  - {name: attic, address: 10.77.0.11, role: head, shared: /media}
  - {name: study, address: 10.77.0.12, shared: /media}
  - {name: loft, address: 10.77.0.99}
"""


def examined(host):
    """Findings of the command, but for how full the machine is that carries the box."""
    findings = host.vr_json("cluster", "doctor", "home.yaml", code=None)["findings"]
    return [finding for finding in findings if finding["check"] != "disk"]


def test_the_command_examines_the_pcs_of_an_inventory_through_ssh(lan):
    attic, study = lan["attic"], lan["study"]
    (attic.home / "home.yaml").write_text(INVENTORY)
    told = examined(attic)
    severities = {(finding["check"], tuple(finding["nodes"])): finding["severity"] for finding in told}
    assert severities["reached", ("loft",)] == "warns", "it is off, and nothing else is wrong for that"
    assert set(severities.values()) == {"ok", "warns"}
    assert severities["shared folder", ("attic", "study")] == "ok"
    measured = {(finding["check"], *finding["nodes"]): finding["measured"] for finding in told}
    assert measured["names", "study"] == "study → 10.77.0.12"

    study.run(["umount", "/media"])
    blocking = [finding["check"] for finding in examined(attic) if finding["severity"] == "blocks"]
    assert blocking == ["shared folder"]
