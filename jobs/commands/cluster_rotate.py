"""`vr cluster rotate`: change the cluster's one secret."""

from pathlib import Path
from typing import Annotated

import typer


def rotate(
    inventory: Annotated[
        Path | None, typer.Argument(help="YAML file that describes the PCs; without it, those that are joined now.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Make a new token: the head starts again with it, and a join line is printed for each other PC.

    What has the old token gets nowhere from then on. Example: vr cluster rotate home.yaml
    """
    from cluster.admission import companions_of
    from cluster.head import find_head
    from cluster.inventory import Inventory
    from cluster.rotate import rotate as rotate_token
    from cluster.status import read_nodes
    from jobs.commands.cluster import agree, console, software
    from jobs.keeper import KEEPER
    from vr_core.config import load

    head = find_head()
    if inventory:
        pcs = [node.name for node in load(Inventory, inventory).nodes if node.role != "head"]
    else:
        pcs = [row.name for row in read_nodes(head) if row.alive and not row.head]

    def say(line: str) -> None:
        console().print(line, highlight=False, markup=False, soft_wrap=True)

    say(f"ends    the head {head.node.name} and every job; the keeper submits unfinished runs again")
    say("makes   a new token; the old one and every join code that is out are void")
    say(f"starts  the head {head.node.name} again, as it is; to join again: {', '.join(pcs) or 'no other PC'}")
    agree("Change the token?", yes)
    with console().status("starting Ray (about 15 s)"):
        rotated = rotate_token(companions_of(head.node, [KEEPER]), pcs, software())
    say(f"The head runs with a new token (in {rotated.head.token_file}).")
    for pc, code in rotated.codes.items():
        say(f"on {pc}, within 30 minutes:\n  vr cluster join {code}")
    if not rotated.head.node.loopback_only:
        say("for any other PC: `vr cluster head` prints a code")
