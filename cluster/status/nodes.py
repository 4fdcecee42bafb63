"""The cluster as Ray sees it: rows from the dashboard's answers. Everything but `read_nodes` is pure.

Ray's own agent on each node measures cards, disk and network already, so that nothing of ours has to run there.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from cluster.node.drain import by_name, read_drained
from cluster.node.head import Head, fetch
from vr_core.config import Line, Spec

State = Literal["alive", "leaving", "drained", "dead", "missing"]
_ALIVE_ACTORS = "/api/v0/actors?detail=1&limit=10000&filter_keys=state&filter_predicates=%3D&filter_values=ALIVE"
# What Ray writes of a node's end → what it means for its owner.
_ENDS = (
    ("missing too many heartbeats", "lost without notice: power, network or its Ray is gone"),
    ("received SIGTERM", "its Ray was ended there (`vr cluster down`, or a restart)"),
)
_DRAINED = "Terminated due to preemption"


class CardRow(Spec):
    """One graphics card that is given to the cluster."""

    model: str
    memory_gib: int
    used_mib: int | None = None
    power_w: float | None = None
    temperature_c: int | None = None
    busy_percent: int | None = None
    runs: tuple[str, ...] = ()
    """Runs with a process on it; empty also where the driver does not tell processes."""


class NodeRow(Spec):
    """One node. What Ray has not measured (yet) is None."""

    name: str
    address: str
    head: bool
    state: State
    """leaving: drained, and still there; drained: taken back; missing: in the inventory, and not in the cluster."""
    alive: bool
    why: Line = ""
    """Why it is not simply alive."""
    since_s: float | None = None
    """Unix time at which it came or, where it has gone, went."""
    cards: tuple[CardRow, ...] = ()
    gpus: float = 0.0
    gpus_used: float = 0.0
    cpus: float = 0.0
    cpus_used: float = 0.0
    runs: tuple[str, ...] = ()
    """Runs with workers on it."""
    cpu_percent: float | None = None
    memory_bytes: int | None = None
    memory_used_bytes: int | None = None
    disk_free_bytes: int | None = None
    """Of the disk with Ray's temporary folder."""
    disk_bytes: int | None = None
    sent_bytes_per_s: float | None = None
    received_bytes_per_s: float | None = None
    link_mbit: int | None = None
    """What its network card and the switch agreed on, when its Ray was started; so are the next three."""
    version: str | None = None
    commit: str | None = None
    """Of this project, the first 12 digits; None where it was no checkout."""
    python: str | None = None
    labels: dict[str, str] = {}


def read_nodes(head: Head, expected: Mapping[str, str] | None = None) -> list[NodeRow]:
    """The nodes of the running `head`, now.

    Args:
        head: The running head.
        expected: Name → address of the inventory's nodes; those that are not there are listed as missing.
    """
    return node_rows(
        fetch(head, "/api/v0/nodes?detail=1"),
        fetch(head, "/api/cluster_status"),
        fetch(head, "/nodes?view=summary"),
        fetch(head, _ALIVE_ACTORS),
        fetch(head, "/api/jobs/"),
        expected=expected,
        drained={name: node.why for name, node in by_name(read_drained()).items()},
    )


def node_rows(
    nodes: Any,
    usage: Any,
    stats: Any = None,
    actors: Any = None,
    jobs: Any = None,
    *,
    expected: Mapping[str, str] | None = None,
    drained: Mapping[str, str] | None = None,
) -> list[NodeRow]:
    """Rows from the answers of the dashboard, as `read_nodes` asks for them: the head first, then by name.

    The first two are enough for who is there and what is in use.

    A PC that left and came back is a new node for Ray; its dead predecessors are left out, and of a PC that is away
    only its last node is shown.
    """
    report = ((usage.get("data") or {}).get("clusterStatus") or {}).get("loadMetricsReport") or {}
    by_node = report.get("usageByNode") or {}
    measured = {node["raylet"].get("nodeId"): node for node in stats["data"]["summary"]} if stats else {}
    runs = runs_by_node(actors, jobs or []) if actors else {}
    expected, drained = expected or {}, drained or {}
    newest: dict[str, dict[str, Any]] = {}
    for node in nodes["data"]["result"]["result"]:
        known = newest.get(node["node_name"])
        if known is None or _recency(node) > _recency(known):
            newest[node["node_name"]] = node
    rows = []
    for name, node in newest.items():
        identity = node["node_id"]
        row = _row(node, by_node.get(identity, {}), drained.get(name))
        if row.alive:
            row = _with_measures(row, measured.get(identity, {}), runs.get(identity, {}))
        rows.append(row)
    # A PC that is there under another name than the inventory gives it is not missing.
    there = {row.address for row in rows if row.alive}
    rows += [
        _missing(name, address, drained.get(name))
        for name, address in expected.items()
        if name not in newest and address not in there
    ]
    return sorted(rows, key=lambda row: (not row.head, row.name))


