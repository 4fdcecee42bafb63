"""What tests on a real head share: waiting for what happens there."""

import time
from collections.abc import Callable

import pytest

from cluster.node.head import Head, state_folder
from jobs.queue.submit import job_states
from jobs.runs.folder import RunFolder

PATIENCE_S = 240


def wait_for(what: str, condition: Callable[[], object], head: Head, run: RunFolder | None = None) -> None:
    """Return once `condition` holds; else fail with what is known of the run, its jobs and the keeper."""
    end_s = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > end_s:
            log = (state_folder() / "keeper.log").read_text()
            state = run.state() if run else "no run"
            pytest.fail(f"{what}: not after {PATIENCE_S} s; {state}; jobs {job_states(head)}; keeper: {log}")
        time.sleep(0.1)
