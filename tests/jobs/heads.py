"""What tests on a real head share: starting it on a busy machine, and waiting for what happens there."""

import contextlib
import time
from collections.abc import Callable
from typing import TypeVar

import pytest

from cluster.errors import ClusterFailure
from cluster.head import Head, state_folder
from jobs.runs import RunFolder
from jobs.submit import job_states

PATIENCE_S = 240
Started = TypeVar("Started")


def until_up(act: Callable[[], Started]) -> Started:
    """Ray gives a node 30 s to register, whatever it is told; a busy machine needs another try."""
    for _ in range(4):
        with contextlib.suppress(ClusterFailure):
            return act()
    return act()


def wait_for(what: str, condition: Callable[[], object], head: Head, run: RunFolder | None = None) -> None:
    """Return once `condition` holds; else fail with what is known of the run, its jobs and the keeper."""
    end_s = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > end_s:
            log = (state_folder() / "keeper.log").read_text()
            state = run.state() if run else "no run"
            pytest.fail(f"{what}: not after {PATIENCE_S} s; {state}; jobs {job_states(head)}; keeper: {log}")
        time.sleep(0.1)
