"""The keeper's memory: one row for each run that was submitted on this head, in SQLite in the state folder.

Every change of a row makes it another version, and whoever acts on a row changes it only as the version that they have
read: of two who act on one row the second gets nothing. A keeper is known by its fence number, the highest of which may
act.
"""

import contextlib
import sqlite3
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock

from cluster.node.processes import now
from jobs.errors import DamagedLedger
from jobs.runs.folder import RunFolder
from vr_core.errors import StorageError

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
_ADDED = (  # after `_KEEPERS`: who finds them finds that table as well
    # What tables of earlier versions lack; a row of theirs was written in another boot than any.
    "version integer not null default 0",
    "boot_id text not null default ''",
    "since_boot_s real not null default 0",
)
_KEEPERS = "create table if not exists keepers (fence integer primary key) strict"
_COLUMNS = "run, folder, attempt, submission, step, idle, wanted, open, version, boot_id, since_boot_s"
_FENCED = "(:fence is null or :fence >= (select coalesce(max(fence), 0) from keepers))"


@dataclass(frozen=True)
class Row:
    """One submitted run."""

    run: str
    folder: str
    attempt: int
    """0 until the first job is on its way."""
    submission: str
    """Ray's id of the newest job that carries it."""
    step: int
    """Newest checkpoint when that job was submitted."""
    idle: int
    """Failed jobs in a row that brought no new checkpoint."""
    wanted: Wanted
    open: int
    """0 when the run has ended: the keeper does not look at it any more."""
    version: int = 0
    """Counts the row's changes."""
    boot_id: str = ""
    """Of the boot in which the row was changed last."""
    since_boot_s: float = 0.0
    """When in that boot."""


@dataclass(frozen=True)
class Claim:
    """The right to change a row, which ends with anybody else's change of it."""

    run: str
    version: int
    fence: int | None = None
    """Of the keeper that claims; None: the command line does, for the user."""


