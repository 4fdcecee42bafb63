"""`vr cluster rotate`: change the cluster's one secret."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.commands.terminal import Yes, agree, console
from vr_core.errors import command

if TYPE_CHECKING:
    from cluster.inventory import Inventory
    from cluster.node.head import Head
    from cluster.remote.up_plan import NodePlan


def rotate(
    inventory: Annotated[
        Path | None,
        typer.Argument(
            metavar="INVENTORY",
            help="YAML file that describes the PCs: those that ssh reaches join again by themselves.",
            show_default="a line to type is printed for each PC",
        ),
    ] = None,
    yes: Yes = False,
) -> None:
    """Replace the cluster's token with a new one.

    The head starts again with it, and so do the nodes, through ssh or by a line that is printed. What has the old token
    gets nowhere from then on.

    Example: vr cluster rotate home.yaml
    """
    from cluster.inventory import Inventory
    from cluster.joining.admission import companions_of
    from cluster.joining.rotate import rotate as rotate_token
    from cluster.node.head import find_head
    from cluster.remote.up import require_all
    from cluster.status.nodes import read_nodes
    from jobs.commands.cluster.starting import software
    from jobs.commands.cluster.up import carry_out, show_plans, tell_missing
    from jobs.queue.keeper import KEEPER
    from vr_core.config import load

    head = find_head()
    described = load(Inventory, inventory) if inventory else None
    plans = _plan(described, head) if described else []
    if described:
        by_hand = [plan.node.name for plan in plans if not plan.steps]
    else:
        by_hand = [row.name for row in read_nodes(head) if row.alive and not row.head]

    def say(line: str) -> None:
        console().print(line, highlight=False, markup=False, soft_wrap=True)

    say(f"ends    the head {head.node.name} and every job; the keeper submits unfinished runs again")
    say("makes   a new token; the old one and every join code that is out are void")
    say(f"starts  the head {head.node.name} again, as it is; to join again by a line: {', '.join(by_hand) or 'no PC'}")
    show_plans(plans, None)
    agree("Change the token?", yes)
    with console().status("starting Ray (about 15 s)"):
        rotated = rotate_token(companions_of(head.node, [KEEPER]), by_hand, software())
    say(f"The head runs with a new token (in {rotated.head.token_file}).")
    outcomes = []
    if described and inventory:
        # They were started as this head was: with its ports.
        outcomes = carry_out(plans, rotated.head, described, None, head.node.port_base)
        tell_missing(outcomes, inventory)
    for pc, code in rotated.codes.items():
        say(f"on {pc}, within 30 minutes:\n  {command('cluster join', code)}")
    if not rotated.head.node.loopback_only:
        say("for any other PC: `vr cluster head` prints a code")
    require_all(outcomes)


def _plan(described: "Inventory", head: "Head") -> list["NodePlan"]:
    from cluster.facts import find_interfaces
    from cluster.node.drain import by_name, read_drained
    from cluster.remote.up import look_at_all, require_head_here
    from cluster.remote.up_plan import plan_rejoin, workers

    require_head_here(described, find_interfaces())
    with console().status("looking at the other PCs"):
        found = look_at_all(workers(described))
    return plan_rejoin(described, found, by_name(read_drained()), head.node.address)
