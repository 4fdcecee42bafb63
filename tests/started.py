"""Processes that tests have started, at any depth and by any detour: known by a mark in their environment."""

import contextlib
import os
from collections.abc import Iterator

import psutil

MARK = "VR_TEST_SESSION"
"""Environment variable that every process started by a test process inherits; its value is that process's own."""


def marked(process: psutil.Process, mark: str) -> bool:
    """Whether the test process whose mark is `mark` started it."""
    return process.pid != os.getpid() and process.environ().get(MARK) == mark


def started_here() -> Iterator[psutil.Process]:
    """Living processes that this test process has started."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and marked(process, os.environ[MARK]):
                yield process
