"""Reading a run's metrics while it writes them."""

import contextlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.runs import RunFolder

_TAIL_BYTES = 65_536


@dataclass
class MetricsReader:
    """Follows one metrics.jsonl; a line that is not complete yet is left for the next read."""

    file: Path
    records: list[dict[str, Any]] = field(default_factory=list)
    """All records read so far, in the order of the file."""
    _offset: int = 0
    _inode: int = 0

    def read(self) -> list[dict[str, Any]]:
        """The records that are new since the last call."""
        try:
            with self.file.open("rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self._inode or status.st_size < self._offset:
                    # A resumed run writes the file anew, up to its checkpoint.
                    self._inode, self._offset, self.records = status.st_ino, 0, []
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        new = _parse(whole)
        self.records += new
        return new


def last_record(run: RunFolder, kind: str) -> dict[str, Any] | None:
    """The newest metrics record of that kind among the last lines."""
    try:
        with run.metrics_file.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            records = _parse(file.read())
    except FileNotFoundError:
        return None
    return next((record for record in reversed(records) if record.get("kind") == kind), None)


def last_step(run: RunFolder) -> int:
    """Step of the newest step record, else of the newest checkpoint; 0 before the first."""
    record = last_record(run, "step")
    return int(record["step"]) if record else run.last_step()


def _parse(data: bytes) -> list[dict[str, Any]]:
    records = []
    for line in data.splitlines():
        # A line cut short by a crash, or the first one of a tail, is no record.
        with contextlib.suppress(ValueError):
            record = json.loads(line)
            if isinstance(record, dict):
                records.append(record)
    return records
