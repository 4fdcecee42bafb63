"""Rows of the ledger as a submission leaves them, without a head."""

from jobs.queue.table import Claim, Ledger
from jobs.runs.folder import RunFolder


def recorded(ledger: Ledger, run: RunFolder, attempt: int = 1, idle: int = 0) -> None:
    """A job is about to be submitted for `attempt` of `run`, which the user wants."""
    claim = ledger.submitted(ledger.open(run), attempt, f"{run.id}.a{attempt}", run.last_step(), idle)
    assert claim is not None


def closed(ledger: Ledger, run: RunFolder) -> None:
    """The run has ended."""
    row = ledger.row(run.id)
    assert row is not None
    assert ledger.close(Claim(run.id, row.version))
