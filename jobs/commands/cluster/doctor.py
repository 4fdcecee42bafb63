"""`vr cluster doctor`: measure the PCs and say what is wrong with them, and what to type."""

import contextlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.commands.progress import step_bar
from jobs.commands.terminal import Json, results, show_table

if TYPE_CHECKING:
    from cluster.doctor.finding import Finding
    from cluster.doctor.report import ClusterReport
    from cluster.inventory import Inventory, NodeSpec
    from cluster.node.head import Head
    from cluster.remote.probe_call import Ran, Runner


def doctor(
    inventory: Annotated[
        Path | None,
        typer.Argument(metavar="INVENTORY", help="YAML file that describes the PCs.", show_default="this PC alone"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure the PCs and say what to type about what is wrong.

    It measures every PC, every link between two of them and the shared folder. Exit code 0 only if nothing blocks.

    Example: vr cluster doctor home.yaml
    """
    from cluster.doctor.diagnosis import blocks, findings, head_finding, summary, table
    from cluster.doctor.links import keep_links
    from cluster.inventory import Inventory
    from vr_core.config import load

    head, trouble = _local_head()
    spec = load(Inventory, inventory) if inventory else _this_machine(head)
    measured = _examine(spec, head)
    with contextlib.suppress(OSError):  # who cannot keep it has measured all the same
        keep_links(measured)
    found = findings(measured, [head_finding(head, trouble)] if _is_here(spec.head) else [])
    if as_json:
        typer.echo(json.dumps(_plain(found, measured)))
    else:
        show_table(table(found), markup=True)
        results(markup=True).print(summary(found), highlight=False)
    if blocks(found):
        raise typer.Exit(1)


def _local_head() -> tuple["Head | None", str]:
    """The head of this machine; or None and what is wrong with it, nothing where there is none."""
    from cluster.errors import NoHead
    from cluster.node.head import find_head, read_head
    from vr_core.errors import VrError

    try:
        return find_head(), ""
    except NoHead as error:
        return None, str(error) if read_head() is not None else ""
    except VrError as error:
        return None, str(error)


def _this_machine(head: "Head | None") -> "Inventory":
    """An inventory of this machine alone."""
    from cluster.inventory import Inventory, NodeSpec
    from cluster.node.head import all_joined
    from cluster.node.processes import alive
    from cluster.node.ray_start import LOOPBACK

    members = [member for member in (head, *all_joined()) if member is not None and alive(member.ray)]
    node = members[0].node if members else None
    spec = NodeSpec(
        name=node.name if node else "this-pc", address=node.address if node else LOOPBACK, role="head", shared=None
    )
    return Inventory(nodes=(spec,))


def _is_here(node: "NodeSpec") -> bool:
    from cluster.facts import find_interfaces

    own = {address for addresses in find_interfaces().values() for address in addresses}
    # All of 127.0.0.0/8 is this machine, whatever its loopback card lists.
    return node.address in own or node.address.startswith("127.")


def _examine(inventory: "Inventory", head: "Head | None") -> "ClusterReport":
    """The measurements, with a bar on stderr."""
    from cluster.doctor.examination import Doctor, examine, steps
    from cluster.node.ray_start import Ports

    here = {node.name for node in inventory.nodes if _is_here(node)}
    run, python = _ways(here)
    ports = head.ports if head is not None and _is_here(inventory.head) else Ports()
    with step_bar("measuring", steps(inventory)) as measured:
        return examine(inventory, Doctor(run, python, measured, ports))


def _ways(here: set[str]) -> tuple["Runner", Callable[["NodeSpec"], Sequence[str]]]:
    """How a node's commands are run, and which Python they find there: this machine's without ssh."""
    from cluster.remote.probe_call import python_here, python_there, run_by_ssh, run_here

    def run(node: "NodeSpec", argv: Sequence[str], stdin: str, timeout_s: float) -> "Ran":
        return (run_here if node.name in here else run_by_ssh)(node, argv, stdin, timeout_s)

    def python(node: "NodeSpec") -> Sequence[str]:
        return (python_here if node.name in here else python_there)(node)

    return run, python


def _plain(found: Sequence["Finding"], measured: "ClusterReport") -> dict[str, object]:
    from cluster.probe.readings import as_json
    from vr_core.config import plain

    nodes = {
        report.name: {
            "address": report.spec.address,
            "why": report.why,
            **{
                key: None if value is None else as_json(value)
                for key in ("probe", "cache", "share", "share_rates")
                for value in [getattr(report, key)]
            },
        }
        for report in measured.nodes
    }
    links = [{"from": one, "to": other, **as_json(link)} for (one, other), link in measured.links.items()]
    return {"findings": [plain(finding) for finding in found], "nodes": nodes, "links": links}
