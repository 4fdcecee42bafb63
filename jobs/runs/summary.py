"""How far a run is, in a few kilobytes: `summary.json`, which its driver writes and lists, cards and watching read.

What is computed here is a fold over the run's metrics, which a reader does by itself for a run without the file.
"""

import contextlib
import math
import os
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

from jobs.recipe import SYNC_NAMES
from jobs.runs.folder import RunFolder
from jobs.runs.progress import Lines, MetricsReader
from vr_core.config import Spec, plain, validate
from vr_core.errors import ConfigError
from vr_core.files import open_below, whole_file, write_json
from vr_core.small_files import read_json

RATE_STEPS = 50
"""The rate is that of this many last steps."""
POINTS = 256
"""A curve has no more of them."""

Point = tuple[int, float]
"""A step, and the mean of a stretch of values that ends there."""


class Validation(Spec):
    """A validation's loss; None where it was not finite."""

    step: int
    loss: float | None


class NotWorth(Spec):
    """What the first start that keeps all of its workers predicted."""

    ranks: tuple[int, ...]
    with_s: float
    without_s: float


class RunSummary(Spec):
    """`summary.json`."""

    step: Annotated[int, Field(ge=0)] = 0
    """Of the newest step that was told."""
    steps: Annotated[int, Field(ge=1)]
    loss: float | None = None
    validation: Validation | None = None
    """The last one."""
    best_validation: Validation | None = None
    steps_per_s: float | None = None
    left_s: float | None = None
    """At this rate."""
    step_s: float | None = None
    """The mean of all steps."""
    losses: tuple[Point, ...] = ()
    validations: tuple[Point, ...] = ()
    predicted_s: dict[str, float] = {}
    """Way of `sync` → seconds of a step, as the workers predicted when they chose."""
    not_worth: NotWorth | None = None


@dataclass
class Curve:
    """A row of numbers that grows, as means of equally long stretches: never more than `POINTS`."""

    points: list[Point] = field(default_factory=list)
    every: int = 1
    """So many values make a point."""
    _sum: float = 0.0
    _count: int = 0
    _step: int = 0

    def add(self, step: int, value: float) -> None:
        """One more value."""
        self._step, self._sum, self._count = step, self._sum + value, self._count + 1
        if self._count < self.every:
            return
        self.points.append((step, self._sum / self._count))
        self._sum, self._count = 0.0, 0
        if len(self.points) == POINTS:
            pairs = zip(self.points[::2], self.points[1::2], strict=True)
            self.points = [(later, (a + b) / 2) for (_, a), (later, b) in pairs]
            self.every *= 2

    def thinned(self) -> tuple[Point, ...]:
        """The points, the last one of a stretch that is not complete."""
        return (*self.points, (self._step, self._sum / self._count)) if self._count else tuple(self.points)


