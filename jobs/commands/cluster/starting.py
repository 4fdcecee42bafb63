"""Starting Ray on this PC from a command: the options, the plan that is shown, the head with what belongs beside it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.commands.terminal import console

if TYPE_CHECKING:
    from cluster.inventory import Inventory
    from cluster.node.head import Head
    from cluster.node.ray_start import NodeStart
    from cluster.timings import Timings
    from cluster.versions import Versions

InventoryFile = Annotated[Path, typer.Argument(metavar="INVENTORY", help="YAML file that describes the PCs.")]
Name = Annotated[
    str | None,
    typer.Option(help="Name of this PC in the cluster.", show_default="the inventory's, else its host name"),
]
NumCpus = Annotated[
    int | None,
    typer.Option(min=1, help="Number of logical CPUs for the cluster.", show_default="the inventory's, else all"),
]
PortBase = Annotated[
    int | None,
    typer.Option(help="First of a block of 256 ports; 0: free ones.", show_default="the ports in cluster/GUIDE.md"),
]
TimingsFile = Annotated[
    Path | None,
    typer.Option(
        "--timings",
        help="YAML file of waits in seconds (cluster/GUIDE.md).",
        show_default="those of its last start, else built-in ones",
    ),
]


def put_up_head(
    node: "NodeStart", described: "Inventory | None", timings: "Timings | None" = None
) -> tuple["Head", bool]:
    """Start the head `node` with all that belongs beside it, or what is missing of it; says whether anything was.

    Without `timings` a head that runs keeps its own.
    """
    from cluster.joining.admission import await_endpoint, companions_of
    from cluster.node.head import keep_inventory
    from cluster.node.lifecycle import running_head, start_head
    from jobs.queue.keeper import KEEPER

    fresh = running_head(node, timings) is None
    with console().status("starting Ray (about 10 s)"):
        started, changed = start_head(node, companions_of(node, [KEEPER]), timings)
        if not node.loopback_only:
            await_endpoint(started)
    if fresh or described:  # typed again for another join code, without the file, it takes nothing from the keeper
        keep_inventory(described)
    cap_power(node)
    return started, changed


def show_plan(node: "NodeStart", timings: "Timings | None" = None) -> None:
    """Say what starting `node` means."""
    from cluster.node.ray_start import Ports, ports_from
    from cluster.timings import changed

    cards = ", ".join(gpu.text for gpu in node.gpus) or "none"
    if node.port_base == 0:
        where = "free ones"
    else:
        ports = Ports() if node.port_base is None else ports_from(node.port_base)
        singles = sorted(ports.singles(head=node.head is None, lan=not node.loopback_only).values())
        where = f"{', '.join(map(str, singles))} and {ports.worker_low}-{ports.worker_high} for workers"
    beside = "the keeper" if node.loopback_only else "the keeper and the join endpoint"
    what = f"a Ray head, {beside}" if node.head is None else f"a Ray node of the head {node.head}"
    reach = "this machine alone" if node.loopback_only else "every machine that reaches this address"
    lines = {
        "starts": f"{what}, named {node.name}",
        "address": f"{node.address} on {node.interface}; open to {reach}",
        "gives": f"{node.cpus} CPUs; GPUs: {cards}",
        "labels": " ".join(f"{key}={value}" for key, value in sorted(node.labels.items())),
        "ports": where,
    }
    if timings is not None and changed(timings):
        lines["timings"] = " ".join(f"{key}={value:g}" for key, value in changed(timings).items())
    for key, value in lines.items():
        console().print(f"{key:8}{value}", highlight=False, markup=False)


def cap_power(node: "NodeStart") -> None:
    """Set what the inventory says of the cards' power, and say what came of it."""
    from cluster.hardware.power import apply_caps

    for line in apply_caps(node.gpus):
        console().print(line, highlight=False, markup=False)


def software() -> "Versions":
    """What runs here, for the PCs that want to join, or for the head that is to be joined."""
    from cluster.source_tree import commit_of, source_root
    from cluster.versions import own_versions

    return own_versions(commit_of(source_root())[0])
