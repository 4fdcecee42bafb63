"""Waking a PC over the LAN, and sending it to sleep."""

import socket
import subprocess

from cluster.errors import ClusterFailure
from cluster.inventory import NodeSpec

PORT = 9
"""Discard: by custom; the card looks at the bytes alone."""
EVERYONE = "255.255.255.255"
_SSH_TIMEOUT_S = 30


def magic_packet(mac: str) -> bytes:
    """Six bytes of ones, then the card's address sixteen times (AMD, Magic Packet Technology, 1995)."""
    return b"\xff" * 6 + bytes.fromhex(mac.replace(":", "")) * 16


def wake(mac: str, from_address: str, to: str = EVERYONE, port: int = PORT) -> None:
    """Send the packet into the LAN of `from_address`: a PC with two cards would else choose one by its routes.

    Raises:
        ClusterFailure: it cannot be sent.
    """
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sender.bind((from_address, 0))
            sender.sendto(magic_packet(mac), (to, port))
    except OSError as error:
        raise ClusterFailure(f"{mac}: no packet sent to wake it ({error.strerror or error})") from None


def suspend_argv(node: NodeSpec) -> list[str]:
    """The command that suspends a PC, by the user's own ssh; it may ask for nothing."""
    where = f"{node.user}@{node.address}" if node.user else node.address
    return ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", *node.ssh, where, "systemctl suspend"]


def suspend(node: NodeSpec) -> None:
    """Suspend the PC `node`.

    Raises:
        ClusterFailure: it refuses or does not answer.
    """
    try:
        done = subprocess.run(suspend_argv(node), capture_output=True, text=True, timeout=_SSH_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ClusterFailure(f"{node.name}: cannot be suspended ({error})") from None
    if done.returncode != 0:
        said = " ".join((done.stdout + done.stderr).split())[:300] or f"exit code {done.returncode}"
        raise ClusterFailure(f"{node.name}: cannot be suspended ({said}); leave idle_suspend out, or allow it there")
