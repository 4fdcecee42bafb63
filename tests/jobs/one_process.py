"""Workers without Ray Train: one process takes the steps of a run, in the thread that the supervisor starts it in.

Each start of a run follows an act: a function of the `Start` that returns what `jobs.execution.worker.work` does on
rank 0, or raises. What workers write into the run's folder is written here as well.
"""

import json
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from jobs.execution.messages import words
from jobs.execution.placement import Placement
from jobs.execution.ray_train import Fits
from jobs.recipe import Recipe
from jobs.runs.folder import RunFolder
from vr_core.files import write_json

PATIENCE_S = 60.0


@dataclass
class Start:
    """One start of a run's workers."""

    run: RunFolder
    recipe: Recipe
    attempt: int
    number: int
    placement: Placement
    previous_hosts: frozenset[str]
    """Host names of PCs that have trained in the run before."""
    first_step: int
    """Of the checkpoint that it goes on from."""
    ended: threading.Event = field(default_factory=threading.Event)
    """The supervisor ends the workers."""

    def announce(self, *names: str) -> None:
        """As rank 0 once every rank is there: a worker on each of the machines."""
        machines = [
            {"rank": rank, "host": name, "labels": {"vr/node": name}, "device": "cpu"}
            for rank, name in enumerate(names)
        ]
        folder = self.run.attempt_folder(self.attempt)
        write_json(folder / f"machines-{self.number}.json", {"machines": machines})

    def train(self, until: int) -> None:
        """Steps, each with a checkpoint, up to step `until`.

        Raises:
            Leaves: the run's folder says so.
        """
        for step in range(self.run.last_step() + 1, until + 1):
            self.obey()
            save(self.run, step)

    def obey(self) -> None:
        """What the loop does before each step."""
        if self.run.stop_file.exists():
            raise Leaves("stopped")
        if self.run.leave_file.exists():
            raise Leaves("left")

    def wait_for(self, condition: Callable[[], object]) -> None:
        """Until it holds; one that is ended meanwhile raises as Ray Train does."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not condition():
            if self.ended.wait(0.01):
                raise RuntimeError("the controller died")
            assert time.monotonic() < deadline_s, "nothing came of it in a minute"


Act = Callable[[Start], dict[str, Any]]


class OneProcess:
    """Starts that follow `acts` in turn, the last of them again and again."""

    def __init__(self, *acts: Act) -> None:
        self.starts: list[Start] = []
        """Those that have been made."""
        self.ended: list[int] = []
        """Numbers of those that the supervisor has ended."""
        self.fits = Fits(self._start, self._end)
        self._acts = acts

    def _start(
        self, run: RunFolder, recipe: Recipe, attempt: int, number: int, placement: Placement, loop: str,
        previous_hosts: Collection[str],
    ) -> dict[str, Any]:  # fmt: skip
        start = Start(run, recipe, attempt, number, placement, frozenset(previous_hosts), run.last_step())
        self.starts.append(start)
        try:
            return self._acts[min(len(self.starts), len(self._acts)) - 1](start)
        except Leaves as leaves:
            return {"ended": leaves.how}
        except Unsaid:
            raise
        except Exception as error:
            write_json(run.attempt_folder(attempt) / f"error-{number}-rank-0.json", words(error, 0))
            raise

    def _end(self) -> None:
        self.ended.append(self.starts[-1].number)
        self.starts[-1].ended.set()

    def end_all(self) -> None:
        """Let go of every thread that still hangs."""
        for start in self.starts:
            start.ended.set()


class Leaves(Exception):
    """Somebody has asked the run to stop, or to leave its machines."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how


class Unsaid(RuntimeError):
    """What Ray Train raises for workers that could say nothing."""

    def __init__(self, text: str, silent: Collection[int] = (), cause: BaseException | None = None) -> None:
        super().__init__(text)
        self.worker_failures = {rank: RuntimeError("The actor died unexpectedly") for rank in silent}
        self.controller_failure = cause


def finishes(start: Start) -> dict[str, Any]:
    """Train to the end."""
    start.announce(*(start.placement.names or ("here",)))
    start.train(start.recipe.steps)
    return {"ended": "finished"}


def fails(error: Exception, after: int = 0) -> Act:
    """Train until step `after` and raise."""

    def act(start: Start) -> dict[str, Any]:
        start.announce(*(start.placement.names or ("here",)))
        start.train(after)
        raise error

    return act


def hangs(start: Start) -> dict[str, Any]:
    """All workers are there, and no step is taken."""
    start.announce(*(start.placement.names or ("here",)))
    start.wait_for(lambda: False)
    return {}


def waits(start: Start) -> dict[str, Any]:
    """Train as slowly as it takes for the run to be stopped, or asked to leave."""
    start.announce(*(start.placement.names or ("here",)))
    start.wait_for(lambda: start.run.stop_file.exists() or start.run.leave_file.exists())
    start.obey()
    return {}


def save(run: RunFolder, step: int) -> None:
    """A checkpoint and a line of metrics."""
    target = run.checkpoints / f"step-{step:08d}"
    target.mkdir(parents=True)
    (target / "weights.safetensors").write_bytes(b"")
    write_json(target / "checkpoint.json", {"step": step})
    (run.checkpoints / "last").write_text(target.name)
    with run.metrics_file.open("a") as file:
        file.write(json.dumps({"kind": "step", "step": step, "loss": 1.0}) + "\n")
