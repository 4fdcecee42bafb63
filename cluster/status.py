"""The cluster as Ray sees it: rows from the dashboard's answers, as a table or JSON."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from rich.table import Table

from cluster.drain import by_name, read_drained
from cluster.head import Head, fetch
from vr_core.config import Spec


class NodeRow(Spec):
    """One node."""

    name: str
    address: str
    head: bool
    alive: bool
    why: str
    """Ray's reason where the node is not alive."""
    drained: str
    """`study is drained until 23:00`; empty where it is not."""
    gpu_models: tuple[str, ...]
    gpu_memory_gib: tuple[int, ...]
    gpus: float
    gpus_used: float
    cpus: float
    cpus_used: float
    labels: dict[str, str]


def read_nodes(head: Head) -> list[NodeRow]:
    """The nodes of the running `head`, now."""
    drained = {name: node.why for name, node in by_name(read_drained()).items()}
    return node_rows(fetch(head, "/api/v0/nodes?detail=1"), fetch(head, "/api/cluster_status"), drained)


def node_rows(nodes: Any, usage: Any, drained: Mapping[str, str] = MappingProxyType({})) -> list[NodeRow]:
    """Rows from the answers of `/api/v0/nodes` and `/api/cluster_status`: the head first, then by name.

    `drained` gives the reason of each drained node by its name.

    A PC that left and came back is a new node for Ray; its dead predecessors are left out, and of a PC that is away
    only its last node is shown.
    """
    report = ((usage.get("data") or {}).get("clusterStatus") or {}).get("loadMetricsReport") or {}
    by_node = report.get("usageByNode") or {}
    newest: dict[str, dict[str, Any]] = {}
    for node in nodes["data"]["result"]["result"]:
        known = newest.get(node["node_name"])
        if known is None or _recency(node) > _recency(known):
            newest[node["node_name"]] = node
    rows = [
        _row(node, by_node.get(node["node_id"], {}), drained.get(node["node_name"], "")) for node in newest.values()
    ]
    return sorted(rows, key=lambda row: (not row.head, row.name))


def _recency(node: dict[str, Any]) -> tuple[bool, int]:
    return node["state"] == "ALIVE", node.get("start_time_ms") or 0


def _row(node: dict[str, Any], used: dict[str, Any], drained: str) -> NodeRow:
    labels = {key: value for key, value in node["labels"].items() if not key.startswith("ray.io/")}
    cards = [f"vr/gpu-{i}" for i in range(int(labels.get("vr/gpu-count", "0")))]
    total = node.get("resources_total") or {}
    return NodeRow(
        name=node["node_name"],
        address=node["node_ip"],
        head=node["is_head_node"],
        alive=node["state"] == "ALIVE",
        why=node.get("state_message") or "",
        drained=drained,
        gpu_models=tuple(labels.get(f"{card}-model", "") for card in cards),
        gpu_memory_gib=tuple(int(labels.get(f"{card}-memory-gib", "0")) for card in cards),
        gpus=total.get("GPU", 0.0),
        gpus_used=used.get("GPU", [0.0])[0],
        cpus=total.get("CPU", 0.0),
        cpus_used=used.get("CPU", [0.0])[0],
        labels=labels,
    )


def table(rows: Sequence[NodeRow]) -> Table:
    """The rows for a terminal."""
    result = Table("node", "address", "state", "GPUs", "GPUs used", "CPUs used", "labels", box=None, pad_edge=False)
    for row in rows:
        cards = ", ".join(
            f"{model} {memory} GiB" for model, memory in zip(row.gpu_models, row.gpu_memory_gib, strict=True)
        )
        own = " ".join(f"{key}={value}" for key, value in sorted(row.labels.items()) if not key.startswith("vr/"))
        result.add_row(
            f"{row.name} (head)" if row.head else row.name,
            row.address,
            row.drained or ("alive" if row.alive else f"dead: {row.why}" if row.why else "dead"),
            cards or "none",
            f"{row.gpus_used:g} / {row.gpus:g}",
            f"{row.cpus_used:g} / {row.cpus:g}",
            own,
        )
    return result
