"""The keeper's table: of several that act on one row one does, and a wish to stop outlives what was begun before it."""

import sqlite3
import threading

import pytest

from cluster.node.processes import boot_id
from jobs.queue.table import Claim, Ledger
from jobs.runs.folder import RunFolder
from tests.jobs.ledgers import closed, recorded


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    return Ledger(tmp_path)


@pytest.fixture
def run(tmp_path, ledger) -> RunFolder:
    """A run with a job."""
    run = RunFolder(tmp_path / "line-1")
    recorded(ledger, run)
    return run


def test_of_two_that_claim_one_row_one_gets_it(ledger, run):
    row, fence = ledger.row(run.id), ledger.take_fence()
    assert [ledger.claim(row, fence) is not None for _ in range(2)] == [True, False]


def test_of_many_that_claim_at_once_one_gets_it(tmp_path, ledger, run):
    row, fence, won = ledger.row(run.id), ledger.take_fence(), []
    begin = threading.Barrier(8)

    def claims() -> None:
        own = Ledger(tmp_path)
        begin.wait()
        won.append(own.claim(row, fence))

    threads = [threading.Thread(target=claims) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([claim for claim in won if claim is not None]) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda ledger, run: ledger.want_stopped(run.id),
        closed,
        lambda ledger, run: ledger.open(run),
        lambda ledger, run: recorded(ledger, run, 2),
    ],
    ids=["stopped", "closed", "opened", "submitted"],
)
def test_a_row_that_changed_since_it_was_read_or_claimed_is_let_go(ledger, run, change):
    fence = ledger.take_fence()
    row = ledger.row(run.id)
    claim = ledger.claim(row, fence)
    change(ledger, run)
    after = ledger.row(run.id)
    assert ledger.claim(row, fence) is None
    assert ledger.submitted(claim, 9, "line-1.a9", 0, 0) is None
    assert not ledger.close(claim)
    assert ledger.row(run.id) == after


def test_a_stop_that_is_wished_between_claim_and_submission_is_kept(ledger, run):
    claim = ledger.claim(ledger.row(run.id), ledger.take_fence())
    ledger.want_stopped(run.id)
    assert ledger.submitted(claim, 2, "line-1.a2", 0, 1) is None
    assert (ledger.row(run.id).wanted, ledger.row(run.id).submission) == ("stopped", "line-1.a1")


def test_a_stop_that_is_wished_after_a_submission_is_seen_with_its_job(ledger, run):
    claim = ledger.claim(ledger.row(run.id), ledger.take_fence())
    assert ledger.submitted(claim, 2, "line-1.a2", 0, 1) is not None
    row = ledger.want_stopped(run.id)
    assert (row.wanted, row.submission, row.attempt) == ("stopped", "line-1.a2", 2)
    assert ledger.row(run.id) == row
    assert ledger.want_stopped("nobody") is None


def test_a_keeper_with_an_older_number_changes_nothing(ledger, run):
    old = ledger.take_fence()
    claim = ledger.claim(ledger.row(run.id), old)
    new = ledger.take_fence()
    assert (old, new, ledger.fence()) == (1, 2, 2)
    row = ledger.row(run.id)
    assert ledger.claim(row, old) is None
    assert ledger.submitted(claim, 2, "line-1.a2", 0, 0) is None
    assert not ledger.close(claim)
    assert ledger.row(run.id) == row
    assert ledger.claim(row, new) == Claim(run.id, row.version + 1, new)


def test_one_row_a_run_is_kept_across_openings(tmp_path):
    run = RunFolder(tmp_path / "line-1")
    recorded(Ledger(tmp_path), run)
    Ledger(tmp_path).want_stopped("line-1")
    [kept] = Ledger(tmp_path).rows(only_open=True)
    assert (kept.submission, kept.wanted, kept.step, kept.boot_id) == ("line-1.a1", "stopped", 0, boot_id())
    recorded(Ledger(tmp_path), run, 2, idle=1)
    [again] = Ledger(tmp_path).rows()
    assert (again.attempt, again.wanted, again.idle, again.open) == (2, "running", 1, 1)
    assert again.version > kept.version
    closed(Ledger(tmp_path), run)
    assert Ledger(tmp_path).rows(only_open=True) == []
    assert Ledger(tmp_path).row("line-1") is not None
    assert Ledger(tmp_path).row("other") is None


EARLIER = """
create table runs (
    run text primary key, folder text not null, attempt integer not null, submission text not null,
    step integer not null, idle integer not null, wanted text not null check (wanted in ('running', 'stopped')),
    open integer not null, created_s real not null, updated_s real not null
) strict
"""


def test_a_table_of_an_earlier_version_is_read_in_the_order_in_which_it_was_written(tmp_path):
    with sqlite3.connect(tmp_path / "runs.sqlite") as connection:
        connection.execute(EARLIER)
        for name, created_s in (("first", 2000.0), ("second", 1000.0)):  # the clock was set back between them
            row = (name, f"/runs/{name}", 3, f"{name}.a3", 40, 1, "running", 1, created_s, created_s)
            connection.execute("insert into runs values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    connection.close()
    first, second = Ledger(tmp_path).rows()
    assert (first.run, second.run) == ("first", "second")
    assert (first.folder, first.attempt, first.submission) == ("/runs/first", 3, "first.a3")
    assert (first.step, first.idle, first.wanted, first.open) == (40, 1, "running", 1)
    assert first.boot_id != boot_id()
    ledger = Ledger(tmp_path)
    assert ledger.claim(first, ledger.take_fence()) is not None
    assert ledger.claim(first, ledger.fence()) is None
