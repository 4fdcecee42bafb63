"""Reading a run's metrics while it writes them: what is new since the last look, and the newest of a kind."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.runs.folder import RunFolder
from jobs.runs.metrics import Part, last_lines, parts, whole_lines

Lines = Iterator[tuple[bytes, dict[str, Any]]]
"""Lines of metrics, each with what it says."""


@dataclass
class MetricsReader:
    """Follows a run's metrics; a line that is not complete yet is left for the next read."""

    run: RunFolder
    _parts: list[Part] = field(default_factory=list)
    _at: int = 0
    """The part that is being read."""
    _offset: int = 0
    _inode: int = 0

    def read(self) -> tuple[bool, Lines]:
        """Lines and records that are new since the last call, to be taken all before the next one.

        Returns:
            Whether they are all there are, from the first on: at the first call, and where lines that were read do not
            count any more, since a start goes on from an earlier step.
        """
        found, inode = parts(self.run), 0
        anew = found != self._parts
        if found == [Part(self.run.metrics_file)]:  # runs of earlier versions cut theirs, or replace it
            inode, size_bytes = _inode_and_size(self.run.metrics_file)
            anew = anew or inode != self._inode or size_bytes < self._offset
        if anew:
            self._parts, self._at, self._offset, self._inode = found, 0, 0, inode
        return anew, self._new()

    @property
    def has_starts(self) -> bool:
        """Whether what was read last are files of starts."""
        return self._parts != [Part(self.run.metrics_file)]

    def _new(self) -> Lines:
        while self._at < len(self._parts):
            part = self._parts[self._at]
            for end, line in whole_lines(part, self._offset):
                self._offset = end
                record = part.record(line)
                if record is not None:
                    yield line, record
            if self._at + 1 == len(self._parts):
                return
            self._at, self._offset = self._at + 1, 0


def last_record(run: RunFolder, kind: str) -> dict[str, Any] | None:
    """The newest metrics record of that kind."""
    for part in reversed(parts(run)):
        for _, line in last_lines(part):
            record = part.record(line)
            if record is not None and record["kind"] == kind:
                return record
    return None


def last_step(run: RunFolder) -> int:
    """Step of the newest step record, else of the newest checkpoint; 0 before the first."""
    record = last_record(run, "step")
    return int(record["step"]) if record else run.last_step()


def _inode_and_size(file: Path) -> tuple[int, int]:
    try:
        status = file.stat()
    except FileNotFoundError:
        return 0, 0
    return status.st_ino, status.st_size