def runs_by_node(actors: Any, jobs: Any) -> dict[str, dict[int, str]]:
    """Node id → process id → run, of the living actors that hold a CPU or a GPU: workers and trials, no helpers."""
    names = {job["job_id"]: run_name(job) for job in jobs if job.get("job_id")}
    found: dict[str, dict[int, str]] = {}
    for actor in actors["data"]["result"]["result"]:
        # In a placement group the resource is called CPU_group_0_<id>.
        holds = any(
            key.split("_")[0] in ("CPU", "GPU") and amount > 0
            for key, amount in (actor.get("required_resources") or {}).items()
        )
        if holds and actor.get("node_id"):
            run = names.get(actor["job_id"], f"job {actor['job_id']}")
            found.setdefault(actor["node_id"], {})[actor.get("pid") or 0] = run
    return found


def run_name(job: Mapping[str, Any]) -> str:
    """What a job of Ray's is called here: its run, else its submission, else Ray's number of it."""
    return str((job.get("metadata") or {}).get("run") or job.get("submission_id") or f"job {job['job_id']}")


def why_dead(message: str | None) -> tuple[State, str]:
    """State and reason from Ray's message about a dead node."""
    text = message or "Ray gives no reason"
    if text.startswith(_DRAINED):
        return "drained", text.removeprefix(_DRAINED).lstrip(": ") or "taken back"
    return "dead", next((meaning for part, meaning in _ENDS if part in text), text)


def _alive(drained: str | None) -> tuple[State, str]:
    # Ray itself shows a node that it drains as one like any other until it is gone.
    return ("leaving", drained) if drained else ("alive", "")


def _recency(node: dict[str, Any]) -> tuple[bool, int]:
    return node["state"] == "ALIVE", node.get("start_time_ms") or 0


def _row(node: dict[str, Any], used: dict[str, Any], drained: str | None) -> NodeRow:
    labels = {key: value for key, value in node["labels"].items() if not key.startswith("ray.io/")}
    alive = node["state"] == "ALIVE"
    total = node.get("resources_total") or {} if alive else {}
    state, why = _alive(drained) if alive else why_dead(node.get("state_message"))
    moment_ms = node.get("start_time_ms" if alive else "end_time_ms")
    return NodeRow(
        name=node["node_name"],
        address=node["node_ip"],
        head=node["is_head_node"],
        state=state,
        alive=alive,
        why=drained or why,
        since_s=moment_ms / 1000 if moment_ms else None,
        cards=tuple(
            CardRow(
                model=labels.get(f"vr/gpu-{i}-model", ""), memory_gib=int(labels.get(f"vr/gpu-{i}-memory-gib", "0"))
            )
            for i in range(int(labels.get("vr/gpu-count", "0")))
        ),
        gpus=total.get("GPU", 0.0),
        gpus_used=used.get("GPU", [0.0])[0],
        cpus=total.get("CPU", 0.0),
        cpus_used=used.get("CPU", [0.0])[0],
        link_mbit=int(labels["vr/link-mbit"]) if "vr/link-mbit" in labels else None,
        version=labels.get("vr/version"),
        commit=labels.get("vr/commit"),
        python=labels.get("vr/python"),
        labels=labels,
    )


def _missing(name: str, address: str, drained: str | None) -> NodeRow:
    never = "has not joined since the head was started; `vr cluster doctor INVENTORY` says what is wrong with it"
    return NodeRow(
        name=name,
        address=address,
        head=False,
        state="drained" if drained else "missing",
        alive=False,
        why=drained or never,
    )


def _with_measures(row: NodeRow, stats: Mapping[str, Any], runs: Mapping[int, str]) -> NodeRow:
    """`row` with what Ray's agent on the node has measured last; a node that has just come has nothing yet."""
    gpus = {gpu["index"]: gpu for gpu in stats.get("gpus") or []}
    cards = tuple(_with_gpu(card, gpus[i], runs) if i in gpus else card for i, card in enumerate(row.cards))
    memory, disks, speed = stats.get("mem"), stats.get("disk") or {}, stats.get("networkSpeed")
    # Of "/" and the temporary folder, the latter: a full one stops Ray.
    disk = next((disk for path, disk in disks.items() if path != "/"), disks.get("/"))
    return row.model_copy(
        update={
            "cards": cards,
            "runs": tuple(sorted(set(runs.values()))),
            "cpu_percent": stats.get("cpu"),
            "memory_bytes": memory[0] if memory else None,
            "memory_used_bytes": memory[3] if memory else None,
            "disk_free_bytes": disk["free"] if disk else None,
            "disk_bytes": disk["total"] if disk else None,
            "sent_bytes_per_s": speed[0] if speed else None,
            "received_bytes_per_s": speed[1] if speed else None,
        }
    )


def _with_gpu(card: CardRow, gpu: Mapping[str, Any], runs: Mapping[int, str]) -> CardRow:
    power_mw = gpu.get("powerMw")
    on_it: Sequence[Mapping[str, Any]] = gpu.get("processesPids") or ()
    return card.model_copy(
        update={
            "used_mib": gpu.get("memoryUsed"),
            "power_w": None if power_mw is None else power_mw / 1000,
            "temperature_c": gpu.get("temperatureC"),
            "busy_percent": gpu.get("utilizationGpu"),
            "runs": tuple(sorted({runs[p["pid"]] for p in on_it if p["pid"] in runs})),
        }
    )
