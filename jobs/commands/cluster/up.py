"""`vr cluster up`: the head and every PC of an inventory that is on, in one go."""

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.commands.cluster.starting import InventoryFile, PortBase
from jobs.commands.terminal import Json, Yes, agree, console
from vr_core.errors import VrError, command

if TYPE_CHECKING:
    from cluster.inventory import Inventory
    from cluster.node.head import Head
    from cluster.remote.up import Outcome
    from cluster.remote.up_plan import NodePlan
    from cluster.source_tree import Sources


def up(
    inventory: InventoryFile,
    port: PortBase = None,
    service: Annotated[
        bool, typer.Option(help="Where systemd is, let it start each PC's part after a boot (vr cluster service).")
    ] = True,
    as_json: Json = False,
    yes: Yes = False,
) -> None:
    """Start the head here and, through ssh, the other PCs.

    Every PC of the inventory that is on gets a node; the rest can join later. Run it on the head. Running it again
    changes nothing.

    Example: vr cluster up home.yaml
    """
    from cluster.facts import look
    from cluster.inventory import Inventory
    from cluster.node.lifecycle import running_head
    from cluster.node.ray_start import node_start
    from cluster.node.service import has_systemd
    from cluster.remote.up import require_all, require_head_here
    from jobs.commands.cluster.starting import put_up_head, show_plan
    from vr_core.config import load

    described = load(Inventory, inventory)
    facts = look()
    require_head_here(described, facts.interfaces)
    node = node_start(facts, described.head, port_base=port)
    running = running_head(node)
    with tempfile.TemporaryDirectory(prefix="vr-code-") as folder:
        sources = _stage(described, Path(folder))
        plans = _plan(described, running, sources, service)
        if running is None:
            show_plan(node)
            if service and has_systemd():
                console().print("boot    systemd starts it again after each boot (--no-service: it does not)")
        show_plans(plans, sources)
        if running is None or any(plan.changes for plan in plans):
            agree("Bring this up?", yes)
        start_s = time.monotonic()
        head, changed = put_up_head(node, described)
        head_s = time.monotonic() - start_s
        stays = _stay() if changed and service else ""
        outcomes = carry_out(plans, head, described, sources, port)
    tell_missing(outcomes, inventory)
    if stays:
        console().print(f"{node.name}: {stays}", highlight=False, markup=False, soft_wrap=True)
    state = "started" if changed else "unchanged"
    if as_json:
        own = {"name": node.name, "address": head.gcs_address, "state": state, "seconds": round(head_s, 3)}
        typer.echo(json.dumps({"head": own, "nodes": [outcome.model_dump(mode="json") for outcome in outcomes]}))
    else:
        said = "The head runs." if changed else "The head runs already."
        console().print(
            f"{said} Next: vr cluster status · vr submit RECIPE · {command('cluster down', inventory)}", highlight=False
        )
    require_all(outcomes)


def _stay() -> str:
    """Have systemd, where it is, start this PC's head after each boot; what is in the way, or nothing."""
    from cluster.node.service import has_systemd
    from jobs.commands.cluster.service import install

    try:
        return install() if has_systemd() else ""
    except VrError as error:
        return f"does not come back after a boot: {error}"


def _stage(described: "Inventory", folder: Path) -> "Sources | None":
    from cluster.remote.up_plan import workers
    from cluster.source_tree import source_root, stage

    if all(worker.python is not None for worker in workers(described)):
        return None
    return stage(source_root(), folder)


def _plan(described: "Inventory", head: "Head | None", sources: "Sources | None", service: bool) -> list["NodePlan"]:
    from cluster.node.drain import by_name, read_drained
    from cluster.remote.up import look_at_all
    from cluster.remote.up_plan import plan_up, workers
    from cluster.status.nodes import read_nodes

    with console().status("looking at the other PCs"):
        found = look_at_all(workers(described))
    alive = {row.name for row in read_nodes(head) if row.alive} if head else set()
    digest = sources.digest if sources else None
    return plan_up(described, found, digest, alive, by_name(read_drained()), service=service)


def show_plans(plans: Sequence["NodePlan"], sources: "Sources | None") -> None:
    """A line for each PC."""
    from cluster.remote.up_plan import Step, described

    if sources and any(Step.COPY in plan.steps for plan in plans):
        size = f"{sources.files} files, {sources.size_bytes / 2**20:.1f} MiB, digest {sources.digest[:12]}"
        console().print(f"code    {size}", highlight=False, markup=False)
    for plan in plans:
        console().print(f"{plan.node.name:7} {plan.node.address}: {described(plan)}", highlight=False, markup=False)


def carry_out(
    plans: Sequence["NodePlan"],
    head: "Head",
    described: "Inventory",
    sources: "Sources | None",
    port_base: int | None,
) -> list["Outcome"]:
    """Do what is planned on all PCs at once, each with a join code of its own that ends with this."""
    from cluster.joining.invitations import invite, withdraw
    from cluster.remote.up import Delivery, at_once, bring_up
    from jobs.commands.cluster.starting import software
    from jobs.commands.cluster.table import LiveTable

    if not plans:
        return []
    versions = software()
    codes = {plan.node.name: invite(head, versions) for plan in plans if plan.steps}
    delivery = Delivery(described, codes, sources, versions.python, port_base)
    by_name = {plan.node.name: plan for plan in plans}
    try:
        with LiveTable([plan.node for plan in plans]) as live:
            return at_once(
                [plan.node for plan in plans],
                lambda node, stop: live.finish(bring_up(by_name[node.name], delivery, live.tell, stop)),
            )
    finally:
        withdraw(codes.values())


def tell_missing(outcomes: Sequence["Outcome"], inventory: Path) -> None:
    """Say which PCs failed and how, and which are off."""
    from jobs.commands.cluster.table import tell_failures

    tell_failures(outcomes)
    for outcome in outcomes:
        if outcome.state == "off":
            line = f"{outcome.name}: off ({outcome.why}); join later with: {command('cluster up', inventory)}"
            console().print(line, highlight=False, markup=False, soft_wrap=True)
        elif outcome.why and outcome.state in ("joined", "updated"):
            console().print(f"{outcome.name}: {outcome.why}", highlight=False, markup=False, soft_wrap=True)
