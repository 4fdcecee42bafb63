"""What every benchmark is, and the circumstances that its numbers hold for."""

import datetime
import os
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil

ROOT = Path(__file__).parents[2]


class Benchmark(NamedTuple):
    """One entry of `python -m tests.bench`."""

    ratio: str
    """What is divided by what; higher is better."""
    measure: Callable[[bool], dict[str, Any]]
    """quick → `ratio` and all that it was computed from, as JSON values."""
    install: Callable[[], None] | None = None
    """Installs what is measured against, apart from the project's environment; again, it does nothing."""


def circumstances() -> dict[str, Any]:
    """Date, hardware and commit."""
    return {"date": datetime.date.today().isoformat(), "hardware": hardware(), "commit": commit()}


def hardware() -> str:
    """Such as "2 x Intel(R) Xeon(R) Processor @ 2.60GHz, 24 GiB, Linux 6.18.44"."""
    models = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    cores, memory_gib = len(os.sched_getaffinity(0)), round(psutil.virtual_memory().total / 2**30)
    return f"{cores} x {models[0] if models else platform.machine()}, {memory_gib} GiB, Linux {platform.release()}"


def commit() -> str:
    """Short commit of the tree under test, with "+" where files differ from it; empty outside a repository."""
    said = subprocess.run(
        ["git", "describe", "--always", "--abbrev=10", "--exclude=*", "--dirty=+"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    return said.stdout.strip()


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
