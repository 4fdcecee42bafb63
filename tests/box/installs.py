"""uv and packages for a PC of a box, which has no way out: those of this machine."""

import os
import shutil
import sys
from pathlib import Path

from tests.lan import Host


def give_uv(host: Host) -> None:
    """Put uv on the PC, where its own installer puts it; packages come from this machine, as a box has no way out."""
    uv = os.environ.get("UV") or shutil.which("uv", path=f"{sys.base_prefix}/bin") or shutil.which("uv")
    assert uv, "no uv here"
    folder = host.home / ".local" / "bin"
    folder.mkdir(parents=True)
    shutil.copy(uv, folder / "uv")
    text = "".join(f"export {line}\n" for line in give_uv_cache())
    (host.home / ".bashrc").write_text(f"{text}unset PYTHONPATH\n")


def give_uv_cache() -> list[str]:
    """Variables with which uv takes what this machine has."""
    cache = os.environ.get("UV_CACHE_DIR") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "uv"
    # Links: the cache lies on another mount of the box, and its gigabytes would be copied.
    return [f"UV_CACHE_DIR={cache}", "UV_OFFLINE=1", "UV_LINK_MODE=symlink"]
