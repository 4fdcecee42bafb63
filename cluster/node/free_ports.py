"""Which ports a node takes: those that are asked for, the usual ones, or a free block."""

import random
import socket

from cluster.errors import ClusterError, ClusterFailure
from cluster.node.ray_start import BLOCK, LOOPBACK, NodeStart, Ports, ports_from


def choose_ports(node: NodeStart) -> Ports:
    """The ports that `node` will listen on, all of them free now.

    Raises:
        ClusterError: one that was asked for, or is the usual one, is taken.
        ClusterFailure: no block of ports is free.
    """
    if node.port_base == 0:
        return _free_ports(node)
    ports = Ports() if node.port_base is None else ports_from(node.port_base)
    for name, port in ports.singles(head=node.head is None, lan=not node.loopback_only).items():
        if not _is_free(node, port):
            raise ClusterError(
                f"port {port} ({name.replace('_', ' ')}) is taken on this machine, by another Ray cluster perhaps; "
                "end that, or choose with --port (0 for free ones)"
            )
    return ports


def _free_ports(node: NodeStart) -> Ports:
    # Below 32768, where Linux begins to give ports to outgoing connections: a block found free stays free.
    for base in random.sample(range(12288, 32768 - BLOCK, BLOCK), k=64):
        ports = ports_from(base)
        wanted = [*ports.singles(head=True).values(), *range(ports.worker_low, ports.worker_high + 1)]
        if all(_is_free(node, port) for port in wanted):
            return ports
    raise ClusterFailure("no 256 free ports in a row on this machine; choose with --port")


def _is_free(node: NodeStart, port: int) -> bool:
    # Ray binds some ports on the node's address, some on 127.0.0.1 and, with a LAN address, some on all interfaces.
    for address in {LOOPBACK, node.address} if node.loopback_only else {LOOPBACK, node.address, ""}:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                return False
    return True
