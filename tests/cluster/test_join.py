"""A PC joins by a code and leaves again: the real command, on a third address."""

import json
import time

import psutil
import pytest

from cluster.joining.invitations import Invitations
from cluster.node.head import Joined, unchanging
from cluster.node.processes import alive
from cluster.node.supervise import POLL_S
from tests.cluster.pcs import Pc, code_in, fresh_code, members

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("head")]

OWN = ("--address", "127.0.0.4", "--name", "study", "--num-cpus", "1", "--port", "0")


@pytest.fixture(scope="module")
def study(loopback, tmp_path_factory):
    pc = Pc(tmp_path_factory.mktemp("study"))
    yield pc
    pc.typed("down", "--yes")


def invitations(pc):
    return Invitations.model_validate_json((pc.state / "invitations.json").read_text()).invitations


def test_one_line_on_the_other_pc_joins_it(loopback, study):
    first, head = loopback.attic, loopback.head
    assert [ref.name for ref in head.processes] == ["ray", "keeper", "admission"]
    code = code_in(fresh_code(first))
    said = fresh_code(first)
    assert code_in(said) != code
    assert "nothing was changed" in said
    assert loopback.head == head

    typo = code[:12] + ("A" if code[12] != "A" else "B") + code[13:]
    assert "the join code has a typo" in study.typed("join", typo, *OWN, "--yes", code=2)
    said = study.typed("join", code, *OWN, code=2)
    assert "add --yes" in said
    assert "address 127.0.0.4 on lo" in said

    assert "study has joined 127.0.0.2" in study.vr("join", code, *OWN, "--yes")
    nodes = {node["name"]: node["alive"] for node in json.loads(first.typed("status", "--json"))["nodes"]}
    assert nodes["study"]
    assert [i.used_by is not None for i in invitations(first)[-2:]] == [True, False]
    assert "the code was used already" in study.typed("join", code, *OWN, "--yes", code=2)


def test_a_pc_that_is_in_the_cluster_uses_no_code_up(loopback, study):
    before = study.record(Joined, "joined-study.json")
    assert "is in the cluster of 127.0.0.2" in study.typed("join", code_in(fresh_code(loopback.attic)), *OWN)
    assert study.record(Joined, "joined-study.json") == before
    assert invitations(loopback.attic)[-1].used_by is None
    # Nor does who has the token in a file need to agree to anything.
    token = ("--token-file", str(loopback.attic.state / "token"))
    assert "is in the cluster" in study.typed("join", loopback.head.gcs_address, *token, *OWN)


def test_a_node_that_has_an_earlier_token_would_be_ended_first(loopback, study):
    joined = study.record(Joined, "joined-study.json")
    token = study.token_of(joined)
    joined.token_file.write_text("0" * 64)
    try:
        said = study.typed("join", code_in(fresh_code(loopback.attic)), *OWN, code=2)
    finally:
        joined.token_file.write_text(token + "\n")
    assert "ends this PC's node, which has an earlier token" in said
    assert "add --yes" in said
    assert study.record(Joined, "joined-study.json") == joined


def test_the_token_is_in_no_argument_and_no_log_of_any(loopback, study):
    token = loopback.attic.token
    pcs = [
        (loopback.attic, loopback.head),
        (loopback.cellar, loopback.node),
        (study, study.record(Joined, "joined-study.json")),
    ]
    for pc, member in pcs:
        for process in members(member):
            assert token not in " ".join(process.cmdline())
        logs = [*pc.state.glob("*.log"), *(member.temp_dir / "session_latest" / "logs").rglob("*.*")]
        assert len(logs) > 10
        for log in logs:
            assert token not in log.read_text(errors="replace"), log


def test_companions_that_died_are_started_again_by_themselves(loopback, study):
    head = loopback.head
    ray, *before = head.processes
    assert {ref.name for ref in before} == {"keeper", "admission"}
    for ref in before:
        psutil.Process(ref.pid).kill()
    deadline_s = time.monotonic() + 60
    while set(before) & set(loopback.head.processes) or not all(alive(ref) for ref in loopback.head.processes):
        assert time.monotonic() < deadline_s, loopback.head.processes
        time.sleep(0.1)
    again = loopback.head
    assert again.ray == ray
    assert {ref.name for ref in again.processes[1:]} == {"keeper", "admission"}
    said = ray.log.read_text()
    assert all(f"supervisor: {ref.name} has ended; starting it again" in said for ref in before)
    assert "is in the cluster" in study.typed("join", code_in(fresh_code(loopback.attic)), *OWN)


def test_a_companion_that_died_while_a_command_is_at_work_is_left_to_it(loopback):
    [endpoint] = [ref for ref in loopback.head.processes if ref.name == "admission"]
    with unchanging():
        psutil.Process(endpoint.pid).kill()
        time.sleep(5 * POLL_S)  # nothing tells that the supervisor has looked
        assert endpoint in loopback.head.processes
    assert "join" in fresh_code(loopback.attic)
    assert endpoint not in loopback.head.processes


def test_a_node_leaves_and_the_rest_stays(loopback, study):
    joined = study.record(Joined, "joined-study.json")
    assert "Ended: study" in study.vr("down", "--yes")
    assert members(joined) == []
    assert {path.suffix for path in study.state.glob("joined-*")} == {".log"}
    nodes = {node["name"]: node["alive"] for node in json.loads(loopback.attic.typed("status", "--json"))["nodes"]}
    assert (nodes["attic"], nodes["cellar"], nodes["study"]) == (True, True, False)
