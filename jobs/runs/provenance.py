"""Where a run comes from: the source tree, its git commit, the versions of what it stands on."""

import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cluster.source_tree import PACKAGES, commit_of, source_root

_VERSIONS = ("vr", "ray", "torch", "torchaudio", "numpy", "pyarrow", "safetensors", "soxr", "av", "pydantic")


def copy_source(target: Path) -> None:
    """Copy the packages that are running to the folder `target`: code and recipes, nothing else."""
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


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
