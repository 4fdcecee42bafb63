"""`vr cluster firewall`: print rules that admit the cluster's PCs to the cluster's ports, and nobody else."""

from typing import Annotated

import typer

from jobs.commands.cluster.starting import InventoryFile


def firewall(
    inventory: InventoryFile,
    port: Annotated[
        int | None,
        typer.Option(
            help="First of the block of 256 ports that the head was started with.",
            show_default="the ports in cluster/GUIDE.md",
        ),
    ] = None,
) -> None:
    """Print firewall rules for the PCs of an inventory.

    All PCs get the same nftables ruleset. It is printed on stdout and changes nothing; `sudo nft -f FILE` puts it into
    force.

    Example: vr cluster firewall home.yaml | sudo tee /etc/vr-cluster.nft
    """
    from cluster.hardware.firewall import ruleset
    from cluster.inventory import Inventory
    from cluster.node.ray_start import Ports, ports_from
    from vr_core.config import load

    ports = Ports() if port is None else ports_from(port)
    typer.echo(ruleset(load(Inventory, inventory), ports), nl=False)
