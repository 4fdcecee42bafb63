"""A Ray that says it started and ends at once is a failure: processes that stand for its parts."""

import os
import shutil
import sys
import time

import pytest

from cluster.errors import ClusterFailure
from cluster.node import start
from cluster.node.head import Joined
from cluster.node.processes import end, spawn
from cluster.node.ray_start import MARKER, NodeStart, Ports
from cluster.node.start import STARTED_LINE, await_settled

SUPERVISOR = """
import subprocess, sys, time
raylet = subprocess.Popen([sys.argv[1], "600"])
print(sys.argv[2], flush=True)
if sys.argv[3] == "ends":
    raylet.kill()
    raylet.wait()
    print("Some Ray subprocesses exited unexpectedly", flush=True)
time.sleep(600)
"""


@pytest.fixture
def member(tmp_path, monkeypatch):
    """Makes a node whose supervisor lives and whose raylet stays or ends."""
    raylet = tmp_path / "raylet"
    shutil.copy2(shutil.which("sleep"), raylet)
    started = []

    def made(how):
        log = tmp_path / "study.log"
        log.touch()
        argv = [sys.executable, "-c", SUPERVISOR, str(raylet), STARTED_LINE, how]
        ref = spawn("ray", argv, os.environ | {MARKER: "settled"}, log, tmp_path)
        started.append(ref)
        node = NodeStart(
            name="study", address="10.0.0.2", interface="lo", cpus=1, gpus=(), labels={}, object_store_mib=80,
            head="10.0.0.1:6379",
        )  # fmt: skip
        awaited = STARTED_LINE if how == "stays" else "unexpectedly"
        deadline_s = time.monotonic() + 60
        while awaited not in log.read_text():
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        return Joined(
            id="settled", node=node, ports=Ports(), token_file=tmp_path / "token", temp_dir=tmp_path, processes=(ref,)
        )

    monkeypatch.setattr(start, "SETTLED_AFTER_S", 0.5)
    yield made
    end(started, "settled", grace_s=1.0)


def test_a_ray_that_ends_right_after_it_came_up_is_told_with_its_reason(member):
    with pytest.raises(ClusterFailure, match=r"10\.0\.0\.1:6379: Ray came up and ended at once: .*unexpectedly"):
        await_settled(member("ends"), time.monotonic())


def test_a_ray_that_stays_is_up(member):
    node = member("stays")
    await_settled(node, time.monotonic())
    end(node.processes, node.id, grace_s=1.0)
    with pytest.raises(ClusterFailure, match="ended at once"):
        await_settled(node, time.monotonic())
