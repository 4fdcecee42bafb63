"""An nftables ruleset that lets the cluster's ports be reached from the cluster's PCs only. Pure."""

from collections.abc import Iterable

from cluster.inventory import Inventory
from cluster.node.ray_start import Ports

EPHEMERAL = (32768, 60999)
"""Where Linux, unless told otherwise, takes ports from that nobody names: gloo and NCCL listen on such."""


def spans(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same ports as few, rising, separate ranges (first and last port)."""
    result: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if result and low <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(high, result[-1][1]))
        else:
            result.append((low, high))
    return result


def guarded(ports: Ports) -> list[tuple[int, int]]:
    """Every range of ports that the ruleset guards: Ray's, the join endpoint, and torch's."""
    singles = [(port, port) for port in ports.singles(head=True).values()]
    return spans([*singles, (ports.worker_low, ports.worker_high), EPHEMERAL])


def ruleset(inventory: Inventory, ports: Ports) -> str:
    """The same file for every PC of `inventory`, for `nft -f`; loading it again replaces what it set before.

    It drops and never opens: a port that another ruleset closes stays closed, and everything but the guarded TCP ports
    is left alone. Answers to connections that the PC itself opened come in.
    """
    addresses = ", ".join(node.address for node in inventory.nodes)
    numbers = ", ".join(f"{low}-{high}" if high > low else str(low) for low, high in guarded(ports))
    names = ", ".join(node.name for node in inventory.nodes)
    return f"""#!/usr/sbin/nft -f
# Written by `vr cluster firewall` for {names}: their Ray and torch ports admit these PCs only.
table inet vr_cluster
delete table inet vr_cluster
table inet vr_cluster {{
    set pcs {{
        type ipv4_addr
        elements = {{ {addresses} }}
    }}
    set guarded {{
        type inet_service
        flags interval
        elements = {{ {numbers} }}
    }}
    chain input {{
        type filter hook input priority filter; policy accept;
        iif lo accept
        ct state established,related accept
        ip saddr @pcs accept
        tcp dport @guarded counter drop
    }}
}}
"""
