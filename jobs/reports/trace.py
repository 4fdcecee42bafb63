"""What the machines of a run did in a step: who computed for how long, who waited, what the exchange cost; a picture.

All from the run's folder: the steps in metrics.jsonl carry each worker's share and busy time, events.jsonl and
origin.json say which machines a start had.
"""

import itertools
import re
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.errors import NoSteps
from jobs.execution.placement import machine_name
from jobs.runs.folder import RunFolder
from jobs.runs.metrics import read_newest_metrics
from jobs.runs.provenance import read_kept_origin
from jobs.runs.state_writer import read_events
from vr_core.errors import StorageError
from vr_core.files import whole_file
from vr_core.small_files import DamagedFile

STEPS = 8
"""Of which a timeline is the median: one step alone may be the one in which a browser opened."""
_OLD_READY = re.compile(r"start (\d+\.\d+): all workers are there")
"""What the supervisor said before events had a kind."""


@dataclass(frozen=True)
class Bar:
    """One worker in a step."""

    machine: str
    items: int
    busy_s: float
    """Until its own gradients were complete: optimiser of the step before, reading, forward, backward."""


@dataclass(frozen=True)
class Timeline:
    """A step of all workers, the median of some in a row with the same shares."""

    run: str
    first_step: int
    last_step: int
    bars: tuple[Bar, ...]
    step_s: float
    items: int
    """Of the step: what the workers have together, or, before DiLoCo's local steps, what each of them has."""

    @property
    def exchange_s(self) -> float:
        """What of the step remains when the last worker is done: the exchange that nothing hides."""
        return self.step_s - max(bar.busy_s for bar in self.bars)

    @property
    def items_per_s(self) -> float:
        """Of all workers together."""
        return self.items / self.step_s

    @property
    def reached(self) -> float:
        """Items a second over the sum of what each worker computes a second while it is busy."""
        return self.items_per_s / sum(bar.items / bar.busy_s for bar in self.bars)

    def plain(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {
            "run": self.run,
            "first_step": self.first_step,
            "last_step": self.last_step,
            "step_s": self.step_s,
            "exchange_s": self.exchange_s,
            "items_per_s": self.items_per_s,
            "reached": self.reached,
            "workers": [
                {"machine": b.machine, "items": b.items, "busy_s": b.busy_s, "waits_s": self.step_s - b.busy_s}
                for b in self.bars
            ],
        }


def timelines(run: RunFolder) -> list[Timeline]:
    """The steps under the first shares of the newest start, and under its last ones; one where they never changed.

    Raises:
        NoSteps: the run has not got so far.
    """
    starts = machines_of_starts(run)
    names = starts[-1] if starts else []
    # By file and number of workers, not by date: the PCs' clocks differ, and may be set.
    timed = (record for record in read_newest_metrics(run) if record["kind"] == "step" and "busy_s" in record)
    steps = (record for record in timed if not names or len(record["busy_s"]) == len(names))
    # A long run has more of them than fit in memory: kept are the first ones, and of each shares the newest.
    early: list[dict[str, Any]] = []
    newest: dict[tuple[int, ...], deque[dict[str, Any]]] = {}
    count, shares = 0, ()
    for step in itertools.islice(steps, 2, None):  # the first steps of a start fill caches
        count, shares = count + 1, tuple(step["shares"])
        if len(early) < STEPS and (not early or early[0]["shares"] == step["shares"]):
            early.append(step)
        newest.setdefault(shares, deque(maxlen=STEPS)).append(step)
    if count < 2:
        raise NoSteps(f"run {run.id}: its newest start has too few steps to draw; wait for some more")
    late = [*newest[shares]]
    parts = [early, late] if early[0]["shares"] != late[0]["shares"] else [late]
    items = run.recipe().batch.items
    return [_timeline(run.id, part, names, items) for part in parts]


def draw(lines: Sequence[Timeline], path: Path) -> None:
    """The timelines below each other on one scale of time, as a picture of the format that `path` ends in.

    Raises:
        StorageError: it cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    rows = max(len(line.bars) for line in lines)
    figure = Figure(figsize=(9, 0.9 + len(lines) * (0.9 + 0.42 * rows)), layout="constrained")
    longest_s = max(line.step_s for line in lines)
    for axes, line in zip(figure.subplots(len(lines), 1, squeeze=False)[:, 0], lines, strict=True):
        busiest_s = max(bar.busy_s for bar in line.bars)
        for row, bar in enumerate(line.bars):
            axes.barh(row, bar.busy_s, color="#3a7d44", height=0.7)
            axes.barh(row, busiest_s - bar.busy_s, left=bar.busy_s, color="#e3e3e3", height=0.7)
            axes.barh(row, line.exchange_s, left=busiest_s, color="#c9762b", height=0.7)
            inside = bar.busy_s > 0.25 * longest_s
            axes.text(
                bar.busy_s / 2 if inside else bar.busy_s + 0.01 * longest_s, row, f"{bar.items} items",
                ha="center" if inside else "left", va="center", fontsize=8, color="white" if inside else "black",
            )  # fmt: skip
        axes.set_yticks(range(len(line.bars)), [bar.machine for bar in line.bars])
        axes.invert_yaxis()
        axes.set_xlim(0, longest_s * 1.02)
        axes.set_title(
            f"{line.run}, steps {line.first_step} to {line.last_step}: {line.step_s:.3f} s, "
            f"{line.items_per_s:.1f} items/s, {100 * line.reached:.0f} % of what the machines do while they compute",
            fontsize=9, loc="left",
        )  # fmt: skip
        axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("seconds of one step  (green: computes, grey: waits for the others, orange: exchange)", fontsize=9)
    try:
        with whole_file(path) as draft:
            figure.savefig(draft, dpi=110, format=path.suffix.removeprefix(".") or "png")
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror}); give another -o FILE") from error


def _timeline(run: str, steps: Sequence[dict[str, Any]], names: Sequence[str], items: int) -> Timeline:
    busy_s = [statistics.median(column) for column in zip(*(step["busy_s"] for step in steps), strict=True)]
    # Medians of different steps: by them alone a worker may seem to be busy for longer than the step.
    step_s = max(statistics.median(step["step_s"] for step in steps), *busy_s)
    machines = [*names, *(f"worker {rank}" for rank in range(len(names), len(busy_s)))]
    return Timeline(
        run,
        steps[0]["step"],
        steps[-1]["step"],
        tuple(Bar(*of) for of in zip(machines[: len(busy_s)], steps[0]["shares"], busy_s, strict=True)),
        step_s,
        items,
    )


def machines_of_starts(run: RunFolder) -> list[list[str]]:
    """The machines of each start whose workers were all there, in rank order; the newest start is the last."""
    try:
        machines = read_kept_origin(run.origin_file)["machines"]
    except (OSError, DamagedFile):
        return []
    found = []
    for event in read_events(run):
        start = _ready_start(event)
        if start in machines:
            found.append([shown_machine(machine) for machine in machines[start]])
    return found


def _ready_start(event: Mapping[str, Any]) -> str | None:
    """Number of the start whose workers are all there by this event; None of all other events."""
    if "kind" in event:
        return event["start"] if event["kind"] == "workers_ready" else None
    old = _OLD_READY.fullmatch(event["said"])
    return old[1] if old else None


def shown_machine(machine: Mapping[str, Any]) -> str:
    """`attic (GeForce RTX 3090 Ti)`; without a card the name alone."""
    name, device = machine_name(machine), machine.get("device", "cpu")
    return name if device == "cpu" else f"{name} ({device.removeprefix('NVIDIA ')})"
