"""The keeper's memory: one row for each run that was submitted on this head, in SQLite in the state folder."""

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jobs.runs import RunFolder

Wanted = Literal["running", "stopped"]

_SCHEMA = """
create table if not exists runs (
    run text primary key,
    folder text not null,
    attempt integer not null,
    submission text not null,
    step integer not null,
    idle integer not null,
    wanted text not null check (wanted in ('running', 'stopped')),
    open integer not null,
    created_s real not null,
    updated_s real not null
) strict
"""


@dataclass(frozen=True)
class Row:
    """One submitted run."""

    run: str
    folder: str
    attempt: int
    submission: str
    """Ray's id of the newest job that carries it."""
    step: int
    """Newest checkpoint when that job was submitted."""
    idle: int
    """Failed jobs in a row that brought no new checkpoint."""
    wanted: Wanted
    open: int
    """0 when the run has ended: the keeper does not look at it any more."""
    created_s: float
    updated_s: float
    """When that job was submitted, or the row changed otherwise."""


class Ledger:
    """The table in `folder`/runs.sqlite; each call is one transaction, safe beside other processes."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "runs.sqlite"
        with self._open() as connection:
            connection.execute("pragma journal_mode = wal")
            connection.execute(_SCHEMA)

    def submitted(self, run: RunFolder, attempt: int, submission: str, idle: int = 0) -> None:
        """A job is about to be submitted for `run`: it is open, and wanted."""
        now = time.time()
        with self._open() as connection:
            connection.execute(
                "insert into runs values "
                "(:run, :folder, :attempt, :submission, :step, :idle, 'running', 1, :now, :now) "
                "on conflict (run) do update set folder = :folder, attempt = :attempt, submission = :submission, "
                "step = :step, idle = :idle, wanted = 'running', open = 1, updated_s = :now",
                {
                    "run": run.id,
                    "folder": str(run.path),
                    "attempt": attempt,
                    "submission": submission,
                    "step": run.last_step(),
                    "idle": idle,
                    "now": now,
                },
            )

    def claim(self, row: Row) -> bool:
        """Take `row` for a new submission; False when it was stopped, closed or submitted since it was read."""
        with self._open() as connection:
            found = connection.execute(
                "update runs set updated_s = ? where run = ? and submission = ? and wanted = 'running' and open",
                (time.time(), row.run, row.submission),
            )
            return found.rowcount == 1

    def want_stopped(self, run: str) -> None:
        """The user asked `run` to stop: it is not resubmitted."""
        with self._open() as connection:
            connection.execute("update runs set wanted = 'stopped', updated_s = ? where run = ?", (time.time(), run))

    def close(self, run: str) -> None:
        """`run` has ended."""
        with self._open() as connection:
            connection.execute("update runs set open = 0, updated_s = ? where run = ?", (time.time(), run))

    def rows(self, only_open: bool = False) -> list[Row]:
        """All rows, oldest first."""
        with self._open() as connection:
            found = connection.execute(
                "select run, folder, attempt, submission, step, idle, wanted, open, created_s, updated_s from runs "
                + ("where open " if only_open else "")
                + "order by created_s"
            ).fetchall()
        return [Row(*values) for values in found]

    def row(self, run: str) -> Row | None:
        """The row of `run`."""
        return next((row for row in self.rows() if row.run == run), None)

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        # sqlite3's own block ends the transaction and leaves the connection open.
        with contextlib.closing(sqlite3.connect(self._path, timeout=30)) as connection, connection:
            yield connection
