"""Ray that was killed comes back by itself, on the head and on a node."""

import os
import sys
import time

import psutil
import pytest

from tests.cluster.pcs import await_job, call, fresh_code, job_log, members, submit

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("head"), pytest.mark.breaks]

PATIENCE_S = 100.0
TASK = """
import ray
ray.init(log_to_driver=False)
print(ray.get(ray.remote(lambda: 6 * 7).options(num_cpus=1, label_selector={"vr/node": "cellar"}).remote()))
"""


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


def run_on_cellar(head, token, folder):
    script = folder / "task.py"
    script.write_text(TASK)
    job = submit(head, token, f"{sys.executable} {script}")
    state = await_job(head, token, job, "SUCCEEDED", "FAILED", "STOPPED")
    logs = job_log(head, token, job)
    assert state["status"] == "SUCCEEDED", (state, logs)
    return logs.split()[-1]


def test_a_head_whose_ray_was_killed_is_back_and_its_node_was_never_gone(loopback, tmp_path):
    head, joined, token = loopback.head, loopback.node, loopback.attic.token
    before = node_ids(head, token)
    jobs = f"{head.dashboard_url}/api/jobs/"
    running = submit(head, token, "sleep 600")
    await_job(head, token, running, "RUNNING")
    raylet = [process.pid for process in ray_of(joined) if process.name() == "raylet"]

    kill_all_of_ray(head)
    await_true(lambda: len(node_ids(head, token)) == 2, "head and node")
    after = node_ids(head, token)
    assert after["attic"] != before["attic"]
    assert after["cellar"] == before["cellar"]
    assert [process.pid for process in ray_of(joined) if process.name() == "raylet"] == raylet
    assert loopback.head == head
    # The keeper takes up what failed; a job that is said to run for ever it would wait for.
    await_job(head, token, running, "FAILED")
    assert call(jobs, "0" * 64, {"entrypoint": "true"})[0] == 403
    assert run_on_cellar(head, token, tmp_path) == "42"
    assert "nothing was changed" in fresh_code(loopback.attic)


def test_a_head_whose_dashboard_has_ended_starts_again_with_one(loopback):
    """Ray makes nothing of a dashboard that ends by itself, and is of no use without it."""
    head, token = loopback.head, loopback.attic.token
    [dashboard] = [process for process in ray_of(head) if "dashboard.py" in " ".join(process.cmdline())]
    before = node_ids(head, token)["attic"]
    dashboard.terminate()
    await_true(lambda: node_ids(head, token).get("attic", before) != before, "another attic")
    await_true(lambda: len(node_ids(head, token)) == 2, "head and node")
    assert "supervisor: the dashboard has ended" in head.ray.log.read_text()
    assert loopback.head == head


def test_a_node_whose_ray_was_killed_joins_again_by_itself(loopback, tmp_path):
    head, joined, token = loopback.head, loopback.node, loopback.attic.token
    before = node_ids(head, token)["cellar"]
    kill_all_of_ray(joined)
    await_true(lambda: node_ids(head, token).get("cellar", before) != before, "another cellar")
    assert loopback.node == joined
    assert run_on_cellar(head, token, tmp_path) == "42"
