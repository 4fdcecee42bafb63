"""Where a run comes from: the source tree, its git commit, the versions of what it stands on."""

import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NotRequired

from pydantic import ConfigDict, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from cluster.source_tree import PACKAGES, commit_of, source_root
from vr_core.config import Line
from vr_core.files import require_no_links
from vr_core.small_files import DamagedFile, read_json

_VERSIONS = ("vr", "ray", "torch", "torchaudio", "numpy", "pyarrow", "safetensors", "soxr", "av", "pydantic")


def copy_source(target: Path) -> None:
    """Copy the packages that are running to the folder `target`: code and recipes, nothing else.

    Raises:
        LinkRefused: `target` is a link.
    """
    require_no_links(target.parent, target)
    shutil.rmtree(target, ignore_errors=True)
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__", ".*", "*.md")
        shutil.copytree(source_root() / package, target / package, ignore=ignored)


def read_origin(root: Path | None = None) -> dict[str, Any]:
    """What `origin.json` starts with: commit, dirty flag, versions; `machines` is filled by each attempt.

    `root` holds the packages: those that are running, if no other is given.
    """
    commit, dirty = commit_of(root or source_root())
    return {
        "commit": commit,
        "dirty": dirty,
        "python": platform.python_version(),
        "versions": {name: found for name in _VERSIONS if (found := _version(name))},
        "machines": {},
    }


class Machine(TypedDict):
    """What a rank computes on, as `origin.json` and `machines-N.json` have it, besides what only people read."""

    host: Line
    labels: NotRequired[dict[str, Line]]
    device: NotRequired[Line]


_MACHINES = TypeAdapter(list[Machine], config=ConfigDict(extra="allow"))


def read_machines(file: Path) -> list[Machine]:
    """The machines of a start, in rank order, from the file that its rank 0 wrote.

    Raises:
        OSError: it cannot be read.
        DamagedFile: it does not say machines.
    """
    return _checked(read_json(file).get("machines"), file)


def read_kept_origin(file: Path) -> dict[str, Any]:
    """What `origin.json` says; its `machines` are start → machines in rank order.

    Raises:
        OSError: it cannot be read.
        DamagedFile: it is not as a run has it.
    """
    origin = read_json(file)
    starts = origin.get("machines")
    if not isinstance(starts, dict):
        raise DamagedFile(f"{file}: damaged (no machines)")
    return {**origin, "machines": {start: _checked(machines, file) for start, machines in starts.items()}}


def _checked(machines: object, file: Path) -> list[Machine]:
    try:
        return _MACHINES.validate_python(machines, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DamagedFile(f"{file}: damaged (machines {where}: {first['msg']})") from None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
