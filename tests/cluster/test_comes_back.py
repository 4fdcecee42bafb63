"""Ray that was killed comes back by itself, on the head and on a node: the real command on two addresses."""

import os
import sys
import time

import psutil
import pytest

from cluster.head import Head, Joined
from tests.cluster.pcs import Pc, call, members

pytestmark = pytest.mark.ray

PATIENCE_S = 100.0
TASK = """
import ray
ray.init(log_to_driver=False)
print(ray.get(ray.remote(lambda: 6 * 7).options(num_cpus=1, label_selector={"vr/node": "study"}).remote()))
"""


@pytest.fixture(scope="module")
def pcs(tmp_path_factory):
    first, second = Pc(tmp_path_factory.mktemp("first")), Pc(tmp_path_factory.mktemp("second"))
    try:
        first.vr("head", "--address", "127.0.0.2", "--name", "attic", "--num-cpus", "1", "--port", "0", "--yes")
        token = second.home / "vr-token"
        token.touch(mode=0o600)
        token.write_text(first.token)
        gcs = first.record(Head, "head.json").gcs_address
        own = ("--address", "127.0.0.3", "--name", "study", "--num-cpus", "1", "--port", "0", "--yes")
        second.vr("join", gcs, "--token-file", str(token), *own)
        yield first, second
    finally:
        second.vr("down", "--yes")
        first.vr("down", "--yes")


def await_true(condition, what, timeout_s=PATIENCE_S):
    start_s = time.monotonic()
    while not (value := condition()):
        assert time.monotonic() - start_s < timeout_s, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.1)
    print(f"{what}: {time.monotonic() - start_s:.1f} s")
    return value


def ray_of(member):
    """What its supervisor has started, and all of Ray besides: every process of its session but itself."""
    return [p for p in members(member) if p.pid != member.ray.pid and os.getsid(p.pid) == member.ray.pid]


def kill_all_of_ray(member):
    killed = ray_of(member)
    assert len(killed) > 4
    for process in killed:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(killed, timeout=10)


def node_ids(head, token):
    """Name → Ray's id of the nodes that live; empty while the head does not answer."""
    try:
        nodes = call(f"{head.dashboard_url}/api/v0/nodes", token)[1]["data"]["result"]["result"]
    except (OSError, TypeError):
        return {}
    return {node["node_name"]: node["node_id"] for node in nodes if node["state"] == "ALIVE"}


def run_on_study(head, token, folder):
    script = folder / "task.py"
    script.write_text(TASK)
    jobs = f"{head.dashboard_url}/api/jobs/"
    url = jobs + call(jobs, token, {"entrypoint": f"{sys.executable} {script}"})[1]["submission_id"]
    state = await_true(
        lambda: (s := call(url, token)[1])["status"] not in ("PENDING", "RUNNING") and s, "a job that runs on study"
    )
    logs = call(f"{url}/logs", token)[1]["logs"]
    assert state["status"] == "SUCCEEDED", (state, logs)
    return logs.split()[-1]


def test_a_head_whose_ray_was_killed_is_back_and_its_node_was_never_gone(pcs, tmp_path):
    first, second = pcs
    head, joined = first.record(Head, "head.json"), second.record(Joined, "joined-study.json")
    before = node_ids(head, first.token)
    jobs = f"{head.dashboard_url}/api/jobs/"
    running = jobs + call(jobs, first.token, {"entrypoint": "sleep 600"})[1]["submission_id"]
    await_true(lambda: call(running, first.token)[1]["status"] == "RUNNING", "a job runs")
    raylet = [process.pid for process in ray_of(joined) if process.name() == "raylet"]

    kill_all_of_ray(head)
    await_true(lambda: len(node_ids(head, first.token)) == 2, "head and node")
    after = node_ids(head, first.token)
    assert after["attic"] != before["attic"]
    assert after["study"] == before["study"]
    assert [process.pid for process in ray_of(joined) if process.name() == "raylet"] == raylet
    assert first.record(Head, "head.json") == head
    # The keeper takes up what failed; a job that is said to run for ever it would wait for.
    await_true(lambda: call(running, first.token)[1]["status"] == "FAILED", "the job that ran is said to have failed")
    assert call(jobs, "0" * 64, {"entrypoint": "true"})[0] == 403
    assert run_on_study(head, first.token, tmp_path) == "42"
    assert "nothing was changed" in first.vr(
        "head", "--address", "127.0.0.2", "--name", "attic", "--num-cpus", "1", "--port", "0"
    )


def test_a_node_whose_ray_was_killed_joins_again_by_itself(pcs, tmp_path):
    first, second = pcs
    head, joined = first.record(Head, "head.json"), second.record(Joined, "joined-study.json")
    before = node_ids(head, first.token)["study"]
    kill_all_of_ray(joined)
    await_true(lambda: node_ids(head, first.token).get("study", before) != before, "another study")
    assert second.record(Joined, "joined-study.json") == joined
    assert run_on_study(head, first.token, tmp_path) == "42"


def test_down_ends_what_came_back(pcs):
    first, second = pcs
    head, joined = first.record(Head, "head.json"), second.record(Joined, "joined-study.json")
    assert "Ended: study" in second.vr("down", "--yes")
    assert members(joined) == []
    assert "Ended: attic" in first.vr("down", "--yes")
    assert members(head) == []
