"""The LAN in a box itself: what its hosts share, what can be done to them, and that nothing of it is left."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.box.cgroups import cpu_settings, memory_settings
from tests.lan import HOME, INTERFACE, MARK, ROOT, SHARED, Lan, await_true, require

pytestmark = pytest.mark.xdist_group("box")


@pytest.fixture(scope="module")
def lan():
    require()
    with Lan("attic", "study") as box:
        yield box


@pytest.fixture
def attic(lan):
    return lan["attic"]


@pytest.fixture
def study(lan):
    return lan["study"]


def processes_of(box_folder):
    """Processes with the mark of this box in their environment."""
    found = []
    for pid in psutil.pids():
        try:
            if f"{MARK}={box_folder}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.append(pid)
        except OSError:
            continue
    return found


def traces(box_folder):
    """Everything of a box that can be found on this machine."""
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if box_folder in line]
    name = Path(box_folder).name
    return [*processes_of(box_folder), *mounts, *Path("/sys/fs/cgroup").glob(f"*/{name}"), *Path("/tmp").glob(name)]


def machine_network():
    return subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout


def test_a_host_has_its_own_name_address_home_and_processes(attic, study):
    assert attic.run(["hostname"]).stdout == "attic\n"
    assert attic.run(["cat", "/etc/hostname"]).stdout == "attic\n"
    cards = json.loads(attic.run(["ip", "-json", "-4", "address"]).stdout)
    assert {card["ifname"]: card["addr_info"][0]["local"] for card in cards} == {
        "lo": "127.0.0.1",
        "eth0": "10.77.0.11",
    }
    assert set(attic.run(["ls", "/sys/class/net"]).stdout.split()) == {"lo", "eth0"}

    attic.run(["sh", "-c", "echo mine > ~/note; echo mine > /tmp/note; echo mine > /dev/shm/note"])
    for path in (f"{HOME}/note", "/tmp/note", "/dev/shm/note"):
        assert attic.run(["cat", path]).stdout == "mine\n"
        study.run(["test", "-e", path], code=1)
    assert (attic.home / "note").read_text() == "mine\n"

    seen = attic.run(["ps", "-eo", "args"]).stdout
    assert "pytest" not in seen
    assert "sshd" in seen
    assert str(os.getpid()) not in attic.run(["ls", "/proc"]).stdout.split()


def test_every_host_opens_to_every_other_by_plain_ssh(attic, study):
    for host, other in ((attic, study), (study, attic)):
        for target in (other.name, other.address, f"root@{other.address}"):
            said = host.run(["ssh", target, "hostname; pwd; echo $PYTHONPATH; command -v python"])
            assert said.stdout.split() == [other.name, HOME, str(ROOT), str(Path(sys.executable).parent / "python")]
            assert said.stderr == ""


def test_the_tree_under_test_runs_on_a_host(attic):
    assert attic.vr("--version").startswith("vr ")
    assert "no Ray head runs here" in attic.vr("cluster", "status", code=2)


def test_all_hosts_have_one_shared_folder(lan, attic, study):
    attic.run(["sh", "-c", f"echo ours > {SHARED}/note"])
    assert study.run(["cat", f"{SHARED}/note"]).stdout == "ours\n"
    assert (lan.shared / "note").read_text() == "ours\n"


def test_the_shared_folder_may_lie_on_one_host():
    require("sshfs", "/dev/fuse")
    with Lan("nas", "study", shared="sshfs") as box:
        box["study"].run(["sh", "-c", f"echo ours > {SHARED}/note"])
        assert (box.shared / "note").read_text() == "ours\n"
        assert "fuse.sshfs" in box["study"].run(["findmnt", SHARED]).stdout
        assert "fuse.sshfs" not in box["nas"].run(["findmnt", SHARED]).stdout


def reaches(host, address):
    """Whether the sshd of `address` takes a connection from `host` within a second."""
    connect = "import socket, sys; socket.create_connection((sys.argv[1], 22), timeout=1)"
    return host.run([sys.executable, "-c", connect, address], code=None).returncode == 0


def test_a_cut_cable_carries_nothing_until_it_is_mended(attic, study):
    await_true(lambda: reaches(attic, study.address), "it carries")
    study.cut()
    assert not reaches(attic, study.address)
    assert not reaches(study, attic.address)
    await_true(lambda: reaches(study, study.address), "its own address stays with it")
    study.mend()
    await_true(lambda: reaches(attic, study.address), "the mended cable carries")


# The sender sends 4 MB; the receiver answers one byte after the last.
RECEIVE = """
import socket
with socket.create_server(("", 4000)) as server:
    print("ready", flush=True)
    with server.accept()[0] as peer:
        left = 4_000_000
        while left: left -= len(peer.recv(65536))
        peer.send(b".")
