"""The machine around the cards: versions, system, limits, names, network, secrets, disks; by Linux's own files."""

from __future__ import annotations

import getpass
import importlib.metadata
import os
import platform
import re
import resource
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.probe.readings import Disk, Interface, Names, SecretFile, Software, System

if TYPE_CHECKING:
    from collections.abc import Iterable


def read_software() -> Software:
    """Versions by what is installed for this Python; nothing of it is imported."""
    return Software(
        python=platform.python_version(),
        executable=sys.executable,
        ray=_version("ray"),
        torch=_version("torch"),
        torch_cuda=_torch_cuda(),
        vr=_version("vr"),
    )


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _torch_cuda() -> str | None:
    """As in torch/version.py: the distribution's metadata says it only where the index gave a "+cu130" version."""
    try:
        located = importlib.metadata.distribution("torch").locate_file("torch/version.py")
        return parse_torch_cuda(Path(str(located)).read_text(encoding="utf-8"))
    except (importlib.metadata.PackageNotFoundError, OSError):
        return None


def parse_torch_cuda(text: str) -> str | None:
    """The CUDA release in the text of torch/version.py; None for a build without."""
    match = re.search(r"^cuda\b[^=\n]*=\s*['\"]([0-9.]+)['\"]", text, re.MULTILINE)
    return match.group(1) if match else None


def read_system() -> System:
    """Kernel, limits, power, clock."""
    kernel = platform.release()
    shm = _statvfs("/dev/shm")
    return System(
        kernel=kernel,
        wsl=is_wsl(kernel, _text("/proc/version")),
        battery=has_battery(Path("/sys/class/power_supply")),
        boot_s=float((_text("/proc/uptime") or "0").split()[0]),
        clock_s=time.time(),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        cpus=len(os.sched_getaffinity(0)),
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        inotify_instances=int(_text("/proc/sys/fs/inotify/max_user_instances") or 0),
        inotify_watches=int(_text("/proc/sys/fs/inotify/max_user_watches") or 0),
        shm_bytes=shm.f_frsize * shm.f_blocks if shm else 0,
        shm_free_bytes=shm.f_frsize * shm.f_bavail if shm else 0,
        user=getpass.getuser(),
    )


def is_wsl(kernel: str, proc_version: str) -> bool:
    """Whether this Linux runs inside Windows: Microsoft builds its kernels and says so in their names."""
    return "microsoft" in f"{kernel} {proc_version}".lower()


def has_battery(supplies: Path) -> bool:
    """Whether the PC itself runs on a battery; that of a wireless mouse has the scope "Device"."""
    return any(
        _text(supply / "type") == "Battery" and _text(supply / "scope") != "Device" for supply in supplies.glob("*")
    )


def read_names() -> Names:
    """What the host name and `localhost` lead to, by the system's own resolver."""
    hostname = socket.gethostname()
    return Names(
        hostname=hostname,
        resolves_to=_resolve(hostname),
        localhost=_resolve("localhost"),
        ipv6_disabled=_text("/proc/sys/net/ipv6/conf/all/disable_ipv6") != "0",
    )


def _resolve(name: str) -> tuple[str, ...]:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError:
        return ()
    return tuple(dict.fromkeys(str(address[0]) for *_, address in found))


def read_interfaces(net: Path = Path("/sys/class/net")) -> tuple[Interface, ...]:
    """The network cards, with their IPv4 addresses."""
    addresses = parse_addresses(_run("ip", "-o", "-4", "addr", "show"))
    return tuple(_interface(card, addresses.get(card.name, ())) for card in sorted(net.glob("*")) if card.is_dir())


def _interface(card: Path, addresses: tuple[str, ...]) -> Interface:
    speed = _text(card / "speed")
    return Interface(
        name=card.name,
        addresses=addresses,
        mtu=int(_text(card / "mtu") or 0),
        # -1 where the card has no cable or no notion of speed.
        speed_mbit=int(speed) if speed.isdigit() and int(speed) > 0 else None,
        wireless=(card / "wireless").exists() or (card / "phy80211").exists(),
        # The loopback card is "unknown" and works.
        up=_text(card / "operstate") in ("up", "unknown"),
    )


def parse_addresses(text: str) -> dict[str, tuple[str, ...]]:
    """Network card → its addresses, from `ip -o -4 addr show`."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        match = re.match(r"\d+:\s+(\S+)\s+inet\s+([0-9.]+)", line)
        if match:
            found.setdefault(match.group(1), []).append(match.group(2))
    return {name: tuple(addresses) for name, addresses in found.items()}


def _run(*argv: str) -> str:
    try:
        return subprocess.run(argv, capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def read_secrets(state: Path) -> tuple[SecretFile, ...]:
    """Token files in the state folder `state`, and Ray's own of this account."""
    files = []
    for path in (*sorted(state.glob("*token")), Path.home() / ".ray" / "auth_token"):
        try:
            found = path.stat()
        except OSError:
            continue
        files.append(SecretFile(str(path), stat.S_IMODE(found.st_mode), found.st_uid == os.getuid()))
    return tuple(files)


def state_place() -> Path:
    """Where `vr` keeps its state; nothing is made."""
    # The base directory specification says: a relative path in the variable is invalid and ignored.
    given = Path(os.environ.get("XDG_STATE_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".local" / "state") / "vr"


def read_disk(path: str) -> Disk:
    """The file system under `path`."""
    try:
        real = os.path.realpath(os.path.expanduser(path))
        os.stat(real)
        room = os.statvfs(real)
    except OSError as error:
        return Disk(path, "", "", 0, 0, error.strerror or str(error))
    source, kind = mount_of(real, _text("/proc/mounts").splitlines())
    return Disk(path, kind, source, room.f_frsize * room.f_blocks, room.f_frsize * room.f_bavail, None)


def mount_of(path: str, mounts: Iterable[str]) -> tuple[str, str]:
    """Source and type of the file system under the real path `path`, by the lines of /proc/mounts."""
    best, found = "", ("", "")
    for line in mounts:
        source, where, kind = (re.sub(r"\\([0-7]{3})", _octal, word) for word in line.split()[:3])
        inside = path == where or path.startswith(where.rstrip("/") + "/")
        # Of two mounts on one place the later one is seen.
        if inside and len(where) >= len(best):
            best, found = where, (source, kind)
    return found


def _octal(match: re.Match[str]) -> str:
    return chr(int(match.group(1), 8))


def _statvfs(path: str) -> os.statvfs_result | None:
    try:
        return os.statvfs(path)
    except OSError:
        return None


def _text(path: object) -> str:
    """The file's text without the newline; "" where it cannot be read."""
    try:
        with open(str(path), encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""
