"""Metrics of every step, as JSON lines and for TensorBoard; a resumed run goes on without a seam."""

import json
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from jobs.runs import RunFolder
from vr_core.files import whole_file

FLUSH_EVERY_S = 1.0


class MetricsLog:
    """Writer of `metrics.jsonl` and `tensorboard/`; rank 0 alone has one.

    Lines that cannot be written now, since a disk is full or a share is away, are kept and written later: no step of a
    run is worth less than its log.
    """

    def __init__(self, run: RunFolder, from_step: int, tensorboard: bool) -> None:
        """Open for appending; lines of steps after `from_step` are dropped, since they are computed again."""
        keep_until(run.metrics_file, from_step)
        self._path = run.metrics_file
        self._whole_bytes = self._path.stat().st_size if self._path.exists() else 0
        """What is there of this file for sure; a write that failed may have left more."""
        self._pending: list[str] = []
        self._failed = False
        self._board = None
        if tensorboard:
            from tensorboardX import SummaryWriter  # 0.1 s; torch's own takes 2 s to import

            self._board = SummaryWriter(str(run.tensorboard), purge_step=from_step + 1, flush_secs=10)
        self._flushed_s = time.monotonic()

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
            with os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
                file.truncate(self._whole_bytes)
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


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """Lines of a `metrics.jsonl`; a last line cut short by a kill is passed over."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict) and "step" in value:
                yield value


def keep_until(path: Path, step: int) -> None:
    """Drop the lines of later steps, and a line cut short."""
    if path.is_file():
        kept = [json.dumps(line) + "\n" for line in read_metrics(path) if line["step"] <= step]
        with whole_file(path) as draft:
            draft.write_text("".join(kept), encoding="utf-8")
