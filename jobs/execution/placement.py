"""Where a run's workers can go: a pure function of the recipe, the live nodes and the drained ones."""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.node.drain import Drained
from jobs.recipe import NodesSpec, Recipe, WorkersSpec


@dataclass(frozen=True)
class Node:
    """A live Ray node: its totals, whatever else runs on it."""

    name: str
    labels: Mapping[str, str]
    cpus: float
    gpus: float
    id: str = ""
    """Ray's: a PC that is back has another one."""
    address: str = ""
    port: int = 0
    """Of its raylet."""


@dataclass(frozen=True)
class Placement:
    """What Ray Train is asked for; worker i goes where `selectors[i]` holds."""

    use_gpu: bool
    resources: dict[str, float]
    selectors: list[dict[str, str]]
    names: tuple[str, ...] = ()
    """The machines, where the run takes those that are there."""


@dataclass(frozen=True)
class Missing:
    """The nodes that are there cannot hold the run, and what would."""

    why: str


NODE_LABEL = "vr/node"
"""Every node of ours carries its name under this (`cluster.inventory.node_labels`)."""
MEMORY_LABEL = "vr/gpu-memory-gib"
"""Of its smallest GPU, in whole GiB."""


def machine_name(machine: Mapping[str, Any]) -> str:
    """Of a PC as its worker announced it (`origin.json`): as the inventory calls it, else its host name."""
    return str(machine.get("labels", {}).get(NODE_LABEL) or machine.get("host", "?"))


def live_nodes(ray_nodes: Sequence[Mapping[str, Any]]) -> list[Node]:
    """`ray.nodes()` as nodes, the live ones only."""
    return [
        Node(
            n["NodeName"],
            n.get("Labels", {}),
            float(n["Resources"].get("CPU", 0)),
            float(n["Resources"].get("GPU", 0)),
            n["NodeID"],
            n["NodeManagerAddress"],
            n["NodeManagerPort"],
        )
        for n in ray_nodes
        if n["Alive"]
    ]


def place(workers: WorkersSpec, nodes: Sequence[Node], drained: Sequence[Drained] = ()) -> Placement | Missing:
    """Placement of the workers on `nodes` without the drained ones, or what is missing.

    `device: auto` takes GPUs when every node that matches a worker has one, drained ones included: a run must not
    change its device because a PC was taken back.
    """
    # Whoever is back first comes first: of several that would do, that one is named.
    drained = sorted(drained, key=lambda node: math.inf if node.until_s is None else node.until_s)
    away = {node.name: Node(node.name, node.labels, node.cpus, node.gpus) for node in drained}
    here = [node for node in nodes if node.name not in away]
    # A drained node that is still there is asked for itself; one that has left, for what it offered.
    present = {node.name: node for node in nodes}
    absent = [present.get(name, node) for name, node in away.items()]
    labels = _labels(workers)
    use_gpu = _use_gpu(workers, [*here, *absent])
    alone = _first_unseated(workers, here, use_gpu)
    if alone is not None:
        lacking = {node.name for node in _needed(workers, here, absent, use_gpu)}
        if lacking:
            return Missing("; ".join(node.why for node in drained if node.name in lacking))
        need = f"{workers.cpus} free CPU core(s)" + (" and a GPU" if use_gpu else "")
        where = f" with labels {_shown(labels[alone])}" if labels[alone] else ""
        live = ", ".join(f"{n.name} ({n.cpus:g} cores, {n.gpus:g} GPUs)" for n in here) or "none"
        return Missing(f"no machine{where} has {need} for worker {alone + 1} of {workers.count}; live: {live}")
    # Ray knows nothing of a drained head, and places on another node until that has begun to leave.
    return Placement(use_gpu, _resources(workers, use_gpu), [avoiding(label, away) for label in labels])


def place_run(
    recipe: Recipe, nodes: Sequence[Node], drained: Sequence[Drained] = (), on_gpus: bool | None = None
) -> Placement | Missing:
    """Placement of a run's workers: on the machines of its `nodes` that are there, else as `place` says.

    Args:
        recipe: of the run.
        nodes: live ones.
        drained: as for `place`.
        on_gpus: what the run computed on before, which it keeps; None at its first start.
    """
    if recipe.nodes is None:
        return place(recipe.workers, nodes, drained)
    away = {node.name for node in drained}
    wanted = [node for node in nodes if _is_wanted(recipe.nodes, node)]
    device = recipe.workers.device
    gone_gpus = any(node.gpus >= 1 for node in drained if _is_wanted(recipe.nodes, node))
    use_gpu = device == "cuda" or (device == "auto" and (gone_gpus or any(node.gpus >= 1 for node in wanted)))
    if device == "auto" and on_gpus is not None:
        use_gpu = on_gpus
    membership = {node.name: _membership(recipe, node, use_gpu) for node in wanted if node.name not in away}
    best_first = sorted(
        (node for node in wanted if membership.get(node.name)),
        key=lambda node: (-float(node.labels.get(MEMORY_LABEL, 0)), -node.gpus, -node.cpus, node.name),
    )
    taken = best_first if recipe.nodes.max == "all" else best_first[: recipe.nodes.max]
    if len(taken) < recipe.nodes.min:
        why = [node.why for node in drained if _is_wanted(recipe.nodes, node)]
        live = ", ".join(f"{n.name} ({n.cpus:g} cores, {n.gpus:g} GPUs)" for n in nodes) or "none"
        need = f"{recipe.workers.cpus} CPU core(s)" + (" and a GPU" if use_gpu else "")
        return Missing("; ".join([f"{len(taken)} of {recipe.nodes.min} machines with {need}; live: {live}", *why]))
    places = [node for node in taken for _ in range(membership[node.name])][: recipe.batch.items]
    return Placement(
        use_gpu,
        _resources(recipe.workers, use_gpu),
        [{NODE_LABEL: node.labels[NODE_LABEL]} if NODE_LABEL in node.labels else {} for node in places],
        tuple(dict.fromkeys(node.name for node in places)),
    )