"""
SEND = """
import socket, sys
with socket.create_connection((sys.argv[1], 4000)) as peer:
    peer.sendall(bytes(4_000_000)); peer.recv(1)
"""


def queue(lan, where, device):
    """The kernel's own account of the queue of a network card: its kind, its rate, what passed and what had to wait."""
    inside = ["nsenter", f"--target={where}", "--net", "tc", "-s", "-json", "qdisc", "show", "dev", device]
    [told] = json.loads(subprocess.run(inside, capture_output=True, text=True, check=True).stdout)
    return told


def test_a_cable_has_its_rate_in_both_directions_and_it_can_change(lan, attic, study):
    ends = [(lan.switch_pid, study.port), (study.pid, INTERFACE)]
    study.rate(40)
    try:
        for sender, receiver, end in ((attic, study, ends[0]), (study, attic, ends[1])):
            before = queue(lan, *end)
            with receiver.popen([sys.executable, "-c", RECEIVE], stdout=subprocess.PIPE) as server:
                assert server.stdout.readline() == "ready\n"
                sender.run([sys.executable, "-c", SEND, receiver.address])
            after = queue(lan, *end)
            assert (after["kind"], after["options"]["rate"]) == ("tbf", 40e6 / 8)
            assert after["bytes"] - before["bytes"] > 4_000_000, "all of it went through there"
            assert after["overlimits"] > before["overlimits"], "and some had to wait"
        study.rate(80)
        assert [queue(lan, *end)["options"]["rate"] for end in ends] == [80e6 / 8] * 2
    finally:
        study.rate(None)
    assert [queue(lan, *end)["kind"] for end in ends] == ["noqueue"] * 2


def throttled(lan, part):
    """How often the kernel has stopped processes of this part of the box because they had had their share."""
    lines = dict(line.split() for line in lan.groups.told(part, "cpu.stat").splitlines())
    return int(lines["nr_throttled"])


# A tenth of a second of CPU time, however long that takes.
COMPUTES = "import time\nwhile time.process_time() < 0.1: pass"
SPINS = ["sh", "-c", "while :; do :; done"]


def spinning(host):
    """The process of `SPINS` on the host, as this machine numbers it."""
    return await_true(lambda: [pid for pid in host.pids() if command_line(pid) == SPINS], "it runs")


def command_line(pid):
    """Of a process that may have ended meanwhile."""
    try:
        return psutil.Process(pid).cmdline()
    except psutil.Error:
        return []


def test_a_host_has_no_more_of_the_cpus_than_it_is_given(lan, attic, study):
    before = throttled(lan, "study")
    spin = attic.popen(SPINS)
    try:
        spinning(attic)
        attic.cpu(0.05)
        held = throttled(lan, "attic")
        await_true(lambda: throttled(lan, "attic") > held + 10, "it is stopped again and again")
        attic.cpu(None)
        assert lan.groups.limits("attic") == []
    finally:
        attic.cpu(None)
        spin.kill()
        spin.wait()
    free = throttled(lan, "attic")
    attic.run([sys.executable, "-c", COMPUTES])
    assert throttled(lan, "attic") == free, "nothing is stopped any more"
    assert throttled(lan, "study") == before, "nor ever on another host"


def test_single_processes_of_a_host_can_be_slowed(lan, attic):
    spin = attic.popen(SPINS)
    try:
        inner = spinning(attic)
        others = throttled(lan, "attic")
        attic.cpu(0.05, inner)
        await_true(lambda: throttled(lan, "attic.slow") > 10, "it is stopped again and again")
        attic.run([sys.executable, "-c", COMPUTES])
        assert throttled(lan, "attic") == others, "only that one"
        groups = {pid: Path(f"/proc/{pid}/cgroup").read_text() for pid in (attic.pid, inner[0])}
        assert "attic.slow" in groups[inner[0]]
        assert "attic.slow" not in groups[attic.pid]
        weight = "cpu.weight" if lan.groups.v2 else "cpu.shares"
        slow, rest = (int(lan.groups.told(part, weight)) for part in ("attic.slow", "attic"))
        assert slow >= 100 * rest, "what it may use it gets first"
    finally:
        spin.kill()
        spin.wait()


def test_a_host_has_no_more_memory_than_it_is_given(attic):
    attic.memory(100 * 2**20)
    try:
        hungry = attic.run([sys.executable, "-c", "bytearray(300 * 2**20)"], code=None)
        assert hungry.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)
    finally:
        attic.memory(None)
    attic.run([sys.executable, "-c", "bytearray(300 * 2**20)"])


