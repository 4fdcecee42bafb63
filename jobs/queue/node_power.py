"""What the keeper does about the cluster's PCs: drain, bring back, wake, suspend. Pure decisions, and `act`.

Nodes are drained by the user (`vr cluster drain`) or outside of their owner hours, and come back at their time. A PC
that is off and has a MAC address is woken when a run waits that would fit with it; one that has been idle for its
`idle_suspend` is suspended.
"""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cluster.hardware.wake import suspend, wake
from cluster.hours import duration_s, is_within, next_begin, weekly_hours
from cluster.inventory import Inventory, NodeSpec, node_labels
from cluster.node.drain import Drained, DrainedBy, Record, change_drained, drop, is_over, put
from cluster.node.gcs import leave, leave_if_idle, publish
from cluster.node.head import Head, fetch
from cluster.status.nodes import node_rows
from cluster.timings import Timings
from jobs.execution.placement import Missing, Node, needed, place
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
    """What the keeper remembers from turn to turn; lost with it, and then only something is done once more.

    Its times are seconds from boot, as `cluster.node.processes.now` tells them.
    """

    published: frozenset[str] | None = None
    published_s: float = 0.0
    drained_since_s: Mapping[tuple[str, float], float] = field(default_factory=dict)
    """By name and `since_s` of the record: one that is drained anew has its time anew."""
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
    """Who comes back now, and who is outside of its owner hours.

    `now` is the wall's: these are times of day, of the date on which they lie.
    """
    now_s = now.timestamp()
    described = {spec.name for spec in inventory.nodes} if inventory else set()
    # Of one that its hours keep away, these alone tell: when they begin may have been reckoned before a clock was set.
    timed = [node for node in record.nodes if node.by == "user" or node.name not in described]
    actions: list[Action] = [Return(node.name) for node in timed if is_over(node, now_s)]
    actions += [Return(name) for name in record.lent if name not in described]
    drained = {node.name: node for node in record.nodes}
    seen = {node.name: node for node in nodes}
    for spec in inventory.nodes if inventory else ():
        hours = [weekly_hours(text) for text in spec.owner_hours]
        known = drained.get(spec.name)
        if not hours or is_within(hours, now):
            if known is not None and known.by == "hours" or spec.name in record.lent:
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


def leaving(record: Record, nodes: Sequence[Seen], memory: Memory, at_s: float, timings: Timings) -> list[Action]:
    """What Ray and the nodes are to be told about the drained ones; `at_s` as in `Memory`."""
    names = frozenset(node.name for node in record.nodes)
    old = bool(names) and at_s - memory.published_s >= timings.publish_again_s
    actions: list[Action] = [Publish(names)] if names != memory.published or old else []
    drained = {node.name: node for node in record.nodes}
    for node in nodes:
        if node.name in drained and node.alive and not node.is_head and node.node_id not in memory.asked:
            of = drained[node.name]
            gone_s = at_s - memory.drained_since_s.get((of.name, of.since_s), at_s)
            actions.append(Leave(node, of.why, max(timings.least_notice_s, timings.leave_within_s - gone_s)))
    return actions


def waking(
    inventory: Inventory,
    record: Record,
    nodes: Sequence[Seen],
    waiting: Sequence[WorkersSpec],
    memory: Memory,
    at_s: float,
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
    recently = {name for name, woken_s in memory.woken_s.items() if at_s - woken_s < timings.wake_again_s}
    return [Wake(spec) for spec in inventory.nodes if spec.name in wanted - recently]


def offer(spec: NodeSpec) -> Node:
    """What a PC would bring that is off."""
    many = 1e6
    gpus = many if spec.gpus is None else len(spec.gpus)
    return Node(spec.name, node_labels(spec.name, spec.gpus or (), spec.labels), spec.cpus or many, gpus)


def noted(before: Memory, record: Record, nodes: Sequence[Seen], at_s: float) -> Memory:
    """`before` after one more look: since when nodes are drained, and since when nothing of any job runs on them."""
    drained = [(node.name, node.since_s) for node in record.nodes]
    return replace(
        before,
        idle_since_s={n.name: before.idle_since_s.get(n.name, at_s) for n in nodes if n.alive and not n.busy},
        drained_since_s={key: before.drained_since_s.get(key, at_s) for key in drained},
    )


def suspending(
    inventory: Inventory, nodes: Sequence[Seen], waiting: Sequence[WorkersSpec] | None, memory: Memory, at_s: float
) -> list[Action]:
    """Which PCs have been idle long enough; none while a run waits, or may do so, which may need them with others."""
    if waiting is None or waiting:
        return []
    seen = {node.name: node for node in nodes if node.alive and not node.is_head}
    return [
        Suspend(spec, seen[spec.name])
        for spec in inventory.nodes
        if spec.idle_suspend is not None
        and spec.name in seen
        and at_s - memory.idle_since_s.get(spec.name, at_s) >= duration_s(spec.idle_suspend)
    ]


def decide(
    inventory: Inventory | None,
    record: Record,
    nodes: Sequence[Seen],
    waiting: Sequence[WorkersSpec] | None,
    memory: Memory,
    now: datetime.datetime,
    at_s: float,
    timings: Timings,
) -> list[Action]:
    """All that is to be done now.

    Args:
        inventory: The cluster's PCs; None: it was started without a file.
        record: Who is drained.
        nodes: As Ray has them.
        waiting: What runs want that wait for machines; None: that is not known.
        memory: What was noted, this moment included.
        now: By the wall, in local time without a zone, for times of day.
        at_s: Seconds from boot, for how long something has been.
        timings: The head's.
    """
    actions = [
        *by_time(inventory, record, nodes, now, timings),
        *leaving(record, nodes, memory, at_s, timings),
    ]
    if inventory is not None:
        actions += waking(inventory, record, nodes, waiting or (), memory, at_s, timings)
        actions += suspending(inventory, nodes, waiting, memory, at_s)
    return actions


def about(action: Action) -> str:
    """What a complaint about `action` is about, the PC's name included."""
    match action:
        case Drain(node) | Leave(node) | Suspend(_, node):
            name = node.name
        case Wake(spec):
            name = spec.name
        case Return(name):
            pass
        case Publish():
            name = "the nodes"
    return f"{type(action).__name__.lower()} {name}"


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


def act(action: Action, head: Head, memory: Memory, at_s: float) -> tuple[Memory, str]:
    """Carry `action` out; returns what to remember, and what to log. `at_s` as in `Memory`.

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
            return replace(memory, published=names, published_s=at_s), said
        case Leave(node, why, within_s):
            leave(head, node.node_id, why, within_s)
            return replace(memory, asked=memory.asked | {node.node_id}), f"{why}: leaves within {within_s:.0f} s"
        case Wake(spec):
            wake(spec.mac or "", head.node.address)
            return replace(
                memory, woken_s={**memory.woken_s, spec.name: at_s}
            ), f"{spec.name}: woken, since a run waits"
        case Suspend(spec, node):
            # Ray refuses where something has started meanwhile, and gives it no work from here on.
            if not leave_if_idle(head, node.node_id, f"{spec.name} is suspended"):
                return replace(memory, idle_since_s={**memory.idle_since_s, spec.name: at_s}), ""
            suspend(spec)
            return memory, f"{spec.name}: idle for {spec.idle_suspend}, suspended"
