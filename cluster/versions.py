"""What must be the same on all PCs of a cluster: this project, Python's minor version, Ray."""

import platform
import sys
from importlib.metadata import version

from cluster.inventory import label_value
from vr_core.config import Spec


class Versions(Spec):
    """The software of one PC."""

    vr: str
    ray: str
    python: str
    """Minor version, such as 3.11."""
    commit: str | None = None
    """Git commit of the project; None where it is no checkout."""


def own_versions(commit: str | None = None) -> Versions:
    """The versions that run here; `commit` is known to whoever knows where the sources are."""
    return Versions(
        vr=version("vr"),
        ray=version("ray"),
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        commit=commit,
    )


def labels(versions: Versions, link_mbit: int | None) -> dict[str, str]:
    """What a node says of itself besides what it offers: Ray labels, since Ray tells them to whoever asks.

    They are of the moment at which its Ray was started, and no part of what is compared when a start is repeated.
    """
    said = {
        "vr/version": versions.vr,
        "vr/commit": versions.commit and versions.commit[:12],
        "vr/python": platform.python_version(),
        "vr/link-mbit": link_mbit and str(link_mbit),
    }
    return {key: label_value(value) for key, value in said.items() if value}


def difference(head: Versions, ours: Versions) -> str | None:
    """Why a PC with `ours` cannot join a head with `head`, and what to type on it; None where it can."""
    if head.python != ours.python:
        what, remedy = f"Python {ours.python}, the head {head.python}", f"uv sync --python {head.python}"
    elif head.commit and ours.commit and head.commit != ours.commit:
        what = f"commit {ours.commit[:12]} of this project, the head {head.commit[:12]}"
        remedy = f"git fetch && git checkout {head.commit[:12]} && uv sync"
    elif head.vr != ours.vr:
        what, remedy = f"vr {ours.vr}, the head {head.vr}", "git pull && uv sync"
    elif head.ray != ours.ray:
        what, remedy = f"Ray {ours.ray}, the head {head.ray}", f"uv sync, or uv pip install ray=={head.ray}"
    else:
        return None
    return f"this PC has {what}; type on it: {remedy}"
