"""An attempt of a small run, carried by a supervisor with workers that one process stands in for."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.timings import Timings
from jobs.execution.membership import ClusterView
from jobs.execution.placement import Node
from jobs.execution.supervisor import Supervisor
from jobs.recipe import Recipe
from jobs.runs.creation import create_run
from jobs.runs.folder import RunFolder
from jobs.runs.state import RunState
from jobs.runs.state_writer import read_events
from tests.jobs.one_process import Act, OneProcess, Start
from tests.jobs.ports import listening
from vr_core.config import plain, validate

STEPS = 6


QUICK = Timings(
    beat_s=0.02, first_retry_s=0.05, longest_retry_s=60, join_after_s=0.02, rest_s=0.02, storage_again_s=0.02,
    ask_every_s=0.05, silent_s=30,
)  # fmt: skip
"""What a test waits for is short; what ends something too early on a busy machine is long."""


def quick(**waits: float) -> Timings:
    return QUICK.model_copy(update=waits)


def pc(name: str, port: int = 0, cpus: int = 4, gpus: int = 0) -> Node:
    return Node(name, {"vr/node": name}, cpus, gpus, f"id-{name}", "127.0.0.1", port)


HERE = pc("here")


class Attempt:
    """The next attempt of `run`, carried with workers that follow `acts`."""

    def __init__(self, run: RunFolder, *acts: Act, timings: Timings = QUICK, shared: bool = True, **wish: Any) -> None:
        self.run, self.nodes = run, [HERE]
        self.shown: list[RunState] = []
        self.on_state: Callable[[RunState], None] = lambda state: None
        self.workers = OneProcess(*acts)
        recipe = validate(Recipe, {**plain(run.recipe()), **wish}, "test")
        self.supervisor = Supervisor(
            run, recipe, run.begin_attempt(), loop="", can_wait=shared, watch=self._watch, timings=timings,
            fits=self.workers.fits, view=ClusterView(lambda: list(self.nodes), lambda: self.nodes[0].id),
        )  # fmt: skip

    def _watch(self, state: RunState) -> None:
        self.shown.append(state)
        self.on_state(state)

    def supervise(self) -> RunState:
        try:
            return self.supervisor.supervise()
        finally:
            self.workers.end_all()

    @property
    def starts(self) -> list[Start]:
        return self.workers.starts

    @property
    def said(self) -> list[str]:
        return [event["said"] for event in read_events(self.run)]


def of_a_line() -> tuple[Any, Any]:
    """Fixtures of a module: a `run` that nobody has begun, and the `port` of a PC's raylet that takes connections."""

    @pytest.fixture
    def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))  # who is drained
        (tmp_path / "data").mkdir()
        return create_run(Recipe(name="line", data=tmp_path / "data", out=tmp_path / "runs", steps=STEPS))

    @pytest.fixture
    def port() -> Iterator[int]:
        with listening() as (port, _):
            yield port

    return run, port