def least_workers(recipe: Recipe) -> WorkersSpec:
    """What a waiting run needs before it can start, as a fixed number of workers."""
    if recipe.nodes is None:
        return recipe.workers
    label = avoiding(recipe.nodes.labels, recipe.nodes.exclude)
    return recipe.workers.model_copy(update={"count": recipe.nodes.min, "labels": (label,) if label else ()})


def _is_wanted(spec: NodesSpec, node: Node | Drained) -> bool:
    memory_gib = float(node.labels.get(MEMORY_LABEL, math.inf))
    return (
        node.name not in spec.exclude
        and matches(spec.labels, node.labels)
        and (spec.memory_gib is None or memory_gib >= spec.memory_gib)
    )


def _membership(recipe: Recipe, node: Node, use_gpu: bool) -> int:
    """Workers for one machine: one for each GPU that its cores can feed; without GPUs one in all."""
    most = int(node.cpus // recipe.workers.cpus)
    return min(most, int(node.gpus)) if use_gpu else min(most, 1)


def needed(workers: WorkersSpec, nodes: Sequence[Node], absent: Sequence[Node]) -> list[Node]:
    """Those of the `absent` nodes that would let the run start, as few as can be; [] when it can, or never could."""
    return _needed(workers, nodes, absent, _use_gpu(workers, [*nodes, *absent]))


def _needed(workers: WorkersSpec, nodes: Sequence[Node], absent: Sequence[Node], use_gpu: bool) -> list[Node]:
    if _first_unseated(workers, [*nodes, *absent], use_gpu) is not None:
        return []
    chosen = list(absent)
    for node in reversed(absent):
        fewer = [other for other in chosen if other is not node]
        if _first_unseated(workers, [*nodes, *fewer], use_gpu) is None:
            chosen = fewer
    return chosen


def _resources(workers: WorkersSpec, use_gpu: bool) -> dict[str, float]:
    return {"CPU": float(workers.cpus)} | ({"GPU": 1.0} if use_gpu else {})


def _labels(workers: WorkersSpec) -> Sequence[Mapping[str, str]]:
    """One selector for each worker."""
    return workers.labels if len(workers.labels) > 1 else (workers.labels or ({},)) * workers.count


def _use_gpu(workers: WorkersSpec, nodes: Sequence[Node]) -> bool:
    candidates = [node for node in nodes if any(matches(label, node.labels) for label in _labels(workers))]
    every = bool(candidates) and all(node.gpus >= 1 for node in candidates)
    return workers.device == "cuda" or (workers.device == "auto" and every)


def _first_unseated(workers: WorkersSpec, nodes: Sequence[Node], use_gpu: bool) -> int | None:
    """First worker that finds no seat on `nodes`; None when all do."""
    matching = [[i for i, node in enumerate(nodes) if matches(label, node.labels)] for label in _labels(workers)]
    room = [int(min(n.cpus // workers.cpus, n.gpus if use_gpu else n.cpus)) for n in nodes]
    return _unseated(matching, room)


def matches(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether a node's labels satisfy a selector, in Ray's notation: `x`, `!x`, `in(x,y)`, `!in(x,y)`."""
    return all(_value_matches(wanted, labels.get(key)) for key, wanted in selector.items())


def avoiding(selector: Mapping[str, str], names: Collection[str]) -> dict[str, str]:
    """`selector` in Ray's notation, narrowed to nodes that are called none of `names`."""
    negated, options = _parsed(selector[NODE_LABEL]) if NODE_LABEL in selector else (True, [])
    kept = sorted({*options, *names}) if negated else [option for option in options if option not in names]
    if not names or not kept:
        # A selector of drained nodes alone: no worker is placed by it, and Ray has no notation for "none".
        return dict(selector)
    return {**selector, NODE_LABEL: f"{'!' * negated}in({','.join(kept)})"}


def _value_matches(wanted: str, value: str | None) -> bool:
    negated, options = _parsed(wanted)
    return (value in options) != negated


def _parsed(wanted: str) -> tuple[bool, list[str]]:
    """Whether a selector's value is negated, and the values that it names."""
    negated, wanted = wanted.startswith("!"), wanted.removeprefix("!")
    several = re.fullmatch(r"in\((.*)\)", wanted)
    return negated, [option.strip() for option in several[1].split(",")] if several else [wanted]


def _unseated(matching: Sequence[Sequence[int]], room: Sequence[int]) -> int | None:
    """First worker without a seat in a largest assignment of workers to nodes; None when all have one.

    Augmenting paths (Kuhn 1955): a worker may push another one to a node that also matches it.
    """
    seated: dict[int, list[int]] = {node: [] for node in range(len(room))}

    def seat(worker: int, tried: set[int]) -> bool:
        for node in matching[worker]:
            if node in tried:
                continue
            tried.add(node)
            if len(seated[node]) < room[node]:
                seated[node].append(worker)
                return True
            for other in list(seated[node]):
                if seat(other, tried):
                    seated[node].remove(other)
                    seated[node].append(worker)
                    return True
        return False

    return next((worker for worker in range(len(matching)) if not seat(worker, set())), None)


def _shown(label: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in label.items())
