"""A head on loopback, and a head with a worker as if in a LAN (127.0.0.2 and 127.0.0.3), through the real command."""

import importlib.metadata
import json
import platform
import sys
import time

import psutil
import pytest

from cluster.head import Head, Joined
from tests.cluster.pcs import Pc, await_listening, call, members

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A head that nothing outside this machine may reach."""
    pc = Pc(tmp_path_factory.mktemp("alone"))
    pc.vr("head", "--port", "0", "--num-cpus", "1", "--yes")
    yield pc
    pc.vr("down", "--yes")


@pytest.fixture(scope="module")
def lan(tmp_path_factory):
    """A head and a worker, each with its own account, on two addresses."""
    first, second = Pc(tmp_path_factory.mktemp("first")), Pc(tmp_path_factory.mktemp("second"))
    inventory = first.home / "home.yaml"
    inventory.write_text(
        "nodes:\n"
        "  - {name: attic, address: 127.0.0.2, role: head, cpus: 1, gpus: []}\n"
        "  - {name: study, address: 127.0.0.3, cpus: 1, gpus: [], labels: {room: study}}\n"
    )
    try:
        first.vr("head", str(inventory), "--port", "0", "--yes")
        yield first, second, inventory
    finally:
        second.vr("down", "--yes")
        first.vr("down", "--yes")


def test_a_head_without_an_address_listens_on_loopback_alone(alone):
    head = alone.record(Head, "head.json")
    singles = set(head.ports.singles(head=True, lan=False).values())
    sockets = await_listening(head, singles)
    assert {address for address, _ in sockets} == {"127.0.0.1"}
    workers = range(head.ports.worker_low, head.ports.worker_high + 1)
    assert {port for _, port in sockets if port not in workers} == singles


def test_the_same_command_again_changes_nothing(alone):
    before = (alone.state / "head.json").read_text()
    assert "nothing was changed" in alone.vr("head", "--port", "0", "--num-cpus", "1")
    assert (alone.state / "head.json").read_text() == before
    assert "already runs here with another cpus" in alone.vr("head", "--port", "0", "--num-cpus", "2", code=2)


def test_a_job_needs_the_token(alone):
    head = alone.record(Head, "head.json")
    jobs = f"{head.dashboard_url}/api/jobs/"
    job = {"entrypoint": f"{sys.executable} -c 'print(6 * 7)'"}
    assert call(jobs, None, job)[0] == 401
    assert call(jobs, "0" * 64, job)[0] == 403
    code, answer = call(jobs, alone.token, job)
    assert code == 200
    url = jobs + answer["submission_id"]
    deadline = time.monotonic() + 120
    while (state := call(url, alone.token)[1])["status"] in ("PENDING", "RUNNING") and time.monotonic() < deadline:
        time.sleep(0.2)
    assert state["status"] == "SUCCEEDED", state["message"]
    assert call(f"{url}/logs", alone.token)[1]["logs"].strip().endswith("42")


def test_the_token_is_in_no_argument_and_no_log(alone):
    head = alone.record(Head, "head.json")
    for process in members(head):
        assert alone.token not in " ".join(process.cmdline())
    logs = [*alone.state.glob("*.log"), *(head.temp_dir / "session_latest" / "logs").rglob("*.*")]
    assert len(logs) > 10
    for log in logs:
        assert alone.token not in log.read_text(errors="replace"), log


def test_without_a_terminal_nothing_changes_unless_agreed(tmp_path, alone):
    nobody = Pc(tmp_path)
    assert "add --yes" in nobody.vr("head", "--port", "0", code=2)
    assert "add --yes" in alone.vr("down", code=2)
    assert not (nobody.state / "head.json").exists()


def test_where_no_head_runs_the_line_says_what_to_type(tmp_path):
    assert "vr cluster head" in Pc(tmp_path).vr("status", code=2)


def test_a_wrong_token_and_a_dead_address_get_a_line_and_leave_nothing(lan):
    first, second, _ = lan
    head = first.record(Head, "head.json")
    wrong = second.home / "wrong-token"
    wrong.touch(mode=0o600)
    wrong.write_text("0" * 64)
    own = ("--address", "127.0.0.3", "--port", "0", "--yes")
    said = second.vr("join", head.gcs_address, "--token-file", str(wrong), *own, code=2)
    assert "does not accept this token" in said
    said = second.vr("join", "127.0.0.2:1999", "--token-file", str(wrong), *own, code=1)
    assert "127.0.0.2:1999: no Ray head answers there (Connection refused)" in said
    assert {path.suffix for path in second.state.glob("joined-*")} == {".log"}
    assert "Nothing runs here" in second.vr("down", "--yes")


def test_a_second_node_joins_with_its_labels_and_leaves_again(lan):
    first, second, inventory = lan
    head = first.record(Head, "head.json")
    token = second.home / "vr-token"
    token.touch(mode=0o600)
    token.write_text(first.token)
    line = ("join", head.gcs_address, "--token-file", str(token), "--inventory", str(inventory), "--port", "0")
    assert "study has joined" in second.vr(*line, "--address", "127.0.0.3", "--yes")
    assert "is in the cluster" in second.vr(*line, "--address", "127.0.0.3")

    nodes = {node["name"]: node for node in json.loads(first.vr("status", "--json"))["nodes"]}
    assert set(nodes) == {"attic", "study"}
    assert nodes["attic"]["head"]
    assert nodes["study"]["address"] == "127.0.0.3"
    assert {"vr/node": "study", "vr/gpu-count": "0", "room": "study"}.items() <= nodes["study"]["labels"].items()
    assert nodes["study"]["version"] == importlib.metadata.version("vr")
    assert nodes["study"]["python"] == platform.python_version()
    assert nodes["study"]["link_mbit"] is None, "loopback"
    assert "run this on that head" in second.vr("status", code=2)

    joined = second.record(Joined, "joined-study.json")
    singles = set(joined.ports.singles(head=False).values())
    sockets = await_listening(joined, singles)
    workers = range(joined.ports.worker_low, joined.ports.worker_high + 1)
    assert {port for _, port in sockets if port not in workers} == singles
    # What README.md says: with a LAN address Ray opens these on every interface, whatever it is told.
    everywhere = {port for address, port in sockets if address in ("*", "0.0.0.0", "::") and port in singles}
    names = {name for name, port in joined.ports.singles(head=False).items() if port in everywhere}
    assert names == {"node_manager", "object_manager", "dashboard_agent_grpc", "metrics"}

    assert "Ended: study" in second.vr("down", "--yes")
    assert members(joined) == []
    assert {path.suffix for path in second.state.glob("joined-*")} == {".log"}
    assert json.loads(first.vr("status", "--json"))["nodes"][0]["alive"]


def test_a_lan_head_keeps_its_dashboard_on_loopback(lan):
    head = lan[0].record(Head, "head.json")
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


def test_without_the_inventory_the_same_head_keeps_it(lan):
    kept = lan[0].state / "inventory.json"
    before = kept.read_text()
    again = ("--address", "127.0.0.2", "--name", "attic", "--num-cpus", "1", "--port", "0")
    assert "nothing was changed" in lan[0].vr("head", *again)
    assert kept.read_text() == before


def test_down_ends_all_of_one_head_and_nothing_of_another(alone, lan):
    head, other = alone.record(Head, "head.json"), lan[0].record(Head, "head.json")
    mine, theirs = members(head), members(other)
    assert len(mine) > 10
    assert [ref.name for ref in head.processes] == ["ray", "keeper"]
    # What `ray start` would end by itself must be ended even when that is gone.
    psutil.Process(head.ray.pid).kill()
    assert "has died" in alone.vr("status", code=2)
    assert "Ended" in alone.vr("down", "--yes")
    assert members(head) == []
    assert {p.pid for p in theirs} <= {p.pid for p in members(other)}
    assert call(f"{other.dashboard_url}/api/version", lan[0].token)[0] == 200
