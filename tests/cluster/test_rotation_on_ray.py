"""The token is changed while a run goes on, then all is taken down: the real command on two addresses."""

import json
from dataclasses import dataclass

import pytest

from cluster.node.head import Head, Joined
from jobs.runs.folder import RunFolder
from tests.cluster.pcs import call, code_in, fresh_code, members
from tests.jobs.heads import wait_for
from tests.jobs.lines import start_line

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("head"), pytest.mark.breaks]


@dataclass(frozen=True)
class Rotated:
    """What was before, and what `vr cluster rotate` said."""

    run: RunFolder
    """It was under way."""
    token: str
    code: str
    """An unused join code."""
    head: Head
    node: Joined
    said: str


@pytest.fixture(scope="module")
def rotated(loopback, tmp_path_factory):
    attic, head = loopback.attic, loopback.head
    # On the head: the other node is out until it joins again.
    run = start_line(
        head, tmp_path_factory.mktemp("run"), seed=4, workers={"count": 1, "labels": [{"vr/node": "attic"}]}
    )
    wait_for("some steps", lambda: run.last_step() >= 4, head, run)
    code, token = code_in(fresh_code(attic)), attic.token
    assert "add --yes" in attic.typed("rotate", code=2)
    assert attic.token == token
    node = loopback.node
    return Rotated(run, token, code, head, node, attic.vr("rotate", "--yes"))


def test_the_old_token_and_codes_are_void_and_the_pc_joins_anew(loopback, rotated):
    head, renewed = rotated.head, loopback.head
    assert loopback.attic.token not in ("", rotated.token)
    assert (renewed.node, renewed.ports) == (head.node, head.ports)
    assert [ref.name for ref in renewed.processes] == ["ray", "keeper", "admission"]
    assert not {ref.pid for ref in head.processes} & {ref.pid for ref in renewed.processes}
    jobs = f"{renewed.dashboard_url}/api/jobs/"
    assert call(jobs, rotated.token)[0] == 403
    assert call(jobs, loopback.attic.token)[0] == 200

    own = ("--address", "127.0.0.3", "--inventory", str(loopback.inventory), "--port", "0", "--yes")
    assert "another certificate than the code's" in loopback.cellar.typed("join", rotated.code, *own, code=2)
    assert "cellar has joined" in loopback.cellar.vr("join", code_in(rotated.said, "on cellar"), *own)
    assert loopback.node.id != rotated.node.id
    assert members(rotated.node) == []
    nodes = {node["name"]: node["alive"] for node in json.loads(loopback.attic.typed("status", "--json"))["nodes"]}
    assert nodes["cellar"]


def test_the_run_goes_on(loopback, rotated):
    run = rotated.run
    wait_for("the end", lambda: run.state().state not in ("pending", "running"), loopback.head, run)
    assert (run.state().state, run.last_step(), run.state().attempt) == ("finished", 6, 2)
    loopback.changed()


def test_down_ends_what_came_back_and_was_started_again(loopback):
    head, joined = loopback.head, loopback.node
    assert len(members(head)) > 10
    assert "Ended: cellar" in loopback.cellar.vr("down", "--yes")
    assert members(joined) == []
    assert "Ended: attic" in loopback.attic.vr("down", "--yes")
    assert members(head) == []
    loopback.changed()
