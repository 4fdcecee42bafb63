"""Metrics of every step, as JSON lines and for TensorBoard; a resumed run goes on without a seam.

Each start of a run's workers appends to a file of its own, `metrics/<start>.jsonl`. Its first line says how much counts
of the files before: whatever an earlier start still writes is read by nobody.
"""

import itertools
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Literal

from pydantic import Field

from jobs.runs.folder import RunFolder
from jobs.runs.starts import BEFORE, Start, starts
from vr_core.config import Spec, plain, validate
from vr_core.errors import ConfigError, StorageError
from vr_core.files import open_below, require_no_links
from vr_core.small_files import DamagedFile, open_regular, parse_json

FLUSH_EVERY_S = 1.0
_BLOCK_BYTES = 65_536


class Counted(Spec):
    """What counts of the file of an earlier start."""

    file: Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]+\.jsonl$")]
    """In the folder `metrics`."""
    size_bytes: Annotated[int, Field(ge=0)]
    until_step: Annotated[int, Field(ge=0)]
    """Lines of later steps do not count: those steps were computed again."""


class FirstLine(Spec):
    """The first line of a start's file."""

    kind: Literal["start"] = "start"
    step: Annotated[int, Field(ge=0)]
    """Of the checkpoint that it goes on from."""
    counts: tuple[Counted, ...]
    """Of earlier starts, oldest first."""


@dataclass(frozen=True)
class Part:
    """A file of metrics, as far as it counts."""

    file: Path
    size_bytes: int | None = None
    """None: all of it, and what is still to come."""
    until_step: int | None = None

    def record(self, line: bytes) -> dict[str, Any] | None:
        """What a line says; None where it does not count, is the first one, or is damaged."""
        try:
            value = parse_json(line, str(self.file))
        except DamagedFile:
            return None
        if not isinstance(value.get("kind"), str):
            return None
        step = value.get("step")
        if value["kind"] == "start" or not isinstance(step, int) or isinstance(step, bool):
            return None
        return None if self.until_step is not None and step > self.until_step else value


def parts(run: RunFolder) -> list[Part]:
    """The files that hold a run's metrics, oldest first, as its newest start says.

    A start that has not written its first line has nothing yet. Where that line is damaged, the files before count up
    to the start's first record. A run without starts has one file, `metrics.jsonl`.
    """
    begun = starts(run)
    return _parts_of(run, begun) if begun else [Part(run.metrics_file)]


def _parts_of(run: RunFolder, begun: Sequence[Start]) -> list[Part]:
    if not begun:
        return []
    *earlier, newest = begun
    part = Part(run.metrics / f"{newest}.jsonl")
    if newest == BEFORE:
        return [part]
    lines = [line for _, line in itertools.islice(whole_lines(part), 2)]
    if not lines:
        return _parts_of(run, earlier)
    first = _first_line(part.file, lines[0])
    if first is not None:
        return [*(Part(run.metrics / c.file, c.size_bytes, c.until_step) for c in first.counts), part]
    record = next(filter(None, map(part.record, lines)), None)
    until = record["step"] - 1 if record is not None else None
    before = _parts_of(run, earlier)
    return [*(replace(one, until_step=_least(one.until_step, until)) for one in before), part]


def _least(one: int | None, other: int | None) -> int | None:
    """Of two limits, of which None is none."""
    return min((step for step in (one, other) if step is not None), default=None)


def read_metrics(run: RunFolder) -> Iterator[dict[str, Any]]:
    """Every line that counts, in order; a line that is damaged, or cut short by a kill, is passed over."""
    for part in parts(run):
        yield from _records(part)


def read_newest_metrics(run: RunFolder) -> Iterator[dict[str, Any]]:
    """As `read_metrics`, of the newest start that has written any; all of a run of before starts had files."""
    newest = parts(run)[-1:]
    return itertools.chain.from_iterable(map(_records, newest))


def _records(part: Part) -> Iterator[dict[str, Any]]:
    for _, line in whole_lines(part):
        record = part.record(line)
        if record is not None:
            yield record


def whole_lines(part: Part, begin: int = 0) -> Iterator[tuple[int, bytes]]:
    """The complete lines of a part from byte `begin` on, each with the byte after it."""
    try:
        file = open_regular(part.file)
    except (FileNotFoundError, DamagedFile):
        return
    with file:
        file.seek(begin)
        for line in file:
            begin += len(line)
            if not line.endswith(b"\n") or (part.size_bytes is not None and begin > part.size_bytes):
                return
            yield begin, line


