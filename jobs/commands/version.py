"""`vr --version`: what a bug report needs to know of the software here, without importing torch or Ray."""

import ast
import importlib.util
import json
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

import typer

GPUS_WITHIN_S = 5.0
"""A driver that sleeps answers within a second or two; one that hangs is not waited for."""
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Gpu:
    """One graphics card."""

    model: str
    memory_gib: float


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
    """The version that torch was built with; "none" for a build without CUDA."""
    gpus: tuple[Gpu, ...] | None
    gpus_unknown_why: str | None
    ray: str | None
    system: str
    """Distribution, kernel and processor."""

    def block(self) -> str:
        """A line for each fact, to paste into a bug report."""
        changes = " + changes" if self.changed else ""
        cards = ", ".join(f"{gpu.model} {gpu.memory_gib:g} GiB" for gpu in self.gpus or ()) or "none"
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
    typer.echo(json.dumps(asdict(found)) if as_json else found.block())


def read_software() -> Software:
    """What runs here, from the metadata of packages, git, and the NVIDIA driver."""
    from cluster.errors import ClusterFailure
    from cluster.facts import find_gpus
    from jobs.runs.provenance import read_origin

    origin = read_origin()
    versions = origin["versions"]
    gpus, why = None, None
    try:
        gpus = tuple(Gpu(gpu.model, gpu.memory_gib) for gpu in find_gpus(GPUS_WITHIN_S))
    except (ClusterFailure, OSError) as error:
        why = str(error)
    return Software(
        vr=versions.get("vr"),
        commit=origin["commit"],
        changed=origin["dirty"],
        python=origin["python"],
        torch=versions.get("torch"),
        cuda=_cuda_of_torch(),
        gpus=gpus,
        gpus_unknown_why=why,
        ray=versions.get("ray"),
        system=_system(),
    )


def _cuda_of_torch() -> str | None:
    spec = importlib.util.find_spec("torch")  # finds the package, and does not import it
    for folder in (spec and spec.submodule_search_locations) or ():
        try:
            return cuda_in((Path(folder) / "version.py").read_text(encoding="utf-8"))
        except (OSError, ValueError, SyntaxError):
            continue
    return None


def cuda_in(version_py: str) -> str | None:
    """The CUDA version that the text of `torch/version.py` names: "none" for a build without, None if it names none.

    Raises:
        SyntaxError, ValueError: it is no Python.
    """
    for node in ast.parse(version_py).body:
        match node:
            case (
                ast.AnnAssign(target=ast.Name(id="cuda"), value=ast.Constant(value=value))
                | ast.Assign(targets=[ast.Name(id="cuda")], value=ast.Constant(value=value))
            ):
                return str(value) if value else "none"
    return None


def _system() -> str:
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        name = "unknown distribution"
    return f"{name}, {platform.system()} {platform.release()}, {platform.machine()}"
