"""From what was measured to findings: every check of the `checks_*` files in one order, the worst first. Pure."""

from collections.abc import Callable, Iterable, Iterator

from rich.table import Table

from cluster.doctor import checks_machine, checks_network, checks_software, checks_storage
from cluster.doctor.finding import SEVERITIES, Finding, fine, problem
from cluster.doctor.report import ClusterReport
from cluster.node.head import Head

CHECKS: tuple[Callable[[ClusterReport], Iterator[Finding]], ...] = (
    checks_machine.reached,
    checks_machine.address,
    checks_machine.kind,
    checks_machine.names,
    checks_machine.clock,
    checks_software.installed,
    checks_software.python,
    checks_software.versions,
    checks_software.driver,
    checks_software.cards,
    checks_network.ports,
    checks_network.links,
    checks_network.mtu,
    checks_storage.shared,
    checks_storage.rates,
    checks_machine.disks,
    checks_machine.limits,
    checks_machine.secrets,
)
_STYLES = {"blocks": "bold red", "warns": "yellow", "ok": "green"}


def findings(examination: ClusterReport, others: Iterable[Finding] = ()) -> list[Finding]:
    """All that is to be said, `others` with it: what blocks first, then what warns; else in the order of the checks."""
    found = [*(finding for check in CHECKS for finding in check(examination)), *others]
    return sorted(_merged(found), key=lambda finding: SEVERITIES.index(finding.severity))


def _merged(found: Iterable[Finding]) -> list[Finding]:
    """What is well in the same way on several nodes, as one finding."""
    merged: dict[tuple[str, ...], Finding] = {}
    for finding in found:
        # A pair of nodes, or a problem, stays by itself.
        alone = finding.severity != "ok" or len(finding.nodes) != 1
        key = (str(len(merged)),) if alone else (finding.check, finding.measured, finding.needed)
        nodes = merged[key].nodes + finding.nodes if key in merged else finding.nodes
        merged[key] = finding.model_copy(update={"nodes": nodes})
    return list(merged.values())


def head_finding(head: Head | None, trouble: str) -> Finding:
    """Of the head that runs on this machine: `trouble` is what is wrong with it."""
    needed = "it answers, or is not started yet"
    if trouble:
        return problem(
            "head", "blocks", [], trouble, needed, "vr cluster down, then vr cluster head; its logs say more"
        )
    if head is None:
        return fine("head", [], "none runs here: vr cluster head", needed)
    return fine("head", [head.node.name], f"answers at {head.gcs_address} and {head.dashboard_url}", needed)


def blocks(found: Iterable[Finding]) -> bool:
    """Whether anything keeps the cluster from working."""
    return any(finding.severity == "blocks" for finding in found)


def summary(found: Iterable[Finding]) -> str:
    """One line: how many of each."""
    counts = {severity: 0 for severity in SEVERITIES}
    for finding in found:
        counts[finding.severity] += 1
    return f"{counts['blocks']} block, {counts['warns']} warn, {counts['ok']} are fine."


def table(found: Iterable[Finding]) -> Table:
    """The findings for a terminal."""
    result = Table("", "check", "nodes", "measured", "needed, and what to do", box=None, pad_edge=False)
    for finding in found:
        style = _STYLES[finding.severity]
        said = finding.needed if not finding.remedy else f"{finding.needed}\n→ {finding.remedy}"
        result.add_row(
            f"[{style}]{finding.severity}[/]",
            *map(_text, (finding.check, " ".join(finding.nodes), finding.measured, said)),
        )
    return result


def _text(value: str) -> str:
    from rich.markup import escape

    return escape(value)
