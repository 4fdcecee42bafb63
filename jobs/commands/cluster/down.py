"""`vr cluster down`: end what was started here and, with an inventory, what its other PCs have in this cluster."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.commands.terminal import Yes, agree, console

if TYPE_CHECKING:
    from cluster.inventory import Inventory
    from cluster.remote.up import Outcome


def down(
    inventory: Annotated[
        Path | None,
        typer.Argument(
            metavar="INVENTORY",
            help="On the head: YAML file of the PCs, to end the nodes of the others too.",
            show_default="this PC alone",
        ),
    ] = None,
    yes: Yes = False,
) -> None:
    """End what was started on this PC.

    That is the head with its keeper, or this PC's node. Other Ray clusters stay. With an inventory it first ends, by
    ssh, the nodes that its other PCs have in this cluster.

    Example: vr cluster down --yes
    """
    from cluster.facts import find_interfaces
    from cluster.inventory import Inventory
    from cluster.node.lifecycle import running_processes, stop
    from cluster.remote.up import require_all, require_head_here
    from vr_core.config import load

    described = load(Inventory, inventory) if inventory else None
    if described:
        require_head_here(described, find_interfaces())
    running = running_processes()
    remote = _Remote(described)
    for line in remote.plan():
        console().print(line, highlight=False, markup=False)
    for what, count in running.items():
        console().print(f"ends  {what}: {count} processes, and the jobs that run on it", highlight=False)
    if running or remote.pythons:
        agree("End them?", yes)
    outcomes = remote.end()
    with console().status("ending Ray"):
        ended = stop()  # also where nothing runs: the records of what has died by itself
    ended = [*(outcome.name for outcome in outcomes if outcome.state == "ended"), *ended]
    said = f"Ended: {', '.join(ended)}." if ended else "Nothing runs here that was started by vr."
    console().print(said, highlight=False)
    require_all(outcomes)


class _Remote:
    """The other PCs of an inventory, and what they have in its cluster."""

    def __init__(self, described: "Inventory | None") -> None:
        from cluster.remote.up import look_at_all
        from cluster.remote.up_plan import endings, workers

        self._nodes = workers(described) if described else ()
        head = described.head.address if described else ""
        with console().status("looking at the other PCs"):
            self._found = look_at_all(self._nodes)
        self.pythons = {
            node.name: pythons for node in self._nodes if (pythons := endings(self._found[node.name], node, head))
        }
        """Name → the interpreters through which its nodes are ended; PCs that have nothing are not in it."""

    def plan(self) -> list[str]:
        """A line for each PC."""
        lines = []
        for node in self._nodes:
            found = self._found[node.name]
            if node.name in self.pythons:
                lines.append(f"ends  node {node.name} at {node.address}, and the jobs that run on it")
            else:
                why = found.off or found.refused or "nothing of this cluster runs there"
                lines.append(f"left  {node.name} at {node.address}: {why}")
        return lines

    def end(self) -> list["Outcome"]:
        """End their nodes, at once; what each PC came to."""
        from cluster.remote.up import at_once, end
        from jobs.commands.cluster.table import LiveTable, tell_failures

        if not self._nodes:
            return []
        with LiveTable(self._nodes) as live:
            outcomes = at_once(
                self._nodes,
                lambda node, stop: live.finish(
                    end(node, self._found[node.name], self.pythons.get(node.name, ()), live.tell, stop)
                ),
            )
        tell_failures(outcomes)
        return outcomes
