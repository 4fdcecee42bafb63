import ast
import importlib.metadata
import json
import os
import platform
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import cluster.probe
from cluster.facts import find_interfaces
from cluster.probe import machine
from cluster.remote.probe_call import program

FOLDER = Path(cluster.probe.__path__[0])


def test_the_probe_runs_where_nothing_is_installed(tmp_path):
    # -I -S: neither our packages nor anybody's, as on a PC that was just set up.
    request = {"do": "node", "disks": {"here": str(tmp_path)}}
    done = subprocess.run([sys.executable, "-I", "-S", "-"], input=program(request), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    probe = json.loads(done.stdout)
    assert probe["software"]["python"] == platform.python_version()
    assert probe["software"]["ray"] is probe["software"]["torch"] is probe["software"]["vr"] is None
    assert probe["disks"]["here"]["free_bytes"] > 0


def test_the_probe_is_written_for_old_pythons():
    for path in FOLDER.glob("*.py"):
        tree = ast.parse(path.read_text(), feature_version=(3, 8))
        futures = [n for n in tree.body if isinstance(n, ast.ImportFrom) and n.module == "__future__"]
        assert futures or path.name == "__init__.py", f"{path.name}: annotations would be evaluated"


def test_versions_are_those_that_are_installed_here():
    software = machine.read_software()
    assert software.python == platform.python_version()
    for name in ("ray", "torch", "vr"):
        assert getattr(software, name) == importlib.metadata.version(name)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("__version__ = '2.13.0+cu130'\ndebug = False\ncuda: Optional[str] = '13.0'\ngit_version = 'cf'\n", "13.0"),
        ("__version__ = '2.5.1'\ncuda = '12.4'\n", "12.4"),
        ("__version__ = '2.13.0+cpu'\ncuda: Optional[str] = None\nhip: Optional[str] = '6.2'\n", None),
    ],
)
def test_the_cuda_of_torch_is_read_without_torch(text, expected):
    assert machine.parse_torch_cuda(text) == expected


def test_the_system_is_as_the_kernel_says():
    before = time.time()
    system = machine.read_system()
    assert before <= system.clock_s <= time.time()
    assert system.memory_bytes == psutil.virtual_memory().total
    assert system.cpus == len(os.sched_getaffinity(0))
    assert system.boot_s == pytest.approx(time.clock_gettime(time.CLOCK_BOOTTIME), abs=5)
    assert system.open_files >= 256
    assert system.inotify_watches == int(Path("/proc/sys/fs/inotify/max_user_watches").read_text())


@pytest.mark.parametrize(
    ("kernel", "version", "expected"),
    [
        ("5.15.153.1-microsoft-standard-WSL2", "Linux version 5.15.153.1-microsoft-standard-WSL2 (root@)", True),
        ("6.6.1-custom", "Linux version 6.6.1-custom (Microsoft@Microsoft.com) (gcc)", True),
        ("6.8.0-47-generic", "Linux version 6.8.0-47-generic (buildd@lcy02-amd64-016)", False),
    ],
)
def test_windows_around_this_linux_is_recognised(kernel, version, expected):
    assert machine.is_wsl(kernel, version) is expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"BAT0/type": "Battery", "AC/type": "Mains"}, True),
        ({"hid-mouse/type": "Battery", "hid-mouse/scope": "Device"}, False),
        ({"AC/type": "Mains"}, False),
        ({}, False),
    ],
)
def test_a_laptop_has_a_battery_and_a_mouse_is_none(tmp_path, files, expected):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    assert machine.has_battery(tmp_path) is expected


def test_names_are_those_of_the_resolver():
    names = machine.read_names()
    assert names.hostname == socket.gethostname()
    assert "127.0.0.1" in names.localhost


