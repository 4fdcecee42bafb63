"""`vr --version`: what a bug report needs to know of the software here, without importing torch or Ray."""

import json
import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from cluster.inventory import GpuSpec

GPUS_WITHIN_S = 5.0
"""A driver that sleeps answers within a second or two; one that hangs is not waited for."""
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Software:
    """What runs here; None where it is not installed or cannot be known."""

    vr: str | None
    commit: str | None
    """Git commit of the checkout; None where it is no checkout."""
    changed: bool | None
    """Whether the code was changed since that commit."""
    python: str
    torch: str | None
    cuda: str | None
    """The release that torch was built with; "none" for a build without CUDA."""
    gpus: "tuple[GpuSpec, ...] | None"
    gpus_unknown_why: str | None
    ray: str | None
    system: str
    """Distribution, kernel and processor."""

    def block(self) -> str:
        """A line for each fact, to paste into a bug report."""
        changes = " + changes" if self.changed else ""
        cards = ", ".join(gpu.text for gpu in self.gpus or ()) or "none"
        lines = {
            "vr": self.vr,
            "commit": self.commit and self.commit + changes,
            "Python": self.python,
            "torch": self.torch,
            "CUDA": self.cuda,
            "GPUs": cards if self.gpus is not None else f"{UNKNOWN} ({self.gpus_unknown_why})",
            "Ray": self.ray,
            "system": self.system,
        }
        return "\n".join(f"{name:<8}{value or UNKNOWN}" for name, value in lines.items())


def show_version(as_json: bool) -> None:
    """Print the block, or the same as one JSON object."""
    found = read_software()
    if not as_json:
        return typer.echo(found.block())
    gpus = found.gpus and [{"model": gpu.model, "memory_gib": gpu.memory_gib} for gpu in found.gpus]
    return typer.echo(json.dumps({**vars(found), "gpus": gpus}))


def read_software() -> Software:
    """What runs here, from the metadata of packages, git, and the NVIDIA driver."""
    from cluster.errors import ClusterFailure
    from cluster.facts import find_gpus
    from cluster.probe import machine
    from cluster.source_tree import commit_of, source_root

    installed = machine.read_software()
    commit, changed = commit_of(source_root())
    gpus, why = None, None
    try:
        gpus = tuple(find_gpus(GPUS_WITHIN_S))
    except (ClusterFailure, OSError) as error:
        why = str(error)
    return Software(
        vr=installed.vr,
        commit=commit,
        changed=changed,
        python=installed.python,
        torch=installed.torch,
        cuda=installed.torch_cuda or (installed.torch and "none"),
        gpus=gpus,
        gpus_unknown_why=why,
        ray=installed.ray,
        system=_system(),
    )


def _system() -> str:
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        name = "unknown distribution"
    return f"{name}, {platform.system()} {platform.release()}, {platform.machine()}"
