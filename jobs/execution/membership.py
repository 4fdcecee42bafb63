"""The PCs as the supervisor of one run sees them: who is there, is drained, is not responding, or joins."""

import sys
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from cluster.errors import ClusterError
from cluster.node.drain import Drained, read_drained
from cluster.timings import Timings
from jobs.errors import Unplaceable
from jobs.execution.placement import Missing, Node, Placement, avoiding, live_nodes, place_run
from jobs.recipe import Recipe

ROOM_REMEDY = "change workers.count, workers.cpus or workers.labels, or start a cluster with `vr cluster head`"
"""What helps where a run does not fit on the one machine that is there."""


def ray_nodes() -> list[Node]:
    """The nodes that Ray takes for alive."""
    import ray

    return live_nodes(ray.nodes())  # type: ignore[no-untyped-call]


def own_node() -> str:
    """Ray's id of the node that this process is on."""
    import ray

    own: str = ray.get_runtime_context().get_node_id()
    return own


@dataclass(frozen=True)
class ClusterView:
    """What a supervisor sees of the cluster: Ray's, unless told otherwise."""

    nodes: Callable[[], list[Node]] = ray_nodes
    """Those that live now."""
    own: Callable[[], str] = own_node
    """Id of the driver's node."""
    now_s: Callable[[], float] = time.monotonic
    """The clock by which it waits for machines and workers."""


def require_room(recipe: Recipe) -> None:
    """Check that the machines of the Ray that this process is connected to can hold a run of `recipe`.

    Raises:
        Unplaceable: they cannot.
    """
    found = place_run(recipe, ray_nodes())
    if isinstance(found, Missing):
        raise Unplaceable(f"recipe {recipe.name}: {found.why}; {ROOM_REMEDY}")


class Membership:
    """Where a run can go now; every call looks anew."""

    def __init__(self, recipe: Recipe, shared: bool, timings: Timings, view: ClusterView = ClusterView()) -> None:
        """Of a run of `recipe`; a private Ray (`shared` is false) has one node and nobody to drain it."""
        self.drained: tuple[Drained, ...] = ()
        """As of the last look."""
        self._recipe = recipe
        self._shared = shared
        self._timings = timings
        self._view = view
        self._lost: dict[str, str] = {}
        self._live: list[Node] = []
        self._since_s: dict[str, float] = {}
        self._left_out: frozenset[str] = frozenset()

    def look_for_drained(self) -> None:
        """Read which nodes hold no workers now."""
        if not self._shared:
            return
        try:
            self.drained = read_drained().nodes
        except ClusterError as error:
            print(error, file=sys.stderr, flush=True)

    def look(self) -> list[Node]:
        """The nodes that Ray takes for alive, after a look at which are drained."""
        self.look_for_drained()
        self._live = self._view.nodes()
        now_s = self._view.now_s()
        self._since_s = {node.id: self._since_s.get(node.id, now_s) for node in self._live}
        return self._live

    def others(self) -> list[Node]:
        """The nodes besides the driver's own that a run may be on; none on a private Ray."""
        if not self._shared:
            return []
        own = self._view.own()
        return [node for node in self.look() if node.id != own and node.id not in self._lost]

    def lose(self, nodes: Collection[Node]) -> None:
        """These answer no more, whatever Ray takes them for; a PC that is back has another id."""
        self._lost |= {node.id: node.name for node in nodes}

    def leave_out(self, names: Collection[str]) -> None:
        """These cost the run more than they bring, for the rest of this attempt."""
        self._left_out |= set(names)

    def place(self, on_gpus: bool | None) -> Placement | Missing:
        """Where the run's workers could be now; `on_gpus` as for `place_run`."""
        live = self.look()
        here = [node for node in live if node.id not in self._lost and node.name not in self._left_out]
        found = place_run(self._recipe, here, self.drained, on_gpus)
        # Ray still places on a node that it takes for alive, unless it is kept from it.
        ghosts = {self._lost[node.id] for node in live if node.id in self._lost} - {node.name for node in here}
        if isinstance(found, Placement) and not found.names and ghosts:
            return replace(found, selectors=[avoiding(label, ghosts) for label in found.selectors])
        return found

    def joining(self, now: Placement, running_since_s: float) -> list[str]:
        """PCs with which the run, which has these seats since then, would have more workers; [] for it to stay."""
        now_s = self._view.now_s()
        if self._recipe.nodes is None or now_s - running_since_s < self._timings.rest_s:
            return []
        found = self.place(now.use_gpu)
        if isinstance(found, Missing) or len(found.selectors) <= len(now.selectors):
            return []
        new = set(found.names) - set(now.names)
        join_after_s = self._timings.join_after_s
        steady = {node.name for node in self._live if now_s - self._since_s[node.id] >= join_after_s}
        return sorted(new) if new <= steady else []
