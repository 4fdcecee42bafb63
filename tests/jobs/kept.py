"""A run that is kept by a keeper beside a head without Ray, and its turns."""

import time
from pathlib import Path
from typing import Any

import pytest

from cluster.node.head import head_file, state_folder, write_member
from cluster.timings import Timings
from jobs.queue.keeper import Keeper
from jobs.queue.node_power import Memory
from jobs.queue.submit import submit_next
from jobs.queue.table import Ledger, Row
from jobs.runs.folder import RunFolder
from tests.jobs.drivers import dies, drives
from tests.jobs.job_api import WithoutRay, cluster_with, nearly_without_code

QUICK = Timings(submitting_s=0.01, first_retry_s=0.01, beat_s=0.01, driver_silent_s=0.02)
"""Everything that the keeper waits for is over at its next turn."""


def waits_long(cluster: WithoutRay, **waits: float) -> None:
    """Let the keeper wait for what it waits for by default."""
    timings = QUICK.model_copy(update=waits)
    write_member(head_file(), cluster.head.model_copy(update={"timings": timings}))


def keeper_of(ledger: Ledger, **changes: Any) -> Keeper:
    """A new keeper, whose nodes know already that none of them is drained."""
    keeper = Keeper(ledger, ledger.take_fence(), **changes)
    keeper.memory = Memory(published=frozenset())
    return keeper


class Kept:
    """A run that was submitted, and turns of its keeper."""

    def __init__(self, cluster: WithoutRay, run: RunFolder) -> None:
        self.api, self.run, self.ledger = cluster.api, run, Ledger(state_folder())
        self.keeper = keeper_of(self.ledger)
        submit_next(cluster.head, run)

    @property
    def complaints(self) -> dict[str, str]:
        return self.keeper.complaints.said

    def turn(self) -> None:
        time.sleep(0.05)  # what is over at the next turn by QUICK
        self.keeper.turn()

    def jobs(self) -> list[str]:
        return [job.removeprefix(f"{self.run.id}.") for job in self.api.jobs]

    def row(self) -> Row:
        row = self.ledger.row(self.run.id)
        assert row is not None
        return row

    def fails(self) -> None:
        """The driver of the newest job dies, as Ray notices."""
        drives(self.run)
        dies(self.run)
        self.api.becomes(f"{self.run.id}.a{self.run.newest_attempt()}", "FAILED")


def kept_with(timings: Timings) -> tuple[Any, Any, Any]:
    """Fixtures of a module: its `cluster`, a `run` with next to no code, and that run as it is `kept`."""

    @pytest.fixture
    def run(cluster: WithoutRay, tmp_path: Path) -> RunFolder:
        return nearly_without_code(tmp_path)

    @pytest.fixture
    def kept(cluster: WithoutRay, run: RunFolder) -> Kept:
        return Kept(cluster, run)

    return cluster_with(timings), run, kept
