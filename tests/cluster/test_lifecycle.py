"""A head that is for this machine alone, and a head with a node as if in a LAN, through the real command."""

import importlib.metadata
import json
import platform
import sys

import psutil
import pytest

from cluster.node.head import Head
from tests.cluster.pcs import Pc, await_job, await_listening, call, fresh_code, job_log, members, submit

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("head")]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A head that nothing outside this machine may reach."""
    pc = Pc(tmp_path_factory.mktemp("alone"))
    pc.vr("head", "--port", "0", "--num-cpus", "1", "--yes")
    yield pc
    pc.typed("down", "--yes")


def test_a_head_without_an_address_listens_on_loopback_alone(alone):
    head = alone.record(Head, "head.json")
    singles = set(head.ports.singles(head=True, lan=False).values())
    sockets = await_listening(head, singles)
    assert {address for address, _ in sockets} == {"127.0.0.1"}
    workers = range(head.ports.worker_low, head.ports.worker_high + 1)
    assert {port for _, port in sockets if port not in workers} == singles


def test_the_same_command_again_changes_nothing(alone):
    before = (alone.state / "head.json").read_text()
    assert "nothing was changed" in alone.typed("head", "--port", "0", "--num-cpus", "1")
    assert (alone.state / "head.json").read_text() == before
    assert "already runs here with another cpus" in alone.typed("head", "--port", "0", "--num-cpus", "2", code=2)


def test_without_a_terminal_nothing_changes_unless_agreed(tmp_path, alone):
    nobody = Pc(tmp_path)
    assert "add --yes" in nobody.typed("head", "--port", "0", code=2)
    assert "add --yes" in alone.typed("down", code=2)
    assert not (nobody.state / "head.json").exists()


def test_down_ends_all_of_one_head_and_nothing_of_another(alone, loopback):
    head, other = alone.record(Head, "head.json"), loopback.head
    mine, theirs = members(head), members(other)
    assert len(mine) > 10
    assert [ref.name for ref in head.processes] == ["ray", "keeper"]
    # What `ray start` would end by itself must be ended even when that is gone.
    psutil.Process(head.ray.pid).kill()
    assert "has died" in alone.vr("status", code=2)
    assert "Ended" in alone.vr("down", "--yes")
    assert members(head) == []
    assert {p.pid for p in theirs} <= {p.pid for p in members(other)}
    assert call(f"{other.dashboard_url}/api/version", loopback.attic.token)[0] == 200


def test_where_no_head_runs_the_line_says_what_to_type(tmp_path):
    assert "vr cluster head" in Pc(tmp_path).typed("status", code=2)


def test_a_job_needs_the_token(loopback):
    head, token = loopback.head, loopback.attic.token
    jobs = f"{head.dashboard_url}/api/jobs/"
    entrypoint = f"{sys.executable} -c 'print(6 * 7)'"
    assert call(jobs, None, {"entrypoint": entrypoint})[0] == 401
    assert call(jobs, "0" * 64, {"entrypoint": entrypoint})[0] == 403
    job = submit(head, token, entrypoint)
    state = await_job(head, token, job, "SUCCEEDED", "FAILED", "STOPPED")
    assert state["status"] == "SUCCEEDED", state["message"]
    assert job_log(head, token, job).strip().endswith("42")


def test_a_wrong_token_and_a_dead_address_get_a_line_and_leave_nothing(loopback, tmp_path):
    stranger = Pc(tmp_path)
    wrong = tmp_path / "wrong-token"
    wrong.touch(mode=0o600)
    wrong.write_text("0" * 64)
    own = ("--address", "127.0.0.4", "--name", "shed", "--port", "0", "--yes")
    said = stranger.typed("join", loopback.head.gcs_address, "--token-file", str(wrong), *own, code=2)
    assert "does not accept this token" in said
    said = stranger.typed("join", "127.0.0.2:1999", "--token-file", str(wrong), *own, code=1)
    assert "127.0.0.2:1999: no Ray head answers there (Connection refused)" in said
    assert {path.suffix for path in stranger.state.glob("joined-*")} == {".log"}
    assert "Nothing runs here" in stranger.typed("down", "--yes")


def test_a_node_shows_its_labels_and_opens_what_the_guide_says(loopback):
    rows = json.loads(loopback.attic.typed("status", "--json"))["nodes"]
    nodes = {row["name"]: row for row in rows if row["alive"]}  # what has left is shown for a while
    assert set(nodes) == {"attic", "cellar"}
    assert nodes["attic"]["head"]
    cellar = nodes["cellar"]
    assert cellar["address"] == "127.0.0.3"
    assert {"vr/node": "cellar", "vr/gpu-count": "0", "room": "cellar"}.items() <= cellar["labels"].items()
    assert cellar["version"] == importlib.metadata.version("vr")
    assert cellar["python"] == platform.python_version()
    assert cellar["link_mbit"] is None, "loopback"
    assert "run this on that head" in loopback.cellar.typed("status", code=2)

    joined = loopback.node
    singles = set(joined.ports.singles(head=False).values())
    sockets = await_listening(joined, singles)
    workers = range(joined.ports.worker_low, joined.ports.worker_high + 1)
    assert {port for _, port in sockets if port not in workers} == singles
    # What cluster/GUIDE.md says: with a LAN address Ray opens these on every interface, whatever it is told.
    everywhere = {port for address, port in sockets if address in ("*", "0.0.0.0", "::") and port in singles}
    names = {name for name, port in joined.ports.singles(head=False).items() if port in everywhere}
    assert names == {"node_manager", "object_manager", "dashboard_agent_grpc", "metrics"}


def test_a_lan_head_keeps_its_dashboard_on_loopback(loopback):
    head = loopback.head
    singles = head.ports.singles(head=True)
    sockets = await_listening(head, set(singles.values()))
    assert {address for address, port in sockets if port == head.ports.dashboard} == {"127.0.0.1"}
    assert {address for address, port in sockets if port == head.ports.admission} == {"127.0.0.2"}
    everywhere = {port for address, port in sockets if address in ("*", "0.0.0.0", "::")}
    assert {name for name, port in singles.items() if port in everywhere} == {
        "gcs",
        "node_manager",
        "object_manager",
        "dashboard_agent_grpc",
        "metrics",
        "dashboard_metrics",
        "autoscaler_metrics",
    }


def test_without_the_inventory_the_same_head_keeps_it(loopback):
    kept = loopback.attic.state / "inventory.json"
    before = kept.read_text()
    assert "nothing was changed" in fresh_code(loopback.attic)
    assert kept.read_text() == before
