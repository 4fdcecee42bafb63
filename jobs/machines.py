"""What the keeper does about the cluster's PCs: drain, bring back, wake, suspend. Pure decisions, and `act`.

Nodes are drained by the user (`vr cluster drain`) or outside of their owner hours, and come back at their time. A PC
that is off and has a MAC address is woken when a run waits that would fit with it; one that has been idle for its
`idle_suspend` is suspended.
"""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cluster.drain import Drained, DrainedBy, Record, change_drained, drop, is_over, put
from cluster.gcs import leave, leave_if_idle, publish
from cluster.head import Head, fetch
from cluster.hours import duration_s, is_within, next_begin, weekly_hours
from cluster.inventory import Inventory, NodeSpec, node_labels
from cluster.status import node_rows
from cluster.timings import Timings
from cluster.wake import suspend, wake
from jobs.placement import Missing, Node, needed, place
from jobs.recipe import WorkersSpec


@dataclass(frozen=True)
class Seen:
    """One node as Ray has it now."""

    name: str
    node_id: str
    alive: bool
    is_head: bool
    busy: bool
    labels: Mapping[str, str]
    cpus: float
    gpus: float


@dataclass(frozen=True)
class Memory:
    """What the keeper remembers from turn to turn; lost with it, and then only something is done once more."""

    published: frozenset[str] | None = None
    published_s: float = 0.0
    asked: frozenset[str] = frozenset()
    """Ids of nodes that Ray was asked to drain: it needs to be told once."""
    idle_since_s: Mapping[str, float] = field(default_factory=dict)
    woken_s: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Drain:
    """Take the node out of the cluster."""

    node: Drained


@dataclass(frozen=True)
class Return:
    """Forget that the node is drained, or lent."""

    name: str


@dataclass(frozen=True)
class Publish:
    """Let the nodes read which of them are drained."""

    names: frozenset[str]


@dataclass(frozen=True)
class Leave:
    """Let Ray drain the node: its processes end as soon as its workers have left."""

    node: Seen
    why: str
    within_s: float


@dataclass(frozen=True)
class Wake:
    """Send the PC the packet that switches it on."""

    spec: NodeSpec


@dataclass(frozen=True)
class Suspend:
    """Suspend the PC."""

    spec: NodeSpec
    node: Seen


Action = Drain | Return | Publish | Leave | Wake | Suspend


def by_time(
    inventory: Inventory | None,
    record: Record,
    nodes: Sequence[Seen],
    now: datetime.datetime,
    timings: Timings,
) -> list[Action]:
    """Who comes back now, and who is outside of its owner hours."""
    now_s = now.timestamp()
    actions: list[Action] = [Return(node.name) for node in record.nodes if is_over(node, now_s)]
    described = {spec.name for spec in inventory.nodes} if inventory else set()
    actions += [Return(name) for name in record.lent if name not in described]
    drained = {node.name: node for node in record.nodes}
    seen = {node.name: node for node in nodes}
    for spec in inventory.nodes if inventory else ():
        hours = [weekly_hours(text) for text in spec.owner_hours]
        known = drained.get(spec.name)
        if not hours or is_within(hours, now):
            if known is not None and known.by == "hours" and not is_over(known, now_s) or spec.name in record.lent:
                actions.append(Return(spec.name))
        elif known is None and spec.name not in record.lent:
            back_s = next_begin(hours, now).timestamp()
            actions.append(Drain(drained_node(spec.name, seen.get(spec.name), "hours", now_s, back_s, timings)))
    return actions


def drained_node(
    name: str,
    seen: Seen | None,
    by: DrainedBy,
    now_s: float,
    until_s: float | None,
    timings: Timings,
) -> Drained:
    """The record of a node that is drained from now on."""
    there = seen is not None and seen.alive
    return Drained(
        name=name,
        by=by,
        since_s=now_s,
        until_s=until_s,
        leaves_s=now_s + timings.leave_within_s,
        is_head=seen is not None and seen.is_head,
        labels=dict(seen.labels) if seen and there else {},
        cpus=seen.cpus if seen and there else 0.0,
        gpus=seen.gpus if seen and there else 0.0,
    )


def leaving(record: Record, nodes: Sequence[Seen], memory: Memory, now_s: float, timings: Timings) -> list[Action]:
    """What Ray and the nodes are to be told about the drained ones."""
    names = frozenset(node.name for node in record.nodes)
    old = bool(names) and now_s - memory.published_s >= timings.publish_again_s
    actions: list[Action] = [Publish(names)] if names != memory.published or old else []
    drained = {node.name: node for node in record.nodes}
    for node in nodes:
        if node.name in drained and node.alive and not node.is_head and node.node_id not in memory.asked:
            within_s = max(timings.least_notice_s, drained[node.name].leaves_s - now_s)
            actions.append(Leave(node, drained[node.name].why, within_s))
    return actions


