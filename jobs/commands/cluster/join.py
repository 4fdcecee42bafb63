"""`vr cluster join`: this PC given to a head's cluster."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.errors import ClusterError, ClusterFailure
from jobs.commands.cluster.starting import Name, NumCpus, PortBase, TimingsFile, cap_power, show_plan, software
from jobs.commands.terminal import Yes, agree, console

if TYPE_CHECKING:
    from cluster.inventory import Inventory


def join(
    code: Annotated[
        str,
        typer.Argument(
            metavar="CODE",
            help="What `vr cluster head` printed; - reads it from stdin. Or the head's LAN address, and --token-file.",
        ),
    ],
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="With an address: the head's token file, copied to this PC, mode 600.",
            show_default="not needed with a code",
        ),
    ] = None,
    inventory: Annotated[
        Path | None,
        typer.Option(
            help="YAML file that describes the PCs; - reads it from stdin, after the code.",
            show_default="what is found here",
        ),
    ] = None,
    own_address: Annotated[
        str | None,
        typer.Option(
            "--address",
            help="LAN address of this PC.",
            show_default="the inventory's, else that which reaches the head",
        ),
    ] = None,
    name: Name = None,
    num_cpus: NumCpus = None,
    port: PortBase = None,
    timings: TimingsFile = None,
    yes: Yes = False,
) -> None:
    """Add this PC to a cluster.

    A code works once, for 30 minutes, so the list of processes may show it. `vr cluster head` prints it.

    Example: vr cluster join CODE
    """
    from cluster.facts import address_towards, look
    from cluster.joining.redeem import entry
    from cluster.node.head import read_joined
    from cluster.node.lifecycle import has_token, kept_timings, running_node
    from cluster.node.lifecycle import join as join_head
    from cluster.node.ray_start import node_start
    from cluster.node.start import require_answer
    from cluster.timings import Timings
    from vr_core.config import load

    waits = load(Timings, timings) if timings else None
    way = entry(sys.stdin.readline().strip() if code == "-" else code, token_file, software())
    target = way.head
    facts = look()
    spec = _read_inventory(inventory).at([own_address] if own_address else facts.addresses) if inventory else None
    if inventory and spec is None:
        raise ClusterError(f"{inventory}: no node has an address of this PC ({', '.join(facts.addresses)})")
    own = own_address or (spec.address if spec else address_towards(target.rpartition(":")[0]))
    node = node_start(facts, spec, name=name, address=own, cpus=num_cpus, port_base=port, head=target)
    running = running_node(node, waits)
    if running and (way.token_sha256 is None or has_token(running, way.token_sha256)):
        console().print(f"{node.name} is in the cluster of {target} already. Leave it with: vr cluster down")
        return
    if way.token_sha256 is None:
        way.take()  # a token file that is missing is named before anything is asked
    require_answer(target)
    show_plan(node, waits or kept_timings(read_joined(node.name)))
    if running:
        console().print("first   ends this PC's node, which has an earlier token of the head, and what runs on it")
    agree(f"Join the cluster of {target}?", yes)
    token = way.take()
    with console().status("starting Ray (about 10 s)"):
        try:
            join_head(node, token, waits)
        except ClusterFailure as error:
            spent = "" if token_file else "; the code is used up, `vr cluster head` on the head prints another"
            raise ClusterFailure(f"{error}{spent}") from None
    cap_power(node)
    console().print(f"{node.name} has joined {target}. Leave it with: vr cluster down")


def _read_inventory(path: Path) -> "Inventory":
    from cluster.inventory import Inventory
    from vr_core.config import load, validate
    from vr_core.yaml12 import parse_yaml

    if str(path) == "-":
        return validate(Inventory, parse_yaml(sys.stdin.read(), "stdin"), "stdin")
    return load(Inventory, path)
