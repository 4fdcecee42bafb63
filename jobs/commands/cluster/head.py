"""`vr cluster head`: a Ray head on this machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.commands.cluster.starting import Name, NumCpus, PortBase, TimingsFile, put_up_head, show_plan, software
from jobs.commands.terminal import Yes, agree, console
from vr_core.errors import command

if TYPE_CHECKING:
    from cluster.node.head import Head


def head(
    inventory: Annotated[
        Path | None,
        typer.Argument(
            metavar="INVENTORY", help="YAML file that describes the PCs.", show_default="what is found here"
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(help="LAN address of this PC.", show_default="the inventory's, else 127.0.0.1: no PC can join"),
    ] = None,
    name: Name = None,
    num_cpus: NumCpus = None,
    port: PortBase = None,
    timings: TimingsFile = None,
    yes: Yes = False,
) -> None:
    """Start the Ray head on this machine, and its keeper.

    The keeper submits interrupted runs again. Running it again changes nothing; with a LAN address it prints a new join
    code each time, good once, for 30 minutes.

    Example: vr cluster head --address 192.168.1.10
    """
    from cluster.facts import look
    from cluster.inventory import Inventory
    from cluster.joining.invitations import invite
    from cluster.node.head import read_head
    from cluster.node.lifecycle import kept_timings, running_head
    from cluster.node.ray_start import node_start
    from cluster.timings import Timings
    from vr_core.config import load

    described = load(Inventory, inventory) if inventory else None
    spec = described.head if described else None
    node = node_start(look(), spec, name=name, address=address, cpus=num_cpus, port_base=port)
    waits = load(Timings, timings) if timings else None
    if running_head(node, waits) is None:
        show_plan(node, waits or kept_timings(read_head()))
        agree("Start this head?", yes)
    started, changed = put_up_head(node, described, waits)
    console().print("The head runs." if changed else "The head runs already; nothing was changed.")
    _show_head(started, None if node.loopback_only else invite(started, software()))


def _show_head(head: "Head", code: str | None) -> None:
    lines = [
        f"dashboard  {head.dashboard_url}   (it asks for the token: the line in {head.token_file})",
        f"logs       {head.ray.log.parent}/*.log and {head.temp_dir}/session_latest/logs",
    ]
    if code is None:
        lines += ["others     none can join: for that, end it and start it with --address LAN_ADDRESS"]
    else:
        dashboard = head.ports.dashboard
        lines += [
            f"from a PC  ssh -L {dashboard}:127.0.0.1:{dashboard} {head.node.address}   then the same address there",
            "to join, on one other PC within 30 minutes (for the next PC, `vr cluster head` prints another code):",
            f"  {command('cluster join', code)}",
        ]
    for line in [*lines, "next       vr cluster status · vr submit RECIPE · vr cluster down"]:
        console().print(line, highlight=False, markup=False, soft_wrap=True)
