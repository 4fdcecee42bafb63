"""The code of this checkout, as it is given to the other PCs: what belongs to it, a copy of it, and its digest."""

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cluster
from cluster.errors import ClusterError

PACKAGES = ("cluster", "dataprep", "jobs", "vr_core")
_BESIDE = ("pyproject.toml", "README.md", "LICENSE")
"""What building the package needs besides."""
MOST_BYTES = 256 * 2**20
_REMEDY = "give each node `python`, an environment that is there already"


class Sources(NamedTuple):
    """A copy of the code that nobody changes any more."""

    folder: Path
    files: int
    size_bytes: int
    digest: str
    """Of names, contents and executable flags: equal ones are the same code."""


def source_root() -> Path:
    """Folder that holds the packages which are running."""
    return Path(cluster.__path__[0]).resolve().parent


def stage(root: Path, folder: Path, most_bytes: int = MOST_BYTES) -> Sources:
    """Copy the code below `root` into the empty `folder`.

    A copy, since what is digested must be what is sent, also where somebody edits a file meanwhile.

    Raises:
        ClusterError: `root` is no source tree of ours, or holds more than `most_bytes`: something is wrong.
    """
    if not (root / "pyproject.toml").is_file():
        raise ClusterError(f"{root}: vr was installed without its sources, which the other PCs need; {_REMEDY}")
    names = list(_files(root))
    sizes = {name: (root / name).lstat().st_size for name in names}
    if sum(sizes.values()) > most_bytes:
        largest, all_mib = max(sizes, key=lambda name: sizes[name]), sum(sizes.values()) / 2**20
        raise ClusterError(
            f"{root}: {all_mib:.0f} MiB of files would be copied to each PC, {largest} the largest; "
            "name in .gitignore what is no code"
        )
    hashed = hashlib.sha256()
    for name in names:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, target)
        content = target.read_bytes()
        executable = bool(target.stat().st_mode & 0o100)
        hashed.update(f"{name}\0{len(content)}\0{executable}\0".encode())
        hashed.update(content)
    return Sources(folder, len(names), sum(sizes.values()), hashed.hexdigest())


def _files(root: Path) -> Iterator[str]:
    """Names below `root`, in order: the packages and what builds them; with git, of these what it tracks or would add.

    Nothing else: data sets and runs may lie in the checkout.
    """
    listed = _ask_git(root)
    if listed is not None:
        names = sorted({name for name in listed.split("\0") if name.split("/")[0] in (*PACKAGES, *_BESIDE)})
    else:
        found = [path for package in PACKAGES for path in (root / package).rglob("*")]
        kept = (path for path in found if path.suffix != ".pyc" and "__pycache__" not in path.parts)
        names = sorted([*(str(path.relative_to(root)) for path in kept), *_BESIDE])
    # What is deleted and not yet committed is still listed; a link to a folder is none of our code.
    yield from (name for name in names if (root / name).is_file())


def commit_of(root: Path) -> tuple[str | None, bool | None]:
    """Commit of the code below `root`, and whether that was changed since; None where it is no checkout."""
    if not _is_checkout(root):
        return None, None
    head, status = _git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain", "--", *PACKAGES)
    return head and head.strip(), None if status is None else bool(status)


def _ask_git(root: Path) -> str | None:
    """Names between NULs; None where `root` is not the top of a checkout, or there is no git."""
    return _git(root, "ls-files", "--cached", "--others", "--exclude-standard", "-z") if _is_checkout(root) else None


def _is_checkout(root: Path) -> bool:
    # An environment inside somebody's repository is not a checkout of ours: the top must be the root itself.
    top = _git(root, "rev-parse", "--show-toplevel")
    return top is not None and Path(top.rstrip("\n")).resolve() == root.resolve()


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
