"""What `vr cluster up` and `down INVENTORY` do on each of the other PCs: from what was found there to steps. Pure."""

from collections.abc import Collection, Mapping
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Literal, NamedTuple

from cluster.inventory import Inventory, NodeSpec
from cluster.node.drain import Drained

CODE = PurePosixPath(".local/share/vr/code")
"""Where a PC has the code that it was given, in its home folder."""
MARK = ".vr-code"
"""In `CODE`: the digest of the code that was copied and whose environment is complete."""


class Step(StrEnum):
    """One thing done on one PC, in this order."""

    COPY = "copy"
    ENVIRONMENT = "environment"
    JOIN = "join"
    SERVICE = "service"


class Membership(NamedTuple):
    """A node that vr started on that PC and that was not ended."""

    head: str
    """GCS address of its head."""
    python: str | None
    """The interpreter that it runs on; None where its Ray has died."""


class Found(NamedTuple):
    """What a PC of the inventory said."""

    off: str | None = None
    """Why nothing answers there."""
    refused: str | None = None
    """Why ssh did not let us in, although the PC is on."""
    code: str | None = None
    """Digest of the code that is ready there."""
    memberships: tuple[Membership, ...] = ()


State = Literal["joins", "in the cluster", "off", "drained", "refused"]


class NodePlan(NamedTuple):
    """What is done on one PC."""

    node: NodeSpec
    state: State
    steps: tuple[Step, ...] = ()
    why: str = ""
    """Of a state without steps."""

    @property
    def changes(self) -> bool:
        """Whether there is more to do than to see that all is as it should be."""
        return bool(self.steps) and (self.state == "joins" or len(self.steps) > 1)


def workers(inventory: Inventory) -> tuple[NodeSpec, ...]:
    """The PCs beside the head."""
    return tuple(node for node in inventory.nodes if node.role == "worker")


def plan_up(
    inventory: Inventory,
    found: Mapping[str, Found],
    code: str | None,
    in_cluster: Collection[str],
    drained: Mapping[str, Drained],
    *,
    service: bool = False,
) -> list[NodePlan]:
    """The steps for each worker of the inventory, in its order.

    Args:
        inventory: The PCs.
        found: Name → what that PC said.
        code: Digest of the code that the PCs should have; None where every one of them has an environment of its own.
        in_cluster: Names of the nodes that the running head counts as alive.
        drained: Name → node that was taken back for a while, and is left alone.
        service: Whether a PC that joins is to come back after a boot.
    """
    plans = []
    for node in workers(inventory):
        seen = found[node.name]
        if node.name in drained:
            plans.append(NodePlan(node, "drained", why=drained[node.name].why))
        elif seen.off is not None:
            plans.append(NodePlan(node, "off", why=seen.off))
        elif seen.refused is not None:
            plans.append(NodePlan(node, "refused", why=seen.refused))
        else:
            ready = node.python is not None or seen.code == code
            state: State = "in the cluster" if node.name in in_cluster else "joins"
            steps: tuple[Step, ...] = (Step.JOIN,) if ready else (Step.COPY, Step.ENVIRONMENT, Step.JOIN)
            if service and state == "joins":
                steps += (Step.SERVICE,)
            plans.append(NodePlan(node, state, steps))
    return plans


def plan_rejoin(
    inventory: Inventory, found: Mapping[str, Found], drained: Mapping[str, Drained], head: str
) -> list[NodePlan]:
    """The steps after the token was changed: what is in the cluster of `head` (an address) joins again, as it is.

    PCs that are on and have nothing there are not in the list.
    """
    plans = []
    for plan in plan_up(inventory, found, None, (), drained):
        if plan.state != "joins":
            plans.append(plan)
            continue
        for python in endings(found[plan.node.name], plan.node, head)[:1]:
            plans.append(
                NodePlan(plan.node.model_copy(update={"python": PurePosixPath(python)}), "joins", (Step.JOIN,))
            )
    return plans


def described(plan: NodePlan) -> str:
    """The plan for one PC, as the user reads it."""
    if plan.state == "off":
        return f"off ({plan.why}): left out"
    if plan.state == "refused":
        return f"on, but ssh does not get in ({plan.why})"
    if plan.state == "drained":
        return f"left alone: {plan.why}"
    words = {
        Step.COPY: "gets the code",
        Step.ENVIRONMENT: "its environment",
        Step.JOIN: "joins",
        Step.SERVICE: "comes back after each boot (where systemd is)",
    }
    if plan.state == "in the cluster":
        words[Step.JOIN] = "stays in the cluster" if plan.changes else "in the cluster, nothing to do"
    return ", ".join(words[step] for step in plan.steps)


def python_of(node: NodeSpec) -> str:
    """The interpreter that has vr on that PC; a relative path is one below its home folder."""
    return str(node.python or CODE / ".venv" / "bin" / "python")


def endings(found: Found, node: NodeSpec, head: str) -> list[str]:
    """The interpreters through which `down` ends what that PC has in the cluster of `head` (an address), and no other.

    A PC may have joined by hand, from an environment that the inventory does not know: the one that runs is asked.
    """
    ours = [m for m in found.memberships if m.head.rpartition(":")[0] == head]
    return list(dict.fromkeys(m.python or python_of(node) for m in ours))