def waking(
    inventory: Inventory,
    record: Record,
    nodes: Sequence[Seen],
    waiting: Sequence[WorkersSpec],
    memory: Memory,
    now_s: float,
    timings: Timings,
) -> list[Action]:
    """Whom to wake for runs that wait for machines.

    What a PC offers that is off is what the inventory says; what it leaves to be found is taken for enough.
    """
    here = [Node(n.name, n.labels, n.cpus, n.gpus) for n in nodes if n.alive]
    away = {node.name for node in record.nodes} | {node.name for node in here}
    absent = [offer(spec) for spec in inventory.nodes if spec.mac is not None and spec.name not in away]
    wanted: set[str] = set()
    for workers in waiting:
        if isinstance(place(workers, here, record.nodes), Missing):
            usable = [node for node in here if all(node.name != other.name for other in record.nodes)]
            wanted |= {node.name for node in needed(workers, usable, absent)}
    recently = {name for name, at_s in memory.woken_s.items() if now_s - at_s < timings.wake_again_s}
    return [Wake(spec) for spec in inventory.nodes if spec.name in wanted - recently]


def offer(spec: NodeSpec) -> Node:
    """What a PC would bring that is off."""
    many = 1e6
    gpus = many if spec.gpus is None else len(spec.gpus)
    return Node(spec.name, node_labels(spec.name, spec.gpus or (), spec.labels), spec.cpus or many, gpus)


def idle_since(before: Mapping[str, float], nodes: Sequence[Seen], now_s: float) -> dict[str, float]:
    """Node → since when nothing of any job has run on it."""
    return {node.name: before.get(node.name, now_s) for node in nodes if node.alive and not node.busy}


def suspending(
    inventory: Inventory, nodes: Sequence[Seen], waiting: Sequence[WorkersSpec], memory: Memory, now_s: float
) -> list[Action]:
    """Which PCs have been idle long enough; none while a run waits, which may need them with others."""
    if waiting:
        return []
    seen = {node.name: node for node in nodes if node.alive and not node.is_head}
    return [
        Suspend(spec, seen[spec.name])
        for spec in inventory.nodes
        if spec.idle_suspend is not None
        and spec.name in seen
        and now_s - memory.idle_since_s.get(spec.name, now_s) >= duration_s(spec.idle_suspend)
    ]


def decide(
    inventory: Inventory | None,
    record: Record,
    nodes: Sequence[Seen],
    waiting: Sequence[WorkersSpec],
    memory: Memory,
    now: datetime.datetime,
    timings: Timings,
) -> list[Action]:
    """All that is to be done now."""
    now_s = now.timestamp()
    actions = [
        *by_time(inventory, record, nodes, now, timings),
        *leaving(record, nodes, memory, now_s, timings),
    ]
    if inventory is not None:
        actions += waking(inventory, record, nodes, waiting, memory, now_s, timings)
        actions += suspending(inventory, nodes, waiting, memory, now_s)
    return actions


def look(head: Head) -> list[Seen]:
    """The nodes of the running head: of each name the living one, else the last."""
    raw = fetch(head, "/api/v0/nodes?detail=1")
    rows = node_rows(raw, fetch(head, "/api/cluster_status"))
    newest: dict[tuple[str, bool], dict[str, Any]] = {}
    for node in sorted(raw["data"]["result"]["result"], key=lambda node: node.get("start_time_ms") or 0):
        newest[node["node_name"], node["state"] == "ALIVE"] = node
    return [
        Seen(
            name=row.name,
            node_id=newest[row.name, row.alive]["node_id"],
            alive=row.alive,
            is_head=row.head,
            busy=row.cpus_used > 0 or row.gpus_used > 0,
            labels=newest[row.name, row.alive]["labels"],
            cpus=row.cpus,
            gpus=row.gpus,
        )
        for row in rows
    ]


def has_cares(inventory: Inventory | None, record: Record, memory: Memory) -> bool:
    """Whether the nodes need to be looked at: most clusters have neither hours nor drained nodes."""
    names = frozenset(node.name for node in record.nodes)
    cares = any(node.owner_hours or node.mac or node.idle_suspend for node in inventory.nodes) if inventory else False
    return cares or record != Record() or names != memory.published


def act(action: Action, head: Head, memory: Memory, now_s: float) -> tuple[Memory, str]:
    """Carry `action` out; returns what to remember, and what to log.

    Raises:
        VrError: it could not be done now.
    """
    match action:
        case Drain(drained):
            change_drained(lambda record: put(record, drained))
            return memory, drained.why
        case Return(name):
            change_drained(lambda record: drop(record, [name]))
            return memory, f"{name} may come back"
        case Publish(names):
            publish(head, names)
            said = "" if names == memory.published else f"drained: {', '.join(sorted(names)) or 'none'}"
            return replace(memory, published=names, published_s=now_s), said
        case Leave(node, why, within_s):
            leave(head, node.node_id, why, within_s)
            return replace(memory, asked=memory.asked | {node.node_id}), f"{why}: leaves within {within_s:.0f} s"
        case Wake(spec):
            wake(spec.mac or "", head.node.address)
            return replace(
                memory, woken_s={**memory.woken_s, spec.name: now_s}
            ), f"{spec.name}: woken, since a run waits"
        case Suspend(spec, node):
            # Ray refuses where something has started meanwhile, and gives it no work from here on.
            if not leave_if_idle(head, node.node_id, f"{spec.name} is suspended"):
                return replace(memory, idle_since_s={**memory.idle_since_s, spec.name: now_s}), ""
            suspend(spec)
            return memory, f"{spec.name}: idle for {spec.idle_suspend}, suspended"
