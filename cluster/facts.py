"""What this machine is: its CPUs, memory, graphics cards and network addresses."""

import os
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

import psutil

from cluster.errors import ClusterError, ClusterFailure
from cluster.inventory import GpuSpec
from vr_core.config import Spec

CARDS = Path("/sys/class/net")
"""Where Linux shows network cards."""


class Facts(Spec):
    """One machine as it was found."""

    hostname: str
    cpus: int
    """Logical CPUs that this process may use."""
    memory_bytes: int
    gpus: tuple[GpuSpec, ...]
    interfaces: dict[str, tuple[str, ...]]
    """Network card → its IPv4 addresses."""

    @property
    def addresses(self) -> list[str]:
        """Every IPv4 address of this machine."""
        return [address for addresses in self.interfaces.values() for address in addresses]


def look() -> Facts:
    """The facts of this machine, now.

    Raises:
        ClusterFailure: the NVIDIA driver is installed and does not work.
    """
    return Facts(
        hostname=socket.gethostname(),
        cpus=len(os.sched_getaffinity(0)),
        memory_bytes=psutil.virtual_memory().total,
        gpus=find_gpus(),
        interfaces=find_interfaces(),
    )


def find_interfaces() -> dict[str, tuple[str, ...]]:
    """The network cards of this machine that have IPv4 addresses, with these."""
    found = {
        name: tuple(a.address for a in addresses if a.family == socket.AF_INET)
        for name, addresses in psutil.net_if_addrs().items()
    }
    return {name: addresses for name, addresses in found.items() if addresses}


def find_gpus(timeout_s: float = 30.0) -> tuple[GpuSpec, ...]:
    """The NVIDIA cards of this machine; none where there is no driver.

    Raises:
        ClusterFailure: the driver is installed and does not work, or does not answer within `timeout_s` seconds.
    """
    # nvidia-smi comes with every driver and asks NVML; the NVML binding for Python would be one more dependency.
    try:
        answer = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
    except FileNotFoundError:
        return ()
    except subprocess.TimeoutExpired:
        raise ClusterFailure(
            f"nvidia-smi: no answer in {timeout_s:g} s; restart this PC, or leave its cards out of it"
        ) from None
    if answer.returncode != 0 and "No devices were found" not in answer.stdout:
        said = " ".join((answer.stdout + answer.stderr).split())
        raise ClusterFailure(f"nvidia-smi: {said}; repair the NVIDIA driver, or remove it where there is no card")
    return parse_gpus(answer.stdout)


def parse_gpus(text: str) -> tuple[GpuSpec, ...]:
    """Cards of `nvidia-smi --query-gpu=name,memory.total --format=csv,noheader,nounits` (memory in MiB)."""
    gpus = []
    for line in text.splitlines():
        model, comma, memory_mib = line.rpartition(",")
        if comma and memory_mib.strip().isdigit():
            gpus.append(GpuSpec(model=model.strip(), memory_gib=round(int(memory_mib) / 1024, 1)))
    return tuple(gpus)


def interface_of(address: str, interfaces: Mapping[str, tuple[str, ...]]) -> str:
    """Name of the network card that carries `address`.

    Raises:
        ClusterError: no card of this machine has it.
    """
    for name, addresses in interfaces.items():
        # The loopback card answers for all of 127.0.0.0/8, whatever it lists.
        if address in addresses or address.startswith("127.") and "127.0.0.1" in addresses:
            return name
    known = ", ".join(a for addresses in interfaces.values() for a in addresses)
    raise ClusterError(f"{address}: not an address of this machine; it has {known}")


def link_mbit(interface: str, cards: Path = CARDS) -> int | None:
    """Rate that the network card `interface` and the switch agreed on; None where there is none (Wi-Fi, loopback)."""
    try:
        speed = int((cards / interface / "speed").read_text())
    except (OSError, ValueError):
        return None
    return speed if speed > 0 else None  # -1: no cable


def address_towards(target: str) -> str:
    """The address of ours from which packets to the IPv4 address `target` leave.

    Connecting a UDP socket sends nothing: the kernel only looks up its routing table and fixes the source address,
    the same answer as `ip route get`, without that program.

    Raises:
        ClusterError: there is no route.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((target, 9))
        except OSError as error:
            raise ClusterError(f"{target}: no route to it from this machine ({error.strerror})") from None
        return str(probe.getsockname()[0])
