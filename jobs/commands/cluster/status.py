"""`vr cluster status`: the nodes, who uses them, and why one is missing."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from cluster.errors import ClusterError
from jobs.commands.terminal import Json, results, show_table

_WATCH_S = 2.0


def status(
    inventory: Annotated[
        Path | None,
        typer.Argument(
            metavar="INVENTORY",
            help="YAML file that describes the PCs: those that are missing are listed too.",
            show_default="the one that the head keeps",
        ),
    ] = None,
    as_json: Json = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Refresh every 2 s until Ctrl-C; without it, print once.")
    ] = False,
) -> None:
    """Show the cluster's nodes, and why one is missing.

    It shows their state and graphics cards, which runs use them, and what each PC does.

    Example: vr cluster status --json
    """
    from rich.console import Group
    from rich.live import Live

    from cluster.inventory import Inventory
    from cluster.node.head import fetch, find_head, read_inventory
    from cluster.status.nodes import read_nodes
    from cluster.status.table import table
    from vr_core.config import load, plain

    if as_json and watch:
        raise ClusterError("--json and --watch: choose one")
    described = load(Inventory, inventory) if inventory else read_inventory()
    expected = {node.name: node.address for node in described.nodes} if described else {}
    found = find_head()
    # Ray lets no node join that has another version of it.
    ray = fetch(found, "/api/version")["ray_version"]
    if as_json:
        nodes = [plain(row) for row in read_nodes(found, expected)]
        own = {"address": found.gcs_address, "dashboard": found.dashboard_url, "token_file": str(found.token_file)}
        typer.echo(json.dumps({"head": {**own, "ray": ray}, "nodes": nodes}))
        return

    where = f"head {found.gcs_address}   dashboard {found.dashboard_url}   token file {found.token_file}"
    below = f"{where}   Ray {ray} on every node"

    def view() -> Group:
        return Group(table(read_nodes(found, expected), time.time()), below)

    if not watch:
        show_table(table(read_nodes(found, expected), time.time()), markup=True)
        results().print(below, highlight=False)
        return
    try:
        with Live(view(), auto_refresh=False) as live:
            while True:
                time.sleep(_WATCH_S)
                live.update(view(), refresh=True)
    except KeyboardInterrupt:
        return
