"""What the doctor has measured of the links between PCs, kept on the PC that it ran on: `vr plan` goes by it."""

import json
from typing import Annotated

from pydantic import Field

from cluster.doctor.report import ClusterReport
from cluster.inventory import Inventory
from cluster.node.head import state_folder
from cluster.trust.token import write_private
from vr_core.config import Spec, plain, validate
from vr_core.errors import ConfigError
from vr_core.small_files import read_json


class KeptLink(Spec):
    """Two PCs, by their addresses."""

    ends: tuple[str, str]
    mbit: Annotated[float, Field(gt=0)]
    """Of the slower direction."""


class KeptLinks(Spec):
    """`links.json`."""

    links: tuple[KeptLink, ...] = ()


def keep_links(examination: ClusterReport) -> None:
    """Put what was measured in the place of what was known of the same pairs.

    Raises:
        OSError: this PC's state folder cannot be written.
    """
    address = {report.name: report.spec.address for report in examination.nodes}
    kept = {frozenset(link.ends): link for link in read_links()}
    for (one, other), link in examination.links.items():
        mbit = min(link.there_mbit or 0.0, link.back_mbit or 0.0)
        if mbit > 0:
            ends = address[one], address[other]
            kept[frozenset(ends)] = KeptLink(ends=ends, mbit=mbit)
    if kept:
        links = KeptLinks(links=tuple(kept.values()))
        write_private(state_folder() / "links.json", json.dumps(plain(links), indent=1) + "\n")


def read_links() -> tuple[KeptLink, ...]:
    """All that is kept; nothing where the file is damaged: the doctor writes it anew."""
    try:
        return validate(KeptLinks, read_json(state_folder() / "links.json"), "links.json").links
    except (OSError, ValueError, ConfigError):
        return ()


def rates_mbit(inventory: Inventory, links: tuple[KeptLink, ...]) -> dict[str, float]:
    """Node → the rate of its own link: the best that it has reached with any other node of the inventory."""
    addresses = {node.address for node in inventory.nodes}
    found: dict[str, float] = {}
    for node in inventory.nodes:
        own = [link.mbit for link in links if node.address in link.ends and addresses.issuperset(link.ends)]
        if own:
            found[node.name] = max(own)
    return found