def test_network_cards_are_those_that_psutil_sees():
    found = {card.name: card for card in machine.read_interfaces()}
    assert {name: card.addresses for name, card in found.items() if card.addresses} == find_interfaces()
    assert {name: card.mtu for name, card in found.items()} == {n: s.mtu for n, s in psutil.net_if_stats().items()}
    assert found["lo"].up
    assert not found["lo"].wireless


def test_a_wireless_card_and_one_without_a_cable(tmp_path):
    for name, files in {
        "wlp3s0": {"mtu": "1500", "operstate": "up", "wireless/x": ""},
        "enp5s0": {"mtu": "9000", "operstate": "up", "speed": "2500"},
        "eno1": {"mtu": "1500", "operstate": "down", "speed": "-1"},
    }.items():
        for file, text in files.items():
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_text(f"{text}\n")
    down, cable, wifi = machine.read_interfaces(tmp_path)
    assert (down.name, down.up, down.speed_mbit) == ("eno1", False, None)
    assert (cable.name, cable.up, cable.speed_mbit, cable.mtu, cable.wireless) == ("enp5s0", True, 2500, 9000, False)
    assert (wifi.name, wifi.wireless, wifi.speed_mbit) == ("wlp3s0", True, None)


def test_addresses_of_cards():
    text = (
        "1: lo    inet 127.0.0.1/8 scope host lo\\       valid_lft forever preferred_lft forever\n"
        "2: enp5s0    inet 192.168.1.10/24 brd 192.168.1.255 scope global dynamic enp5s0\\       valid_lft 8s\n"
        "2: enp5s0    inet 10.0.0.4/8 scope global secondary enp5s0\\       valid_lft forever\n"
        "7: wg0    inet 10.7.0.2 peer 10.7.0.1/32 scope global wg0\\       valid_lft forever\n"
    )
    assert machine.parse_addresses(text) == {
        "lo": ("127.0.0.1",),
        "enp5s0": ("192.168.1.10", "10.0.0.4"),
        "wg0": ("10.7.0.2",),
    }


MOUNTS = [
    "/dev/nvme0n1p2 / ext4 rw,relatime 0 0",
    "nas:/volume1 /mnt/nas nfs4 rw,vers=4.2 0 0",
    "//nas/music /mnt/my\\040music cifs rw 0 0",
    "tmpfs /mnt/nas2 tmpfs rw 0 0",
    "/dev/sdb1 /srv ext4 rw 0 0",
    "systemd-1 /srv autofs rw 0 0",
]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/home/sam", ("/dev/nvme0n1p2", "ext4")),
        ("/mnt/nas", ("nas:/volume1", "nfs4")),
        ("/mnt/nas/runs", ("nas:/volume1", "nfs4")),
        ("/mnt/nas2/x", ("tmpfs", "tmpfs")),
        ("/mnt/nas3", ("/dev/nvme0n1p2", "ext4")),
        ("/mnt/my music/a", ("//nas/music", "cifs")),
        ("/srv/x", ("systemd-1", "autofs")),
    ],
)
def test_the_file_system_under_a_path(path, expected):
    assert machine.mount_of(path, MOUNTS) == expected


def test_disks_and_what_is_none(tmp_path):
    disk = machine.read_disk(str(tmp_path))
    assert disk.total_bytes == psutil.disk_usage(str(tmp_path)).total
    assert disk.kind
    assert machine.read_disk(str(tmp_path / "none")).error == "No such file or directory"
    assert machine.read_disk("~").path == "~"
    assert machine.read_disk("~").error is None


def test_token_files_with_their_modes(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, mode in (("state/token", 0o600), ("state/joined-a.token", 0o644), (".ray/auth_token", 0o640)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
        (tmp_path / name).chmod(mode)
    (tmp_path / "state" / "head.json").touch()
    found = {Path(file.path).name: (file.mode, file.mine) for file in machine.read_secrets(tmp_path / "state")}
    assert found == {"token": (0o600, True), "joined-a.token": (0o644, True), "auth_token": (0o640, True)}
