"""What the doctor measures, in this order: every node by itself, the shared folder, every pair of nodes, cache disks.

The report that comes out (`cluster.doctor.report`) is judged by `cluster.doctor.diagnosis`. Nodes are measured at the
same time where they cannot disturb each other: of the pairs, those that have no node in common.
"""

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cluster.doctor.report import ClusterReport, NodeReport
from cluster.inventory import Inventory, NodeSpec
from cluster.node.ray_start import Ports
from cluster.probe.readings import Link, NodeProbe, Rates, Share
from cluster.remote.probe_call import Runner, Unanswered, ask, read_as

_NODE_S = 90.0
"""`nvidia-smi` of a sleeping driver alone may take half a minute."""
_DISK_BYTES = 512 * 2**20
_SHARE_BYTES = 128 * 2**20
_LISTEN_S = 60.0
"""Longest life of a listener for each node; it is told to stop before, unless the asking machine goes away."""
_READY_S = 15.0
_FIRST_EPHEMERAL, _LAST_EPHEMERAL = 33_000, 60_000
"""Where torch's own connections have their ports."""


@dataclass(frozen=True)
class Patience:
    """Seconds that measurements may take."""

    rate_s: float = 1.0
    """Sending over a link, for its rate."""
    disk_s: float = 2.0
    """Writing, and reading, a cache's disk."""
    share_s: float = 3.0
    """Writing, and reading, the shared folder."""
    stale_s: float = 10.0
    """Until what one node has changed in the shared folder is seen by another."""


@dataclass(frozen=True)
class Doctor:
    """How nodes are reached, and who is told about progress."""

    run: Runner
    python: Callable[[NodeSpec], Sequence[str]]
    """The command of the Python whose packages a node uses, or the system's where there is none of ours yet."""
    tell: Callable[[str], None]
    """Called with what has just been measured, once for each of `steps`."""
    ports: Ports = Ports()
    patience: Patience = Patience()

    def ask(self, node: NodeSpec, request: dict[str, Any], timeout_s: float) -> Any:
        """As `probe_call.ask`."""
        return ask(self.run, self.python, node, request, timeout_s)


def steps(inventory: Inventory) -> int:
    """How often `examine` will call `tell`, if every node answers."""
    count = len(inventory.nodes)
    sharing = sum(node.shared is not None for node in inventory.nodes)
    caches = sum(node.cache is not None for node in inventory.nodes)
    return count + count * (count - 1) // 2 + sharing + caches


def examine(inventory: Inventory, doctor: Doctor) -> ClusterReport:
    """Measure everything. What cannot be measured is missing in the result with its reason."""
    with ThreadPoolExecutor(max_workers=2 * len(inventory.nodes)) as pool:
        reports = {p.name: p for p in pool.map(lambda node: _look(node, doctor), inventory.nodes)}
        done = ClusterReport(tuple(reports.values()), ports=doctor.ports)
        word = secrets.token_hex(16)
        sharing = [report.spec for report in done.sharing]
        with _shared_folder(sharing[0] if sharing else None, word, doctor) as (share_write, share_why):
            if share_why:
                reports[sharing[0].name] = replace(reports[sharing[0].name], share_why=share_why)
            shared = {node.name for node in sharing} if share_write is not None else set()
            done = replace(done, share_write=share_write)
            with _listening(done.answered, shared, sharing, word, doctor, pool) as (measuring, deaf):
                links, links_why = _pairs(done.answered, shared, measuring, deaf, word, doctor, pool)
                done = replace(done, links=links, links_why=links_why)
                for node in sharing if shared else []:
                    held = node is not sharing[0] and sharing[0].name not in deaf and len(done.answered) > 1
                    reports[node.name] = _look_at_share(reports[node.name], word, held, doctor)
        for report in pool.map(lambda p: _look_at_cache(p, doctor), list(reports.values())):
            reports[report.name] = report
    return replace(done, nodes=tuple(reports.values()))


