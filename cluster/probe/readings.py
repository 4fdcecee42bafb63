"""What a probe says of one node, as plain values. Nothing but the standard library, for every Python from 3.8 on.

The probe runs on PCs where nothing is installed yet, so this package imports nothing of ours and nothing of others;
annotations are never evaluated there. The asking machine checks the same classes with pydantic when the answer arrives.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True)
class Software:
    """Versions in the Python that ran the probe."""

    python: str
    """All three numbers, "3.11.7"."""
    executable: str
    ray: str | None
    torch: str | None
    torch_cuda: str | None
    """CUDA release that torch was built for, "13.0"; None where torch is missing or built without."""
    vr: str | None


@dataclass(frozen=True)
class Card:
    """One NVIDIA card as `nvidia-smi` shows it; what a card does not tell is None."""

    index: int
    uuid: str
    model: str
    memory_mib: int
    free_mib: int
    power_w: float | None
    limit_w: float | None
    temperature_c: float | None
    capability: str | None
    """Compute capability, "8.6"."""


@dataclass(frozen=True)
class CardProcess:
    """A process that holds memory of a card."""

    uuid: str
    pid: int
    name: str
    memory_mib: int | None


@dataclass(frozen=True)
class Graphics:
    """The NVIDIA driver and its cards."""

    on_bus: int
    """NVIDIA display adapters on the PCI bus, with or without a driver; not seen inside WSL2."""
    driver: str | None
    cuda_limit: str | None
    """Newest CUDA that the driver itself brings."""
    cards: tuple[Card, ...]
    processes: tuple[CardProcess, ...]
    error: str | None
    """What `nvidia-smi` said instead of an answer; None also where it is not installed."""


@dataclass(frozen=True)
class Interface:
    """One network card."""

    name: str
    addresses: tuple[str, ...]
    """IPv4."""
    mtu: int
    speed_mbit: int | None
    wireless: bool
    up: bool


@dataclass(frozen=True)
class Names:
    """The host name and what it leads to."""

    hostname: str
    resolves_to: tuple[str, ...]
    """IPv4 and IPv6 addresses of the host name."""
    localhost: tuple[str, ...]
    ipv6_disabled: bool


@dataclass(frozen=True)
class System:
    """The operating system, its limits and its power."""

    kernel: str
    wsl: bool
    battery: bool
    boot_s: float
    """Seconds since it was started."""
    clock_s: float
    """Its clock in seconds since 1970, just before the answer was printed."""
    memory_bytes: int
    cpus: int
    open_files: int
    """Most that a process may have, after raising its own limit as far as it may."""
    inotify_instances: int
    inotify_watches: int
    shm_bytes: int
    """Size of /dev/shm; 0 where there is none."""
    shm_free_bytes: int
    user: str


@dataclass(frozen=True)
class SecretFile:
    """A file that should be its owner's alone."""

    path: str
    mode: int
    mine: bool


@dataclass(frozen=True)
class Disk:
    """The file system under one path."""

    path: str
    kind: str
    """Its type, such as ext4, nfs4 or cifs; "" where it cannot be told."""
    source: str
    total_bytes: int
    free_bytes: int
    """For this user."""
    error: str | None
    """Why nothing is known of it; the numbers are 0 then."""


@dataclass(frozen=True)
class Rates:
    """What a folder's disk does, in bytes a second. None: not measured, see `error`."""

    path: str
    write: float | None
    read: float | None
    """Large reads in order."""
    crops: float | None
    """Reads of `storage.CROP_BYTES` from places in no order, as training makes them."""
    error: str | None


@dataclass(frozen=True)
class Share:
    """The shared folder as this node sees it, step by step; the first step that fails has its reason in `error`."""

    path: str
    same_file: bool
    """The file that the first node wrote is here, with what it wrote."""
    renamed: bool
    """An own file was written, renamed over another, and read back."""
    locked: bool
    """A lock keeps out whoever else opens the file on this node."""
    lock_seen: bool | None
    """The first node's lock keeps this node out; None: not tried."""
    error: str | None
    mode: int = 0o700
    """Of the folder that the inventory names: who may write there."""


@dataclass(frozen=True)
class NodeProbe:
    """One node, measured on that node."""

    software: Software
    graphics: Graphics
    interfaces: tuple[Interface, ...]
    names: Names
    system: System
    secrets: tuple[SecretFile, ...]
    """The cluster's token files of this account, and Ray's own."""
    disks: dict[str, Disk]
    """By what it is for: "home", "tmp", "cache"."""


@dataclass(frozen=True)
class Port:
    """One port of a node as another node finds it."""

    port: int
    state: str
    """"open", "refused" (nothing listens, or a firewall rejects) or "silent" (a firewall drops)."""


@dataclass(frozen=True)
class Link:
    """The way between two nodes, measured by the first in both directions."""

    ports: tuple[Port, ...]
    rtt_ms: float | None = None
    """Median round trip over an open connection."""
    clock_ahead_s: float | None = None
    """How far the other node's clock is ahead of this one's."""
    there_mbit: float | None = None
    back_mbit: float | None = None
    there_resent: float | None = None
    """Share of segments sent again, 0 to 1."""
    back_resent: float | None = None
    path_mtu: int | None = None
    """As the kernel believes it."""
    full_packet: bool | None = None
    """A packet of the whole MTU, not to be cut, came back; None: not tried."""
    stale_s: float | None = None
    """Until the other node saw a file that was renamed over an old one."""
    stale_error: str | None = None
    error: str | None = None
    """Why something is missing."""


def as_json(reading: object) -> dict:  # type: ignore[type-arg]
    """A reading as JSON-ready values."""
    return dataclasses.asdict(reading)  # type: ignore[call-overload, no-any-return]
