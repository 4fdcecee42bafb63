"""Environments of what we are measured against, apart from the project's own."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import NamedTuple

RELEASED_BEFORE = "2026-11-15T00:00:00Z"
"""As `exclude-newer` in pyproject.toml: the same versions wherever the benchmark runs."""


class Environment(NamedTuple):
    """Packages of their own, and torch and the like from the project's environment."""

    name: str
    packages: tuple[str, ...]
    dependencies: bool = True
    """Whether what they depend on is installed too, but for torch: another one would be some gigabytes more."""

    def python(self) -> Path:
        """Its interpreter."""
        return self._folder() / "bin" / "python"

    def install(self) -> None:
        """Make the environment, once."""
        folder = self._folder()
        done = folder / "installed"
        if done.exists():
            return
        uv = os.environ.get("UV") or shutil.which("uv") or shutil.which("uv", path=f"{sys.base_prefix}/bin")
        assert uv, "uv is not on the path"
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, folder], check=True)
        argv = [uv, "pip", "install", "--quiet", "--python", self.python(), "--exclude-newer", RELEASED_BEFORE]
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as without:
            without.write("torch; sys_platform == 'none'\n")
            without.flush()
            limits = ["--override", without.name] if self.dependencies else ["--no-deps"]
            subprocess.run([*argv, *limits, *self.packages], check=True)
        (site,) = folder.glob("lib/python*/site-packages")
        (site / "project.pth").write_text(sysconfig.get_path("purelib") + "\n")
        done.touch()

    def versions(self) -> dict[str, str]:
        """Of the packages that are installed there."""
        names = [re.split("[=<>]", package)[0] for package in self.packages]
        code = "import importlib.metadata as m, sys; print(*map(m.version, sys.argv[1:]))"
        said = subprocess.run([self.python(), "-c", code, *names], check=True, capture_output=True, text=True).stdout
        return dict(zip(names, said.split(), strict=True))

    def _folder(self) -> Path:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return cache / "vr-bench" / f"{self.name}-{sys.version_info.major}.{sys.version_info.minor}"


LOADERS = Environment("peers", ("litdata", "mosaicml-streaming", "datasets", "webdataset"))
"""Libraries that our reader is measured against."""
