"""What a module may not leave behind on the shared cluster is seen there, each by itself."""

import subprocess
import sys
import time

import pytest

from cluster.inventory import Inventory
from cluster.node.drain import change_drained, drop, put
from cluster.node.head import keep_inventory
from cluster.timings import DEFAULT_TIMINGS
from jobs.queue.node_power import drained_node
from jobs.queue.table import Ledger
from jobs.runs.liveness import write_driver
from tests.cluster.pcs import await_job, stop, submit
from tests.jobs.ledgers import closed, recorded
from tests.loopback import ATTIC, PCS
from vr_core.files import write_json

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("head")]


def test_a_module_that_leaves_nothing_is_clean(loopback):
    assert loopback.left() == []


def test_what_is_left_in_files_is_seen(loopback, run):
    state = loopback.attic.state
    ledger = Ledger(state)
    # This process carries it: the keeper has nothing to do about it.
    run.begin_attempt()
    write_driver(run, 1)
    write_json(run.state_file, {"state": "running", "steps": 1, "attempt": 1})
    recorded(ledger, run)
    try:
        assert f"open in the ledger: {run.id}" in loopback.differences()
    finally:
        closed(ledger, run)

    # A PC that is not there.
    change_drained(lambda record: put(record, drained_node("shed", None, "user", time.time(), None, DEFAULT_TIMINGS)))
    try:
        assert any(line.startswith("drained: ") for line in loopback.differences())
    finally:
        change_drained(lambda record: drop(record, ["shed"]))

    keep_inventory(Inventory(nodes=(ATTIC,)))
    try:
        assert any(line.startswith("the inventory: ") for line in loopback.differences())
    finally:
        keep_inventory(PCS)

    for pc in (loopback.attic, loopback.cellar):
        file = pc.state / "joined-shed.json"
        file.touch()
        try:
            assert any("joined-shed.json" in line for line in loopback.differences())
        finally:
            file.unlink()
    assert loopback.left() == []


def test_what_is_left_running_is_seen(loopback):
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        assert loopback.differences() == [f"running: {process.pid} {sys.executable} -c import time; time.sleep(600)"]
    finally:
        process.kill()
        process.wait()

    head, token = loopback.head, loopback.attic.token
    job = submit(head, token, "sleep 600")
    await_job(head, token, job, "RUNNING")
    try:
        assert f"a live job: {job}: sleep 600" in loopback.differences()
    finally:
        stop(head, token, job)
