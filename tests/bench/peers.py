"""The environment of the libraries that our reader is measured against, apart from the project's own."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

PACKAGES = ("litdata", "mosaicml-streaming", "datasets", "webdataset")
RELEASED_BEFORE = "2026-11-15T00:00:00Z"
"""As `exclude-newer` in pyproject.toml: the same versions wherever the benchmark runs."""


def python() -> Path:
    """Its interpreter."""
    return _folder() / "bin" / "python"


def install() -> None:
    """Make the environment, once. Torch is the project's own: another one would be some gigabytes more."""
    done = _folder() / "installed"
    if done.exists():
        return
    uv = os.environ.get("UV") or shutil.which("uv") or shutil.which("uv", path=f"{sys.base_prefix}/bin")
    assert uv, "uv is not on the path"
    subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, _folder()], check=True)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as without:
        without.write("torch; sys_platform == 'none'\n")
        without.flush()
        argv = [uv, "pip", "install", "--quiet", "--python", python(), "--exclude-newer", RELEASED_BEFORE]
        subprocess.run([*argv, "--override", without.name, *PACKAGES], check=True)
    (site,) = _folder().glob("lib/python*/site-packages")
    (site / "project.pth").write_text(sysconfig.get_path("purelib") + "\n")
    done.touch()


def versions() -> dict[str, str]:
    """Of the packages that are installed there."""
    code = "import importlib.metadata as m, sys; print(*map(m.version, sys.argv[1:]))"
    said = subprocess.run([python(), "-c", code, *PACKAGES], check=True, capture_output=True, text=True).stdout
    return dict(zip(PACKAGES, said.split(), strict=True))


def _folder() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "vr-bench" / f"peers-{sys.version_info.major}.{sys.version_info.minor}"
