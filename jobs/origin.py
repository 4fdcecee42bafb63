"""Where a run comes from: the source tree, its git commit, the versions of what it stands on."""

import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("cluster", "dataprep", "jobs", "vr_core")
_VERSIONS = ("vr", "ray", "torch", "torchaudio", "numpy", "pyarrow", "safetensors", "soxr", "av", "pydantic")


def source_root() -> Path:
    """Folder that holds the four packages which are running."""
    return Path(__file__).resolve().parent.parent


def copy_source(target: Path) -> None:
    """Copy the packages that are running to the folder `target`: code and recipes, nothing else."""
    shutil.rmtree(target, ignore_errors=True)
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__", ".*", "*.md")
        shutil.copytree(source_root() / package, target / package, ignore=ignored)


def read_origin() -> dict[str, Any]:
    """What `origin.json` starts with: commit, dirty flag, versions; `machines` is filled by each attempt."""
    commit, dirty = _git(source_root())
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


def _git(root: Path) -> tuple[str | None, bool | None]:
    """Commit and dirty flag of the tree; None where the code is not a checkout (installed, or without git)."""

    def ask(*argv: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(root), *argv], capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # An environment inside somebody's repository is not a checkout of ours: the top must be the root itself.
    top = ask("rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root:
        return None, None
    status = ask("status", "--porcelain", "--", *PACKAGES)
    return ask("rev-parse", "HEAD"), None if status is None else bool(status)
