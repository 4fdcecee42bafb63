"""A PC joins by a code, again by another, and anew after the token was changed: the real command on two addresses."""

import json

import psutil
import pytest

from cluster.head import Head, Joined
from cluster.invitations import Invitations
from tests.cluster.pcs import Pc, call, members

pytestmark = pytest.mark.ray

OWN = ("--address", "127.0.0.3", "--name", "study", "--num-cpus", "1", "--port", "0")


@pytest.fixture(scope="module")
def pcs(tmp_path_factory):
    first, second = Pc(tmp_path_factory.mktemp("first")), Pc(tmp_path_factory.mktemp("second"))
    try:
        yield first, second
    finally:
        second.vr("down", "--yes")
        first.vr("down", "--yes")


def code_in(said, after="to join"):
    lines = said[said.index(after) :].splitlines()
    return next(line.split()[-1] for line in lines if "vr cluster join" in line and "-" in line.split()[-1])


def fresh_code(first):
    said = first.vr("head", "--address", "127.0.0.2", "--port", "0", "--num-cpus", "1", "--yes")
    return code_in(said), said


def invitations(pc):
    return Invitations.model_validate_json((pc.state / "invitations.json").read_text()).invitations


def test_one_line_on_the_other_pc_joins_it(pcs):
    first, second = pcs
    code, said = fresh_code(first)
    assert "The head runs." in said
    head = first.record(Head, "head.json")
    assert [ref.name for ref in head.processes] == ["ray", "keeper", "admission"]

    other, said = fresh_code(first)
    assert other != code
    assert "nothing was changed" in said
    assert first.record(Head, "head.json") == head

    typo = code[:12] + ("A" if code[12] != "A" else "B") + code[13:]
    assert "the join code has a typo" in second.vr("join", typo, *OWN, "--yes", code=2)
    said = second.vr("join", code, *OWN, code=2)
    assert "add --yes" in said
    assert "address 127.0.0.3 on lo" in said

    assert "study has joined 127.0.0.2" in second.vr("join", code, *OWN, "--yes")
    nodes = {node["name"]: node["alive"] for node in json.loads(first.vr("status", "--json"))["nodes"]}
    assert nodes["study"]
    assert [i.used_by is not None for i in invitations(first)] == [True, False]
    assert "the code was used already" in second.vr("join", code, *OWN, "--yes", code=2)


def test_a_pc_that_is_in_the_cluster_uses_no_code_up(pcs):
    first, second = pcs
    before = second.record(Joined, "joined-study.json")
    assert "is in the cluster of 127.0.0.2" in second.vr("join", fresh_code(first)[0], *OWN)
    assert second.record(Joined, "joined-study.json") == before
    assert invitations(first)[-1].used_by is None


def test_the_token_is_in_no_argument_and_no_log_of_either(pcs):
    for pc, kind, name in ((pcs[0], Head, "head.json"), (pcs[1], Joined, "joined-study.json")):
        member = pc.record(kind, name)
        for process in members(member):
            assert pcs[0].token not in " ".join(process.cmdline())
        for log in [*pc.state.glob("*.log"), *(member.temp_dir / "session_latest" / "logs").rglob("*.*")]:
            assert pcs[0].token not in log.read_text(errors="replace"), log


def test_after_a_rotation_the_old_token_and_codes_are_void_and_the_pc_joins_anew(pcs):
    first, second = pcs
    void, old_token = fresh_code(first)[0], first.token
    head, node = first.record(Head, "head.json"), second.record(Joined, "joined-study.json")
    assert "add --yes" in first.vr("rotate", code=2)
    assert first.token == old_token

    said = first.vr("rotate", "--yes")
    renewed = first.record(Head, "head.json")
    assert first.token not in ("", old_token)
    assert (renewed.node, renewed.ports) == (head.node, head.ports)
    assert [ref.name for ref in renewed.processes] == ["ray", "keeper", "admission"]
    assert not {ref.pid for ref in head.processes} & {ref.pid for ref in renewed.processes}
    jobs = f"{renewed.dashboard_url}/api/jobs/"
    assert call(jobs, old_token)[0] == 403
    assert call(jobs, first.token)[0] == 200

    assert "another certificate than the code's" in second.vr("join", void, *OWN, "--yes", code=2)
    joined = second.vr("join", code_in(said, "on study"), *OWN, "--yes")
    assert "ends this PC's node, which has an earlier token" in joined
    assert "study has joined" in joined
    assert second.record(Joined, "joined-study.json").id != node.id
    assert members(node) == []
    nodes = {node["name"]: node["alive"] for node in json.loads(first.vr("status", "--json"))["nodes"]}
    assert nodes["study"]


def test_the_companion_that_died_is_started_again_for_the_next_code(pcs):
    first, _ = pcs
    head = first.record(Head, "head.json")
    endpoint = psutil.Process(head.processes[2].pid)
    endpoint.kill()
    code, _ = fresh_code(first)
    again = first.record(Head, "head.json")
    assert again.ray == head.ray
    assert again.processes[2] != head.processes[2]
    assert "is in the cluster" in pcs[1].vr("join", code, *OWN)