def last_lines(part: Part) -> Iterator[tuple[int, bytes]]:
    """The complete lines of a part from the last one back, each with the byte after it."""
    try:
        file = open_regular(part.file)
    except (FileNotFoundError, DamagedFile):
        return
    with file:
        at = file.seek(0, os.SEEK_END)
        at = at if part.size_bytes is None else min(at, part.size_bytes)
        tail = b""  # a line that may begin before what is read so far
        while at > 0:
            size = min(_BLOCK_BYTES, at)
            at -= size
            file.seek(at)
            data = file.read(size)
            # What comes after the last newline is being written, or was cut short.
            data = data + tail if tail else data[: data.rfind(b"\n") + 1]
            if data:
                end = at + len(data)
                first, *lines = data.split(b"\n")[:-1]
                for line in reversed(lines):
                    yield end, line + b"\n"
                    end -= len(line) + 1
                tail = first + b"\n"
        if tail:
            yield len(tail), tail


class MetricsLog:
    """Writer of a start's metrics and of `tensorboard/`; rank 0 alone has one.

    Lines that cannot be written now, since a disk is full or a share is away, are kept and written later: no step of a
    run is worth less than its log.
    """

    def __init__(self, run: RunFolder, start: Start, from_step: int, tensorboard: bool) -> None:
        """For a start that has begun; lines of steps after `from_step` do not count, since they are computed again.

        Raises:
            StorageError: what earlier starts have written cannot be read.
        """
        self._root, self._path = run.root, run.metrics / f"{start}.jsonl"
        self._whole_bytes = 0
        """What is there of this file for sure; a write that failed may have left more."""
        try:
            first = FirstLine(step=from_step, counts=_counted(run, from_step))
        except OSError as error:
            raise StorageError(f"{run.metrics}: cannot be read ({error.strerror}); check its disk or share") from error
        self._pending: list[str] = [json.dumps(plain(first)) + "\n"]
        self._failed = False
        self._board = None
        if tensorboard:
            from tensorboardX import SummaryWriter  # 0.1 s; torch's own takes 2 s to import

            require_no_links(run.root, run.tensorboard)
            self._board = SummaryWriter(str(run.tensorboard), purge_step=from_step + 1, flush_secs=10)
        self.flush()

    def write(self, kind: str, step: int, **values: float | Sequence[float]) -> None:
        """One line; a number that is not finite is null: JSON has no NaN.

        `kind` is `step`, `validation`, or what is told now and then: `shares`, `sync`, `not_worth`, `checkpoint`. Lists
        are about workers, and stay out of TensorBoard.
        """
        finite = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in values.items()}
        line = {"kind": kind, "step": step, **finite, "time_s": round(time.time(), 3)}
        self._pending.append(json.dumps(line, allow_nan=False) + "\n")
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, Sequence):
                    continue
                self._board.add_scalar(f"{kind}/{name}", value, step)
        if time.monotonic() - self._flushed_s > FLUSH_EVERY_S or (kind != "step" and not self._failed):
            self.flush()

    def flush(self) -> None:
        """Give every line to the file system; before a checkpoint, whose steps are not computed again."""
        self._flushed_s = time.monotonic()
        if not self._pending:
            return
        data = "".join(self._pending).encode()
        try:
            # Nothing is cut off: what a write that failed has left is written over with the same bytes.
            with open_below(self._root, self._path, os.O_WRONLY) as file:
                file.seek(self._whole_bytes)
                file.write(data)
        except OSError as error:
            if not self._failed:
                print(f"{self._path}: not written now ({error.strerror}); tried again", file=sys.stderr, flush=True)
            self._failed = True
            return
        self._pending, self._failed = [], False
        self._whole_bytes += len(data)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.flush()
        if self._board is not None:
            self._board.close()


def _first_line(file: Path, line: bytes) -> FirstLine | None:
    """What a start's first line says; None where it is damaged."""
    try:
        return validate(FirstLine, parse_json(line, str(file)), str(file))
    except (ValueError, ConfigError):
        return None


def _counted(run: RunFolder, from_step: int) -> tuple[Counted, ...]:
    """What counts of the starts so far for one that goes on from `from_step`."""
    found = []
    for part in parts(run):
        until = from_step if part.until_step is None else min(part.until_step, from_step)
        kept = Part(part.file, part.size_bytes, until)
        end = next((end for end, line in last_lines(kept) if kept.record(line) is not None), 0)
        if end:
            found.append(Counted(file=part.file.name, size_bytes=end, until_step=until))
    return tuple(found)
