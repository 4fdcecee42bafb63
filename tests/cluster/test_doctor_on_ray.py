"""`vr cluster status` and `vr cluster doctor` beside a real head on loopback that runs a job."""

import json
import os
import shlex
import subprocess
import sys
import time

import pytest

from tests.cluster.pcs import stop, submit

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("head")]
# A driver, with a worker as training has them: an actor that holds a CPU.
JOB = """
import ray, time
ray.init(log_to_driver=False)
@ray.remote(num_cpus=1, label_selector={"vr/node": "attic"})
class Worker:
    def work(self):
        return 1
worker = Worker.remote()
ray.get(worker.work.remote())
time.sleep(600)
"""


@pytest.fixture(scope="module")
def busy(loopback):
    """A job of the run `test-1`, with a worker on attic."""
    head, token = loopback.head, loopback.attic.token
    line = f"{shlex.quote(sys.executable)} -c {shlex.quote(JOB)}"
    job = submit(head, token, line, submission_id="test-1.a1", metadata={"run": "test-1"})
    yield
    stop(head, token, job)


@pytest.mark.usefixtures("busy")
def test_status_shows_a_run_the_pc_and_who_is_missing(loopback, tmp_path):
    inventory = tmp_path / "home.yaml"
    inventory.write_text(
        "nodes:\n  - {name: attic, address: 192.168.1.10, role: head}\n  - {name: shed, address: 192.168.1.12}\n"
    )
    deadline = time.monotonic() + 120
    while True:
        answer = json.loads(loopback.attic.typed("status", str(inventory), "--json"))
        nodes = {node["name"]: node for node in answer["nodes"]}
        attic, shed = nodes["attic"], nodes["shed"]
        if attic["runs"] and attic["disk_bytes"] and attic["cpus_used"]:
            break
        assert time.monotonic() < deadline, attic
        time.sleep(0.5)
    assert (attic["name"], attic["state"], attic["runs"], attic["cpus_used"]) == ("attic", "alive", ["test-1"], 1.0)
    assert 0 < attic["memory_used_bytes"] < attic["memory_bytes"]
    assert 0 < attic["disk_free_bytes"] < attic["disk_bytes"]
    assert attic["since_s"] <= time.time()
    assert (shed["name"], shed["state"], shed["address"]) == ("shed", "missing", "192.168.1.12")
    assert answer["head"]["ray"].startswith("2.60.")
    shown = loopback.attic.typed("status", str(inventory))
    assert "test-1" in shown
    assert "has not joined" in shown


def doctor(pc, *arguments):
    # Its own home: the doctor also reads the token that another Ray of this machine may have left in `~/.ray`.
    environment = os.environ | {"HOME": str(pc.home), "XDG_STATE_HOME": str(pc.home), "COLUMNS": "200"}
    argv = [sys.executable, "-m", "jobs.cli", "cluster", "doctor", *arguments]
    return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=200)


def findings(pc):
    return {finding["check"]: finding for finding in json.loads(doctor(pc, "--json").stdout)["findings"]}


def test_the_doctor_finds_the_head_and_a_token_that_is_open_to_others(loopback):
    healthy = findings(loopback.attic)
    assert healthy["head"]["severity"] == "ok"
    assert healthy["head"]["nodes"] == ["attic"]
    token = loopback.attic.state / "token"
    assert healthy["token"]["measured"] == str(token)
    token.chmod(0o644)
    try:
        done = doctor(loopback.attic)
        assert done.returncode == 1
        assert f"{token}: mode 0644" in done.stdout
        assert "blocks  token" in done.stdout
        assert "blocks  head" in done.stdout
    finally:
        token.chmod(0o600)