def _look(node: NodeSpec, doctor: Doctor) -> NodeReport:
    disks = {"home": "~", "temporary": "/tmp"}
    if node.cache is not None:
        disks["cache"] = str(node.cache.path)
    if node.shared is not None:
        disks["shared"] = str(node.shared)
    disks |= {f"data {i}": str(root) for i, root in enumerate(node.data_roots)}
    before = time.time()
    try:
        answer = doctor.ask(node, {"do": "node", "disks": disks}, _NODE_S)
        after = time.time()
        probe = read_as(NodeProbe, answer)
    except Unanswered as reason:
        return NodeReport(node, why=str(reason), unanswered=reason.kind)
    finally:
        doctor.tell(node.name)
    clock_s = probe.system.clock_s
    return NodeReport(node, probe, ahead_s=(clock_s - after, clock_s - before))


@contextlib.contextmanager
def _shared_folder(first: NodeSpec | None, word: str, doctor: Doctor) -> Iterator[tuple[float | None, str]]:
    """The doctor's folder on the shared one, while the body runs; or None and why it could not be made."""
    if first is None:
        yield None, ""
        return
    request = {"share": share_folder(first, word), "word": word}
    try:
        made = doctor.ask(
            first,
            {"do": "make share", **request, "most_bytes": _SHARE_BYTES, "seconds": doctor.patience.share_s},
            timeout_s=60.0,
        )
    except Unanswered as reason:
        made, why = None, str(reason)
    try:
        yield (made["write"], "") if made else (None, why)
    finally:
        with contextlib.suppress(Unanswered):
            doctor.ask(first, {"do": "clear share", **request}, timeout_s=60.0)


def share_folder(node: NodeSpec, word: str) -> str:
    """Where the doctor works on the shared folder, as `node` sees it."""
    return str(Path(str(node.shared)) / f".vr-doctor-{word[:8]}")


@contextlib.contextmanager
def _listening(
    reports: Sequence[NodeReport],
    shared: set[str],
    sharing: Sequence[NodeSpec],
    word: str,
    doctor: Doctor,
    pool: ThreadPoolExecutor,
) -> Iterator[tuple[list[int], dict[str, str]]]:
    """Every node listens while the body runs. Gives the ports that may measure, and of deaf nodes the reason."""
    span = _LAST_EPHEMERAL - _FIRST_EPHEMERAL
    measuring = [_FIRST_EPHEMERAL + secrets.randbelow(span) for _ in range(3)]
    if len(reports) < 2:
        yield measuring, {}
        return
    listeners: dict[str, Future[Any]] = {}
    for report in reports:
        request = {
            "do": "listen",
            "address": report.spec.address,
            "word": word,
            "ports": needed_ports(doctor.ports, head=report.spec.role == "head"),
            "measuring": measuring,
            "seconds": _LISTEN_S * len(reports),
            "share": share_folder(report.spec, word) if report.name in shared else None,
            "hold": bool(sharing) and report.name == sharing[0].name,
        }
        listeners[report.name] = pool.submit(doctor.ask, report.spec, request, _LISTEN_S * len(reports) + 30.0)
    try:
        yield measuring, _await_listeners(reports, listeners, measuring, word, doctor)
    finally:
        stop = {"do": "stop", "word": word, "measuring": measuring}
        for report in reports:
            with contextlib.suppress(Unanswered):
                doctor.ask(report.spec, {**stop, "address": report.spec.address}, timeout_s=30.0)
        for listener in listeners.values():
            with contextlib.suppress(Unanswered):
                listener.result()


def _await_listeners(
    reports: Sequence[NodeReport],
    listeners: dict[str, Future[Any]],
    measuring: Sequence[int],
    word: str,
    doctor: Doctor,
) -> dict[str, str]:
    """The nodes whose listener does not answer even on the node itself, and why."""
    deaf = {}
    for report in reports:
        request = {"do": "await", "address": report.spec.address, "word": word, "measuring": list(measuring)}
        try:
            ready = doctor.ask(report.spec, {**request, "seconds": _READY_S}, _READY_S + 30.0)["ready"]
            why = "" if ready else "its listener did not start"
        except Unanswered as reason:
            why = str(reason)
        listener = listeners[report.name]
        if why and listener.done():
            why = str(listener.exception() or why)
        if why:
            deaf[report.name] = why
    return deaf


