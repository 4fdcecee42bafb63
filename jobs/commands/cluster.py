"""`vr cluster`: start a head, join it from other PCs, look at the cluster, take it down.

Every change shows its plan first and asks. What is planned is decided in `cluster.node.ray_start`, done in
`cluster.node.lifecycle`.
"""

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.errors import ClusterError, ClusterFailure
from jobs.commands.cluster_doctor import doctor
from jobs.commands.cluster_down import down
from jobs.commands.cluster_drain import drain, undrain
from jobs.commands.cluster_firewall import firewall
from jobs.commands.cluster_rotate import rotate
from jobs.commands.cluster_service import service
from jobs.commands.cluster_up import up

if TYPE_CHECKING:
    from rich.console import Console

    from cluster.inventory import Inventory
    from cluster.node.head import Head
    from cluster.node.ray_start import NodeStart
    from cluster.timings import Timings
    from cluster.versions import Versions

app = typer.Typer(help="Start, join, inspect and end the Ray cluster.", no_args_is_help=True)

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Name = Annotated[str | None, typer.Option(help="Name of this PC in the cluster; by default its host name.")]
NumCpus = Annotated[int | None, typer.Option(min=1, help="Logical CPUs given to the cluster; by default all.")]
PortBase = Annotated[
    int | None,
    typer.Option(help="First of a block of 256 ports, 0 for free ones; by default those in cluster/README.md."),
]
TimingsFile = Annotated[
    Path | None, typer.Option("--timings", help="YAML file of waits, to replace the default ones (cluster/README.md).")
]
_WATCH_S = 2.0


@app.command()
def head(
    inventory: Annotated[Path | None, typer.Argument(help="YAML file that describes the PCs.")] = None,
    address: Annotated[
        str | None, typer.Option(help="LAN address of this PC; without it nothing leaves this machine.")
    ] = None,
    name: Name = None,
    num_cpus: NumCpus = None,
    port: PortBase = None,
    timings: TimingsFile = None,
    yes: Yes = False,
) -> None:
    """Start the Ray head on this machine, and the keeper that resubmits interrupted runs.

    Running it again changes nothing; with a LAN address it prints a fresh join code each time, good once for 30
    minutes. Example: vr cluster head --address 192.168.1.10
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


@app.command()
def join(
    code: Annotated[
        str,
        typer.Argument(
            help="What `vr cluster head` printed; - reads it from stdin. Or the head's LAN address, and --token-file."
        ),
    ],
    token_file: Annotated[
        Path | None, typer.Option(help="With an address: the head's token file, copied to this PC, mode 600.")
    ] = None,
    inventory: Annotated[
        Path | None, typer.Option(help="YAML file that describes the PCs; - reads it from stdin, after the code.")
    ] = None,
    own_address: Annotated[
        str | None, typer.Option("--address", help="LAN address of this PC; by default the one that reaches the head.")
    ] = None,
    name: Name = None,
    num_cpus: NumCpus = None,
    port: PortBase = None,
    timings: TimingsFile = None,
    yes: Yes = False,
) -> None:
    """Give this PC to a cluster. A code works once, for 30 minutes, so the list of processes may show it.

    Example: vr cluster join 60M0M2GM-…, as the head printed it
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
    _cap_power(node)
    console().print(f"{node.name} has joined {target}. Leave it with: vr cluster down")


def _read_inventory(path: Path) -> "Inventory":
    from cluster.inventory import Inventory
    from vr_core.config import load, parse_yaml, validate

    if str(path) == "-":
        return validate(Inventory, parse_yaml(sys.stdin.read(), "stdin"), "stdin")
    return load(Inventory, path)


@app.command()
def status(
    inventory: Annotated[
        Path | None, typer.Argument(help="YAML file that describes the PCs: those that are missing are listed too.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON value on stdout.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh every 2 s until Ctrl-C.")] = False,
) -> None:
    """Show the cluster's nodes: state, graphics cards, which runs use them, what the PC does; why one is missing.

    Example: vr cluster status --json
    """
    from rich.console import Console, Group
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

    def view() -> Group:
        where = f"head {found.gcs_address}   dashboard {found.dashboard_url}   token file {found.token_file}"
        return Group(table(read_nodes(found, expected), time.time()), f"{where}   Ray {ray} on every node")

    if not watch:
        Console().print(view())
        return
    try:
        with Live(view(), auto_refresh=False) as live:
            while True:
                time.sleep(_WATCH_S)
                live.update(view(), refresh=True)
    except KeyboardInterrupt:
        return


