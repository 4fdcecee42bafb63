"""Waking a PC over the LAN, and sending it to sleep."""

import ipaddress
import socket
from collections.abc import Iterable

import psutil

from cluster.errors import ClusterError, ClusterFailure
from cluster.inventory import NodeSpec
from cluster.remote.shell import Unreached, run

PORT = 9
"""Discard: by custom; the card looks at the bytes alone."""
_SSH_TIMEOUT_S = 30


def magic_packet(mac: str) -> bytes:
    """Six bytes of ones, then the card's address sixteen times (AMD, Magic Packet Technology, 1995)."""
    return b"\xff" * 6 + bytes.fromhex(mac.replace(":", "")) * 16


def broadcast_of(address: str, cards: Iterable[tuple[str, str]]) -> str:
    """Broadcast address of the network of `address`, given (address, netmask) of every card of this machine.

    255.255.255.255 would leave by the card of the default route, which may be another one.

    Raises:
        ClusterFailure: no card is in that network.
    """
    for own, netmask in cards:
        network = ipaddress.ip_interface(f"{own}/{netmask}").network
        if ipaddress.ip_address(address) in network:
            return str(network.broadcast_address)
    raise ClusterFailure(f"{address}: no network card of this machine is in its network")


def wake(mac: str, from_address: str, port: int = PORT) -> None:
    """Send the packet to everyone in the LAN of `from_address`, an address of this machine.

    Raises:
        ClusterFailure: it cannot be sent.
    """
    cards = [
        (a.address, a.netmask)
        for addresses in psutil.net_if_addrs().values()
        for a in addresses
        if a.family == socket.AF_INET and a.netmask
    ]
    to = broadcast_of(from_address, cards)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sender.bind((from_address, 0))
            sender.sendto(magic_packet(mac), (to, port))
    except OSError as error:
        raise ClusterFailure(f"{mac}: no packet sent to wake it ({error.strerror or error})") from None


def suspend(node: NodeSpec) -> None:
    """Suspend the PC `node`.

    Raises:
        ClusterFailure: it refuses or does not answer.
    """
    try:
        done = run(node, ["systemctl", "suspend"], timeout_s=_SSH_TIMEOUT_S)
    except (Unreached, ClusterError) as error:
        raise ClusterFailure(f"{node.name}: cannot be suspended ({error})") from None
    if done.code != 0:
        said = " ".join((done.stdout + done.stderr).split())[:300] or f"exit code {done.code}"
        raise ClusterFailure(f"{node.name}: cannot be suspended ({said}); leave idle_suspend out, or allow it there")
