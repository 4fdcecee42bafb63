"""What the doctor has measured: `cluster.doctor.examination` fills it in, `cluster.doctor.diagnosis` judges it."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from cluster.inventory import NodeSpec
from cluster.node.ray_start import Ports
from cluster.probe.readings import Interface, Link, NodeProbe, Rates, Share
from cluster.remote.probe_call import UnansweredKind


@dataclass(frozen=True)
class NodeReport:
    """One node with all that was measured on it. None: not measured."""

    spec: NodeSpec
    probe: NodeProbe | None = None
    why: str = ""
    """Why the node gave no answer at all, for people."""
    unanswered: UnansweredKind | None = None
    """The same, by its kind."""
    ahead_s: tuple[float, float] | None = None
    """Its clock is ahead of the asking machine's by something between these two."""
    cache: Rates | None = None
    share: Share | None = None
    share_rates: Rates | None = None
    share_why: str = ""
    """Why its shared folder could not be looked at."""

    @property
    def name(self) -> str:
        """As the inventory calls it."""
        return self.spec.name

    @property
    def interface(self) -> Interface | None:
        """Its network card that carries the inventory's address."""
        cards = self.probe.interfaces if self.probe else ()
        loopback = self.spec.address.startswith("127.")
        return next((c for c in cards if self.spec.address in c.addresses or loopback and c.name == "lo"), None)


@dataclass(frozen=True)
class ClusterReport:
    """All that the doctor knows."""

    nodes: tuple[NodeReport, ...]
    links: dict[tuple[str, str], Link] = field(default_factory=dict)
    """(measuring node, other node) → link; one of each pair of nodes that answered."""
    links_why: dict[tuple[str, str], str] = field(default_factory=dict)
    """Pairs whose link was not measured."""
    share_write: float | None = None
    """Bytes a second that the first node wrote to the shared folder."""
    ports: Ports = Ports()

    @property
    def answered(self) -> tuple[NodeReport, ...]:
        """The nodes that gave an answer."""
        return tuple(report for report in self.nodes if report.probe is not None)

    @property
    def head(self) -> NodeReport:
        """The node with `role: head`."""
        return next(report for report in self.nodes if report.spec.role == "head")

    @property
    def probed(self) -> Iterator[tuple[NodeReport, NodeProbe]]:
        """The nodes that gave an answer, with it."""
        return ((report, report.probe) for report in self.nodes if report.probe is not None)

    @property
    def sharing(self) -> list[NodeReport]:
        """The nodes that have the shared folder; the head, where runs are submitted, writes to it first."""
        sharing = [report for report in self.answered if report.spec.shared is not None]
        return sorted(sharing, key=lambda report: report.spec.role != "head")

    @property
    def first_sharing(self) -> NodeReport | None:
        """The node that writes to the shared folder first."""
        return next(iter(self.sharing), None)