def test_what_is_started_on_a_host_ends_with_what_stands_for_it_here(attic):
    sleeper = attic.popen(["sleep", "1000"])
    inner = await_true(lambda: [p for p in attic.pids() if psutil.Process(p).name() == "sleep"], "it runs")
    sleeper.kill()
    sleeper.wait()
    await_true(lambda: not psutil.pid_exists(inner[0]), "it ends too", timeout_s=10)


def test_an_error_does_not_wait_for_what_runs_on_a_host(attic):
    with pytest.raises(ZeroDivisionError), attic.popen(["sleep", "1000"]) as sleeper:
        raise ZeroDivisionError
    assert sleeper.returncode is not None


def test_a_pulled_plug_ends_everything_and_tells_nobody(lan, attic, study):
    listener = study.popen([sys.executable, "-c", RECEIVE], stdout=subprocess.PIPE)
    assert listener.stdout.readline() == "ready\n"
    connect = (
        f"import socket; s = socket.create_connection(('{study.address}', 4000)); print('open', flush=True); s.recv(1)"
    )
    peer = attic.popen([sys.executable, "-c", connect], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert peer.stdout.readline() == "open\n"
    victims = study.pids()

    study.kill()
    assert not any(psutil.pid_exists(pid) for pid in victims)
    listener.communicate()
    connections = attic.run(["ss", "-tnH", "dst", study.address]).stdout
    assert "ESTAB" in connections, "the survivor was told"
    peer.kill()
    peer.communicate()

    (study.home / "kept").touch()
    study.start()
    study.run(["test", "-e", f"{HOME}/kept"])
    assert attic.run(["ssh", "study", "hostname"]).stdout == "study\n"
    assert set(lan.hosts) == {"attic", "study"}


HOLDER = """
import sys
from tests.lan import Lan
with Lan("attic", "study", shared="sshfs") as box:
    box["attic"].popen(["sleep", "1000"])
    box["study"].popen(["setsid", "sh", "-c", "trap '' TERM HUP; sleep 1000 & wait"])
    box["study"].cpu(0.5)
    print(box.folder, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("how", ["the end", "SIGKILL", "SIGTERM", "SIGINT"])
def test_nothing_of_a_box_is_left(how):
    require("sshfs", "/dev/fuse")
    network = machine_network()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with holder:
        folder = holder.stdout.readline().strip()
        box = [psutil.Process(pid) for pid in processes_of(folder)]
        # Namespaces without a name are there as long as a process is in them.
        inside = {os.readlink(f"/proc/{p.pid}/ns/net") for p in box} - {os.readlink("/proc/self/ns/net")}
        assert len(inside) == 3, "two hosts and a switch"
        assert len(traces(folder)) > len(box), "there is something to be removed"
        assert machine_network() == network, "the machine's own network has changed"
        if how == "the end":
            holder.stdin.close()
        else:
            holder.send_signal(signal.Signals[how])
        holder.wait()
    await_true(lambda: not traces(folder), f"no trace of {folder}", timeout_s=20)
    _, left = psutil.wait_procs(box, timeout=5)
    assert [p for p in left if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
    assert machine_network() == network


def test_where_a_box_cannot_be_the_test_is_skipped_and_in_ci_it_fails(monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    reason = "not root|missing no-such-program, /no/such/file"
    with pytest.raises(pytest.skip.Exception, match=reason):
        require("no-such-program", "/no/such/file")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=reason):
        require("no-such-program", "/no/such/file")


def test_settings_of_both_versions_of_cgroups():
    assert cpu_settings(0.5, v2=False) == {
        "cpu.cfs_period_us": "20000", "cpu.cfs_quota_us": "10000", "cpu.shares": "1024",
    }  # fmt: skip
    assert cpu_settings(None, v2=False)["cpu.cfs_quota_us"] == "-1"
    assert cpu_settings(0.5, v2=False, first=True)["cpu.shares"] == "262144"  # the most of either version
    assert cpu_settings(0.5, v2=True, first=True)["cpu.weight"] == "10000"
    assert cpu_settings(1.5, v2=True) == {"cpu.max": "30000 20000", "cpu.weight": "100"}
    assert cpu_settings(None, v2=True)["cpu.max"] == "max 20000"
    assert cpu_settings(0.01, v2=True)["cpu.max"] == "1000 20000"  # the least that the kernel takes
    assert memory_settings(2**30, v2=False) == {"memory.limit_in_bytes": "1073741824"}
    assert memory_settings(None, v2=False) == {"memory.limit_in_bytes": "-1"}
    assert memory_settings(2**30, v2=True) == {"memory.max": "1073741824"}
    assert memory_settings(None, v2=True) == {"memory.max": "max"}
