"""Where a run's workers can go: a pure function of the recipe and the live nodes."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.recipe import WorkersSpec


@dataclass(frozen=True)
class Node:
    """A live Ray node: its totals, whatever else runs on it."""

    name: str
    labels: Mapping[str, str]
    cpus: float
    gpus: float


@dataclass(frozen=True)
class Placement:
    """What Ray Train is asked for; worker i goes where `selectors[i]` holds."""

    use_gpu: bool
    resources: dict[str, float]
    selectors: list[dict[str, str]]


@dataclass(frozen=True)
class Missing:
    """The live nodes cannot hold the run, and what would."""

    why: str


def live_nodes(ray_nodes: Sequence[Mapping[str, Any]]) -> list[Node]:
    """`ray.nodes()` as nodes, the live ones only."""
    return [
        Node(
            n["NodeName"],
            n.get("Labels", {}),
            float(n["Resources"].get("CPU", 0)),
            float(n["Resources"].get("GPU", 0)),
        )
        for n in ray_nodes
        if n["Alive"]
    ]


def place(workers: WorkersSpec, nodes: Sequence[Node]) -> Placement | Missing:
    """Placement of the workers on `nodes`, or what is missing.

    `device: auto` takes GPUs when every node that matches a worker has one.
    """
    labels = workers.labels if len(workers.labels) > 1 else (workers.labels or ({},)) * workers.count
    matching = [[i for i, node in enumerate(nodes) if matches(label, node.labels)] for label in labels]
    candidates = {i for found in matching for i in found}
    use_gpu = workers.device == "cuda" or (
        workers.device == "auto" and bool(candidates) and all(nodes[i].gpus >= 1 for i in candidates)
    )
    room = [int(min(n.cpus // workers.cpus, n.gpus if use_gpu else n.cpus)) for n in nodes]
    alone = _unseated(matching, room)
    if alone is not None:
        need = f"{workers.cpus} free CPU core(s)" + (" and a GPU" if use_gpu else "")
        where = f" with labels {_shown(labels[alone])}" if labels[alone] else ""
        live = ", ".join(f"{n.name} ({n.cpus:g} cores, {n.gpus:g} GPUs)" for n in nodes) or "none"
        return Missing(f"no machine{where} has {need} for worker {alone + 1} of {workers.count}; live: {live}")
    resources = {"CPU": float(workers.cpus)} | ({"GPU": 1.0} if use_gpu else {})
    return Placement(use_gpu, resources, [dict(label) for label in labels])


def matches(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether a node's labels satisfy a selector, in Ray's notation: `x`, `!x`, `in(x,y)`, `!in(x,y)`."""
    return all(_value_matches(wanted, labels.get(key)) for key, wanted in selector.items())


def _value_matches(wanted: str, value: str | None) -> bool:
    negated, wanted = wanted.startswith("!"), wanted.removeprefix("!")
    several = re.fullmatch(r"in\((.*)\)", wanted)
    options = [option.strip() for option in several[1].split(",")] if several else [wanted]
    return (value in options) != negated


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