class Ledger:
    """The table in `folder`/runs.sqlite; each call is one transaction, safe beside other processes."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "runs.sqlite"
        with FileLock(folder / "runs.lock", timeout=30):
            try:
                self._make()
            except DamagedLedger:
                self._put_aside()
                self._make()

    def _make(self) -> None:
        """The tables, where they are not there, and a look at what is."""
        with self._open() as connection:
            [[found]] = connection.execute("pragma quick_check(1)").fetchall()
            if found != "ok":
                raise DamagedLedger(f"{self._path}: damaged ({found})")
            connection.execute("pragma journal_mode = wal")
            if _missing(connection):
                connection.execute("begin immediate")
                connection.execute(_SCHEMA)
                connection.execute(_KEEPERS)
                for column in _missing(connection):  # another process may have been here first
                    connection.execute(f"alter table runs add column {column}")
            connection.execute(f"select {_COLUMNS} from runs limit 1")
            connection.execute("select fence from keepers limit 1")

    def take_fence(self) -> int:
        """A new keeper's number: those before it change no row any more."""
        with self._open() as connection:
            connection.execute("begin immediate")
            [highest] = connection.execute("select coalesce(max(fence), 0) from keepers").fetchone()
            connection.execute("delete from keepers")
            connection.execute("insert into keepers values (?)", (highest + 1,))
        return int(highest) + 1

    def fence(self) -> int:
        """The number of the newest keeper; 0 before the first."""
        with self._open() as connection:
            [highest] = connection.execute("select coalesce(max(fence), 0) from keepers").fetchone()
        return int(highest)

    def open(self, run: RunFolder) -> Claim:
        """The user wants `run` carried, whatever was before; the claim is for the job that is to be submitted."""
        at = now()
        with self._open() as connection:
            [[version]] = connection.execute(
                "insert into runs values (:run, :folder, 0, '', 0, 0, 'running', 1, :now, :now, 1, :boot, :at) "
                "on conflict (run) do update set folder = :folder, submission = '', wanted = 'running', open = 1, "
                "updated_s = :now, version = version + 1, boot_id = :boot, since_boot_s = :at returning version",
                {
                    "run": run.id,
                    "folder": str(run.path),
                    "now": time.time(),
                    "boot": at.boot_id,
                    "at": at.since_boot_s,
                },
            ).fetchall()
        return Claim(run.id, int(version))

    def claim(self, row: Row, fence: int) -> Claim | None:
        """Take `row` for the keeper of that number; None when it has changed since it was read, or is closed."""
        return self._change(Claim(row.run, row.version, fence), "open = open")

    def submitted(self, claim: Claim, attempt: int, submission: str, step: int, idle: int) -> Claim | None:
        """A job is about to be submitted, by the owner of `claim`; None when somebody has changed the row since.

        A wish to stop is such a change: it is kept, and no job may be submitted.
        """
        return self._change(
            claim,
            "attempt = :attempt, submission = :submission, step = :step, idle = :idle",
            attempt=attempt,
            submission=submission,
            step=step,
            idle=idle,
        )

    def close(self, claim: Claim) -> bool:
        """The run has ended; False when somebody has changed the row since."""
        return self._change(claim, "open = 0") is not None

    def want_stopped(self, run: str) -> Row | None:
        """The user asked `run` to stop: it is not resubmitted. Returns its row, None where it was never submitted."""
        at = now()
        with self._open() as connection:
            found = connection.execute(
                "update runs set wanted = 'stopped', updated_s = :now, version = version + 1, boot_id = :boot, "
                f"since_boot_s = :at where run = :run returning {_COLUMNS}",
                {"run": run, "now": time.time(), "boot": at.boot_id, "at": at.since_boot_s},
            ).fetchall()
        return next((Row(*values) for values in found), None)

    def rows(self, only_open: bool = False) -> list[Row]:
        """All rows, oldest first."""
        with self._open() as connection:
            found = connection.execute(
                f"select {_COLUMNS} from runs {'where open' if only_open else ''} order by rowid"
            ).fetchall()
        return [Row(*values) for values in found]

    def row(self, run: str) -> Row | None:
        """The row of `run`."""
        with self._open() as connection:
            found = connection.execute(f"select {_COLUMNS} from runs where run = ?", (run,)).fetchone()
        return Row(*found) if found else None

    def _change(self, claim: Claim, changes: str, **values: object) -> Claim | None:
        at = now()
        with self._open() as connection:
            found = connection.execute(
                f"update runs set {changes}, updated_s = :now, version = version + 1, boot_id = :boot, "
                f"since_boot_s = :at where run = :run and version = :version and open and {_FENCED}",
                {
                    **values,
                    "now": time.time(),
                    "boot": at.boot_id,
                    "at": at.since_boot_s,
                    "run": claim.run,
                    "version": claim.version,
                    "fence": claim.fence,
                },
            )
            done = found.rowcount == 1
        return Claim(claim.run, claim.version + 1, claim.fence) if done else None

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            # sqlite3's own block ends the transaction and leaves the connection open.
            with contextlib.closing(sqlite3.connect(self._path, timeout=30)) as connection, connection:
                yield connection
        except UnicodeDecodeError as error:  # of a text, or of what sqlite says of a damaged name
            raise DamagedLedger(f"{self._path}: damaged ({error.reason}); run the command again") from None
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF  # of a damaged schema it has none
            if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR):
                raise DamagedLedger(f"{self._path}: damaged ({error}); run the command again") from None
            if isinstance(error, sqlite3.OperationalError):
                raise StorageError(f"{self._path}: {error}; check that its folder can be written") from None
            raise

    def _put_aside(self) -> None:
        """Begin anew: what the table knew of the runs stands in their folders too."""
        for ending in ("", "-wal", "-shm"):
            file = self._path.with_name(self._path.name + ending)
            if file.exists():
                file.replace(file.with_name(f"{file.name}.damaged"))
        print(
            f"{self._path}: damaged, kept as {self._path.name}.damaged; runs that were under way are not submitted "
            "again by themselves, so go on with them: vr jobs resume RUN",
            file=sys.stderr,
            flush=True,
        )


def _missing(connection: sqlite3.Connection) -> list[str]:
    """Which of `_ADDED` the table lacks; all of them where there is no table."""
    there = {column[1] for column in connection.execute("pragma table_info(runs)")}
    return [column for column in _ADDED if column.split()[0] not in there]