def put_up_head(
    node: "NodeStart", described: "Inventory | None", timings: "Timings | None" = None
) -> tuple["Head", bool]:
    """Start the head `node` with all that belongs beside it, or what is missing of it; says whether anything was.

    Without `timings` a head that runs keeps its own.
    """
    from cluster.joining.admission import await_endpoint, companions_of
    from cluster.node.head import keep_inventory
    from cluster.node.lifecycle import running_head, start_head
    from jobs.keeper import KEEPER

    fresh = running_head(node, timings) is None
    with console().status("starting Ray (about 10 s)"):
        started, changed = start_head(node, companions_of(node, [KEEPER]), timings)
        if not node.loopback_only:
            await_endpoint(started)
    if fresh or described:  # typed again for another join code, without the file, it takes nothing from the keeper
        keep_inventory(described)
    _cap_power(node)
    return started, changed


def agree(question: str, yes: bool) -> None:
    """Return when the user agrees.

    Raises:
        ClusterError: there is no terminal to ask at.
        typer.Abort: the answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise ClusterError("nothing was changed: no terminal to ask at; add --yes to agree beforehand")
    typer.confirm(question, abort=True, err=True)


def show_plan(node: "NodeStart", timings: "Timings | None" = None) -> None:
    """Say what starting `node` means."""
    from cluster.node.ray_start import Ports, ports_from
    from cluster.timings import changed

    cards = ", ".join(f"{gpu.model} {gpu.memory_gib:g} GiB" for gpu in node.gpus) or "none"
    if node.port_base == 0:
        where = "free ones"
    else:
        ports = Ports() if node.port_base is None else ports_from(node.port_base)
        singles = sorted(ports.singles(head=node.head is None, lan=not node.loopback_only).values())
        where = f"{', '.join(map(str, singles))} and {ports.worker_low}-{ports.worker_high} for workers"
    beside = "the keeper" if node.loopback_only else "the keeper and the join endpoint"
    what = f"a Ray head, {beside}" if node.head is None else f"a Ray node of the head {node.head}"
    reach = "this machine alone" if node.loopback_only else "every machine that reaches this address"
    lines = {
        "starts": f"{what}, named {node.name}",
        "address": f"{node.address} on {node.interface}; open to {reach}",
        "gives": f"{node.cpus} CPUs; GPUs: {cards}",
        "labels": " ".join(f"{key}={value}" for key, value in sorted(node.labels.items())),
        "ports": where,
    }
    if timings is not None and changed(timings):
        lines["timings"] = " ".join(f"{key}={value:g}" for key, value in changed(timings).items())
    for key, value in lines.items():
        console().print(f"{key:8}{value}", highlight=False, markup=False)


def _cap_power(node: "NodeStart") -> None:
    from cluster.hardware.power import apply_caps

    for line in apply_caps(node.gpus):
        console().print(line, highlight=False, markup=False)


def software() -> "Versions":
    """What runs here, for the PCs that want to join, or for the head that is to be joined."""
    from cluster.source_tree import commit_of, source_root
    from cluster.versions import own_versions

    return own_versions(commit_of(source_root())[0])


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
            f"  vr cluster join {code}",
        ]
    for line in [*lines, "next       vr cluster status · vr submit RECIPE · vr cluster down"]:
        console().print(line, highlight=False, markup=False, soft_wrap=True)


def console() -> "Console":
    """Stderr: stdout is for what another program may read."""
    from rich.console import Console

    return Console(stderr=True)


app.command()(up)
app.command()(down)
app.command()(rotate)
app.command()(firewall)
app.command()(drain)
app.command()(undrain)
app.command()(doctor)
app.command()(service)