class Fold:
    """A summary of records that come one after the other; it keeps none of them."""

    def __init__(self) -> None:
        self._last: dict[str, Any] = {"step": 0}
        self._losses, self._validations = Curve(), Curve()
        self._times: deque[tuple[int, float]] = deque(maxlen=RATE_STEPS)
        self._step_s, self._timed = 0.0, 0

    def add(self, record: Mapping[str, Any]) -> None:
        """One more record; a value that is missing or no number is as good as not told."""
        kind, step, loss = record["kind"], record["step"], _number(record.get("loss"))
        if kind == "step":
            self._add_step(record, step, loss)
        elif kind == "validation":
            self._last["validation"] = found = Validation(step=step, loss=loss)
            best = self._last.get("best_validation")
            if loss is not None:
                self._validations.add(step, loss)
                if best is None or loss < best.loss:
                    self._last["best_validation"] = found
        elif kind == "sync":
            predicted_s = {way: _number(record.get(way)) for way in SYNC_NAMES}
            self._last["predicted_s"] = {way: seconds for way, seconds in predicted_s.items() if seconds is not None}
        elif kind == "not_worth":
            with contextlib.suppress(ConfigError):
                reported = {name: record.get(name) for name in NotWorth.model_fields}
                self._last["not_worth"] = validate(NotWorth, reported, kind)

    def _add_step(self, record: Mapping[str, Any], step: int, loss: float | None) -> None:
        self._last["step"] = step
        if loss is not None:
            self._last["loss"] = loss
            self._losses.add(step, loss)
        time_s, step_s = _number(record.get("time_s")), _number(record.get("step_s"))
        if time_s is not None:
            self._times.append((step, time_s))
        if step_s is not None:
            self._step_s, self._timed = self._step_s + step_s, self._timed + 1

    def summary(self, steps: int) -> RunSummary:
        """Of all records so far, for a run of so many steps."""
        rate = self._rate()
        return RunSummary(
            **self._last,
            steps=steps,
            steps_per_s=rate,
            left_s=max(0, steps - self._last["step"]) / rate if rate else None,
            step_s=self._step_s / self._timed if self._timed else None,
            losses=self._losses.thinned(),
            validations=self._validations.thinned(),
        )

    def _rate(self) -> float | None:
        """Steps per second between the first and the last that are kept; pauses between attempts are part of it."""
        if len(self._times) < 2:
            return None
        (first, began_s), (last, ended_s) = self._times[0], self._times[-1]
        return (last - first) / (ended_s - began_s) if ended_s > began_s and last > first else None


def _number(value: Any) -> float | None:
    """A finite number; None for anything else."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None


class SummaryReader:
    """A run's summary as its metrics grow, for who only reads."""

    def __init__(self, run: RunFolder, steps: int) -> None:
        """Nothing is read yet."""
        self._reader, self._fold, self._steps = MetricsReader(run), Fold(), steps

    def read(self) -> RunSummary:
        """Up to now."""
        anew, new = self._reader.read()
        if anew:
            self._fold = Fold()
        for _, record in new:
            self._fold.add(record)
        return self._fold.summary(self._steps)


class ProgressWriter:
    """Of a run's driver: keeps `summary.json` up to date, and `metrics.jsonl` as one file of what counts of all starts.

    A run that began before starts had files of their own has its metrics in `metrics.jsonl` itself.
    """

    def __init__(self, run: RunFolder, steps: int) -> None:
        """Nothing is read or written yet."""
        self._run, self._steps = run, steps
        self._reader, self._fold = MetricsReader(run), Fold()
        self._told: RunSummary | None = None

    def tell(self) -> RunSummary:
        """Read what is new, and write; what fails is done anew the next time.

        Raises:
            OSError: the run's folder is away, or full.
        """
        try:
            anew, new = self._reader.read()
            if anew:
                self._fold = Fold()
            if self._reader.has_starts:
                new = self._copied(new, anew)
            for _, record in new:
                self._fold.add(record)
            summary = self._fold.summary(self._steps)
            if summary != self._told:
                write_json(self._run.summary_file, plain(summary), root=self._run.root)
                self._told = summary
        except OSError:
            self._reader, self._told = MetricsReader(self._run), None
            raise
        return summary

    def _copied(self, lines: Lines, anew: bool) -> Lines:
        """The same lines; they are in metrics.jsonl when all have been taken."""
        copy = self._run.metrics_file
        root = self._run.root
        with whole_file(copy, root) if anew else contextlib.nullcontext() as draft:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            with draft.open("xb") if draft is not None else open_below(root, copy, flags) as file:
                for line, record in lines:
                    file.write(line)
                    yield line, record


def read_summary(run: RunFolder) -> RunSummary | None:
    """What the run's driver has told; None where it has not, or the file is damaged: its metrics say the same."""
    try:
        return validate(RunSummary, read_json(run.summary_file), str(run.summary_file))
    except (OSError, ValueError, ConfigError):
        return None


def summary_of(run: RunFolder, steps: int) -> RunSummary:
    """What the run's driver has told, else what its metrics say."""
    return read_summary(run) or SummaryReader(run, steps).read()
