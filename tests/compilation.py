"""torch's compiler for CPUs, for tests and benchmarks: what it needs of a machine, and a compiler of their own."""

import contextlib
import logging
import os
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest

from tests.needs import lacking


def missing() -> list[str]:
    """What torch's compiler needs and this machine has not, each with the Debian package that has it."""
    compiler, header = os.environ.get("CXX", "g++"), Path(sysconfig.get_path("include"), "Python.h")
    return [f"{compiler} (apt install g++)"] * (shutil.which(compiler) is None) + [
        f"{header} (apt install python3-dev)"
    ] * (not header.exists())


def require() -> None:
    """Skip the test where something is missing, and fail it in CI."""
    if parts := missing():
        lacking(f"torch.compile needs {' and '.join(parts)}")


@contextlib.contextmanager
def compiler(cache: Path) -> Iterator[None]:
    """torch's compiler with nothing compiled so far: its files are below `cache`, and it starts no pool of processes.

    Shapes are not checked meanwhile: beartype's checks are not for it to compile.
    """
    import torch._inductor.config  # takes seconds, which only those who compile pay

    checked = jaxtyping.config.jaxtyping_disable
    with pytest.MonkeyPatch.context() as patch, torch._inductor.config.patch(compile_threads=1):
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(cache))
        patch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
        # Each line of it is one more in the report of a test that fails.
        patch.setattr(logging.getLogger("torch.__trace"), "propagate", False)
        jaxtyping.config.update("jaxtyping_disable", True)
        torch.compiler.reset()
        try:
            yield
        finally:
            torch.compiler.reset()
            jaxtyping.config.update("jaxtyping_disable", checked)
