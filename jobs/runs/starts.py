"""Starts of a run's workers: each has a number, and files of its own; the newest one decides what counts.

A worker whose network was cut, or whose PC slept, may come back when a newer start trains. It goes on writing files
that carry the number of its own start, and what others read it does not touch any more.

    metrics/<attempt>.<number>.jsonl             made first of all: from then on earlier starts are out
    checkpoints/.step-<N>.<attempt>.<number>/    a checkpoint that is being written
"""

import os
import re
from dataclasses import dataclass

from jobs.errors import NewerStart
from jobs.runs.folder import POINTERS, RunFolder
from vr_core.errors import StorageError
from vr_core.files import clear_drafts, require_no_links

_NAME = re.compile(r"(\d+)\.(\d+)")


@dataclass(frozen=True, order=True)
class Start:
    """One start of a run's workers: by attempt, and by number within it."""

    attempt: int
    number: int

    def __str__(self) -> str:
        return f"{self.attempt}.{self.number}"


BEFORE = Start(0, 0)
"""Whoever wrote before starts had files of their own."""


def read_start(name: str) -> Start | None:
    """The start that is written as `name`; None where that is no start's."""
    found = _NAME.fullmatch(name)
    return Start(int(found[1]), int(found[2])) if found else None


def starts(run: RunFolder) -> list[Start]:
    """Those that have begun, oldest first."""
    try:
        names = os.listdir(run.metrics)
    except FileNotFoundError:
        return []
    found = (read_start(name.removesuffix(".jsonl")) for name in names if name.endswith(".jsonl"))
    return sorted(start for start in found if start is not None)


def begin_start(run: RunFolder, start: Start | None = None) -> Start:
    """Begin a start of `run`, by rank 0 alone; earlier ones are out from then on.

    Args:
        run: its folder.
        start: as the driver counts them; by default the next one of the newest attempt.

    Raises:
        NewerStart: a newer one has begun.
        StorageError: the run's folder cannot be written.
    """
    try:
        require_no_links(run.root, run.metrics)
        clear_drafts(run.checkpoints, POINTERS)
        run.metrics.mkdir(exist_ok=True)
        begun = starts(run)
        if not begun and run.metrics_file.exists():  # of a run that began before starts had files of their own
            os.replace(run.metrics_file, run.metrics / f"{BEFORE}.jsonl")
        newest = max(begun, default=BEFORE)
        if start is None:
            attempt = max(run.newest_attempt(), newest.attempt)
            start = Start(attempt, newest.number + 1 if newest.attempt == attempt else 1)
        if start < newest:
            raise _out(run, start, newest)
        os.close(os.open(run.metrics / f"{start}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
    except OSError as error:
        raise StorageError(f"run {run.id}: start {start} cannot begin in {run.metrics} ({error.strerror})") from error
    return start


def require_newest(run: RunFolder, start: Start) -> None:
    """Check that no newer start of `run` has begun, before something is changed that all starts share.

    Raises:
        NewerStart: one has.
    """
    newest = max(starts(run), default=BEFORE)
    if newest > start:
        raise _out(run, start, newest)


def _out(run: RunFolder, start: Start, newest: Start) -> NewerStart:
    return NewerStart(f"run {run.id}: start {newest} has begun since start {start}, which may not write any more")
