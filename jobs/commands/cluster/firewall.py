"""`vr cluster firewall`: print rules that admit the cluster's PCs to the cluster's ports, and nobody else."""

from pathlib import Path
from typing import Annotated

import typer


def firewall(
    inventory: Annotated[Path, typer.Argument(help="YAML file that describes the PCs.")],
    port: Annotated[
        int | None, typer.Option(help="First of the block of 256 ports that the head was started with, if it was.")
    ] = None,
) -> None:
    """Print an nftables ruleset for every PC of the inventory, on stdout; nothing is changed.

    Example: vr cluster firewall home.yaml | sudo tee /etc/vr-cluster.nft && sudo nft -f /etc/vr-cluster.nft
    """
    from cluster.hardware.firewall import ruleset
    from cluster.inventory import Inventory
    from cluster.node.ray_start import Ports, ports_from
    from vr_core.config import load

    ports = Ports() if port is None else ports_from(port)
    typer.echo(ruleset(load(Inventory, inventory), ports), nl=False)
