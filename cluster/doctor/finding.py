"""What the doctor says: one finding of one check."""

from collections.abc import Iterable
from typing import Literal

from vr_core.config import Spec

Severity = Literal["blocks", "warns", "ok"]
Trouble = Literal["blocks", "warns"]
SEVERITIES: tuple[Severity, ...] = ("blocks", "warns", "ok")


class Finding(Spec):
    """One thing that was measured, what it should be, and what to do."""

    check: str
    nodes: tuple[str, ...]
    severity: Severity
    """`blocks`: the cluster, or runs on these nodes, will not work; `warns`: they work worse, or one day not."""
    measured: str
    needed: str
    remedy: str = ""
    """What to type or to do; empty where all is well."""


def fine(check: str, nodes: Iterable[str], measured: str, needed: str) -> Finding:
    """All is well."""
    return Finding(check=check, nodes=tuple(nodes), severity="ok", measured=measured, needed=needed)


def problem(check: str, severity: Trouble, nodes: Iterable[str], measured: str, needed: str, remedy: str) -> Finding:
    """Something is not as it should be."""
    return Finding(check=check, nodes=tuple(nodes), severity=severity, measured=measured, needed=needed, remedy=remedy)


def size(count: float) -> str:
    """Bytes for a person: "1.5 GB"."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count / 1e3:.3g} kB" if count >= 1e3 else f"{count:.0f} B"
