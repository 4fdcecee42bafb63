"""What every test shares: few threads, a private state folder, and nothing left running at the end."""

import contextlib
import os
import shutil
import signal
import tempfile
import time
import uuid

import psutil
import pytest
from hypothesis import settings

from tests.needs import require_root
from tests.started import MARK, started_here

pytest_plugins = ["pytester", "tests.costs", "tests.loopback", "tests.standing", "tests.tiers"]

# Two cores are shared by many small computations: threads cost more than they bring. Set here and not in
# `pytest_configure`, before which another conftest is read, and may import torch.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[name] = "1"

settings.register_profile("vr", deadline=None, max_examples=25)
settings.load_profile("vr")

NO_GPU = "no NVIDIA GPU here: torch.cuda.is_available() is false"

ENDING_S = 15.0
"""Processes that are on their way out at the end of the session get this long."""


def pytest_configure(config: pytest.Config) -> None:
    """Set this process's environment before any test module, and with it torch or ray, is imported."""
    # The first as `vr` itself sets it; with the second nothing is reported to Ray's makers.
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    # Ray reads it once, when it is first imported, which may be in a test that starts no cluster.
    os.environ["RAY_AUTH_MODE"] = "token"
    # A shell's background jobs ignore Ctrl-C and those of nohup a closed terminal, as would what tests interrupt.
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Each process that runs tests has a mark of its own: it looks after what it has started.
    os.environ[MARK] = uuid.uuid4().hex
    os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="vr-tests-state-")
    config.add_cleanup(lambda: shutil.rmtree(os.environ["XDG_STATE_HOME"], ignore_errors=True))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs an NVIDIA GPU where there is none; torch is imported only if something asks for one."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked:
        import torch

        if not torch.cuda.is_available():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=NO_GPU))


@pytest.fixture(scope="session")
def root() -> None:
    """As `require_root`."""
    require_root()


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left_running():
    """Fail if a process started by a test still lives at the end; say which, and end it."""
    yield
    deadline = time.monotonic() + ENDING_S
    while (left := list(started_here())) and time.monotonic() < deadline:
        psutil.wait_procs(left, timeout=0.2)
    lines = []
    for process in left:
        with contextlib.suppress(psutil.Error):
            lines.append(f"  {process.pid} {' '.join(process.cmdline())[:200]}")
            process.kill()
    assert not lines, "left running at the end of the tests:\n" + "\n".join(lines)