def _pairs(
    reports: Sequence[NodeReport],
    shared: set[str],
    measuring: Sequence[int],
    deaf: dict[str, str],
    word: str,
    doctor: Doctor,
    pool: ThreadPoolExecutor,
) -> tuple[dict[tuple[str, str], Link], dict[tuple[str, str], str]]:
    links: dict[tuple[str, str], Link] = {}
    missing: dict[tuple[str, str], str] = {}

    def measure(pair: tuple[NodeReport, NodeReport]) -> None:
        one, other = pair
        names = (one.name, other.name)
        interface = one.interface
        request = {
            "do": "link",
            "address": other.spec.address,
            "word": word,
            "ports": needed_ports(doctor.ports, head=other.spec.role == "head"),
            "measuring": list(measuring),
            "seconds": doctor.patience.rate_s,
            "mtu": interface.mtu if interface else 1500,
            # Pairs of one round measure at the same time: none may write a file of another.
            "changing": f"{share_folder(one.spec, word)}/changing-{'+'.join(names)}" if {*names} <= shared else None,
            "stale_timeout_s": doctor.patience.stale_s,
        }
        try:
            if other.name in deaf:
                raise Unanswered(deaf[other.name], "failed")
            links[names] = read_as(Link, doctor.ask(one.spec, request, timeout_s=120.0))
        except Unanswered as reason:
            missing[names] = str(reason)
        doctor.tell(" – ".join(names))

    for round_ in rounds(reports):
        list(pool.map(measure, round_))
    return links, missing


def rounds(players: Sequence[Any]) -> list[list[tuple[Any, Any]]]:
    """Every pair once, in rounds of pairs that have nobody in common (the circle method of tournaments)."""
    circle = [*players, None] if len(players) % 2 else list(players)
    result = []
    for _ in range(len(circle) - 1):
        pairs = [(circle[i], circle[-1 - i]) for i in range(len(circle) // 2)]
        # In the inventory's order, so that the head measures its links itself.
        ordered = [tuple(sorted(pair, key=players.index)) for pair in pairs if None not in pair]
        result.append([(one, other) for one, other in ordered])
        circle = [circle[0], circle[-1], *circle[1:-1]]
    return result


def needed_ports(ports: Ports, *, head: bool) -> list[int]:
    """What other nodes must reach on a node; of the workers' range its two ends."""
    own = {"dashboard", "client_server"}
    singles = [port for name, port in ports.singles(head=head).items() if name not in own]
    return [*singles, ports.worker_low, ports.worker_high]


def _look_at_share(report: NodeReport, word: str, held: bool, doctor: Doctor) -> NodeReport:
    request = {
        "do": "share",
        "share": share_folder(report.spec, word),
        "word": word,
        "node": report.name,
        "held": held,
        "seconds": doctor.patience.share_s,
    }
    try:
        answer = doctor.ask(report.spec, request, timeout_s=120.0)
        rates = None if answer["rates"] is None else read_as(Rates, answer["rates"])
        return replace(report, share=read_as(Share, answer["share"]), share_rates=rates)
    except Unanswered as reason:
        return replace(report, share_why=str(reason))
    finally:
        doctor.tell(f"shared folder on {report.name}")


def _look_at_cache(report: NodeReport, doctor: Doctor) -> NodeReport:
    if report.probe is None or report.spec.cache is None:
        return report
    folder, seconds = str(report.spec.cache.path), doctor.patience.disk_s
    request = {"do": "rates", "folder": folder, "most_bytes": _DISK_BYTES, "seconds": seconds}
    try:
        return replace(report, cache=read_as(Rates, doctor.ask(report.spec, request, timeout_s=120.0)))
    except Unanswered as reason:
        return replace(report, cache=Rates(folder, None, None, None, str(reason)))
    finally:
        doctor.tell(f"cache of {report.name}")
