import json
import os
import subprocess
from pathlib import Path

import pytest

from cluster.inventory import Inventory, NodeSpec
from cluster.node.drain import Drained
from cluster.node.head import Joined, write_member
from cluster.node.processes import ProcessRef, spawn
from cluster.node.ray_start import MARKER, NodeStart, Ports
from cluster.remote.up import LOOK, parse_look
from cluster.remote.up_plan import (
    CODE,
    MARK,
    Found,
    Membership,
    Step,
    described,
    endings,
    plan_rejoin,
    plan_up,
    python_of,
    workers,
)

STUDY = NodeSpec(name="study", address="192.168.1.11")
DEN = NodeSpec(name="den", address="192.168.1.12", python=Path("/opt/vr/bin/python"))
HOME = Inventory(nodes=(NodeSpec(name="attic", address="192.168.1.10", role="head"), STUDY, DEN))
OURS = "0" * 64
ALL = (Step.COPY, Step.ENVIRONMENT, Step.JOIN)


def plan(study=None, den=None, in_cluster=(), drained=()):
    found = {"study": study or Found(), "den": den or Found()}
    taken = {name: Drained(name=name, by="user", since_s=0, leaves_s=0) for name in drained}
    return {plan.node.name: plan for plan in plan_up(HOME, found, OURS, in_cluster, taken)}


def test_the_head_is_no_worker():
    assert workers(HOME) == (STUDY, DEN)


def test_a_new_pc_gets_the_code_its_environment_and_joins_and_one_that_has_an_environment_joins():
    plans = plan()
    assert (plans["study"].state, plans["study"].steps) == ("joins", ALL)
    assert (plans["den"].state, plans["den"].steps) == ("joins", (Step.JOIN,))
    assert all(plan.changes for plan in plans.values())
    assert described(plans["study"]) == "gets the code, its environment, joins"


@pytest.mark.parametrize("code", ["1" * 64, None])
def test_other_code_or_half_of_it_is_replaced_under_a_node_that_stays(code):
    plans = plan(study=Found(code=code), in_cluster={"study"})
    assert (plans["study"].state, plans["study"].steps) == ("in the cluster", ALL)
    assert plans["study"].changes
    assert described(plans["study"]) == "gets the code, its environment, stays in the cluster"


def test_where_all_is_as_it_should_be_nothing_changes():
    plans = plan(study=Found(code=OURS), in_cluster={"study", "den"})
    assert not any(plan.changes for plan in plans.values())
    assert {plan.steps for plan in plans.values()} == {(Step.JOIN,)}, "settings that have changed are still found"
    assert {described(plan) for plan in plans.values()} == {"in the cluster, nothing to do"}


def test_a_pc_that_is_off_refuses_or_is_drained_has_no_steps():
    plans = plan(study=Found(off="no answer at 192.168.1.11:22"), den=Found(refused="Permission denied"))
    assert described(plans["study"]) == "off (no answer at 192.168.1.11:22): left out"
    assert described(plans["den"]) == "on, but ssh does not get in (Permission denied)"
    assert {plan.steps for plan in plans.values()} == {()}
    plans = plan(drained={"study"})
    assert (plans["study"].state, plans["study"].steps) == ("drained", ())
    assert "study is drained until" in described(plans["study"])
    assert not plans["study"].changes


def test_down_ends_what_is_in_this_cluster_on_the_python_that_it_runs_on_and_nothing_else():
    other = Membership("192.168.1.99:6379", "/elsewhere/python")
    by_hand = Membership("192.168.1.10:7000", "/home/sam/vr/.venv/bin/python")
    dead = Membership("192.168.1.10:7000", None)
    head = HOME.head.address
    assert endings(Found(memberships=(other,)), STUDY, head) == []
    assert endings(Found(memberships=(other, by_hand, by_hand)), STUDY, head) == [by_hand.python]
    assert endings(Found(memberships=(dead,)), STUDY, head) == [python_of(STUDY)] == [f"{CODE}/.venv/bin/python"]
    assert endings(Found(memberships=(dead,)), DEN, head) == ["/opt/vr/bin/python"]


def test_after_another_token_what_is_in_the_cluster_joins_again_as_it_is_and_nothing_else():
    other, ours = Membership("192.168.1.99:6379", "/elsewhere/python"), Membership("192.168.1.10:7000", "/home/sam/py")
    head = HOME.head.address
    [study, den] = plan_rejoin(
        HOME, {"study": Found(memberships=(other, ours)), "den": Found(off="no answer")}, {}, head
    )
    assert (study.steps, python_of(study.node)) == ((Step.JOIN,), "/home/sam/py")
    assert (den.state, den.steps) == ("off", ())
    drained = {"study": Drained(name="study", by="user", since_s=0, leaves_s=0)}
    found = {"study": Found(memberships=(ours,)), "den": Found(memberships=(other,))}
    [study] = plan_rejoin(HOME, found, drained, head)
    assert (study.state, study.steps) == ("drained", ())


def test_what_a_login_shell_says_of_its_own_is_passed_over():
    text = (
        "Welcome to study!\ncode\ncode abc\njoined 192.168.1.10:6379 \njoined 192.168.1.10:6379 /a b/python\njoined\n"
    )
    assert parse_look(text) == Found(
        code="abc",
        memberships=(Membership("192.168.1.10:6379", None), Membership("192.168.1.10:6379", "/a b/python")),
    )
    assert parse_look("") == Found()


def look(home):
    """What the script that is sent to a PC says in the home folder `home`, through the smallest shell there is."""
    environment = {"HOME": str(home), "PATH": os.environ["PATH"]}
    argv = ["sh", "-c", LOOK, "sh", str(CODE), MARK, MARKER]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env=environment, cwd=home)
    assert done.stderr == ""
    return parse_look(done.stdout)


def joined(home, ref):
    node = NodeStart(
        name="study",
        address="192.168.1.11",
        interface="eno1",
        cpus=1,
        gpus=(),
        labels={"head": "none", "id": "none"},
        object_store_mib=200,
        head="192.168.1.10:6379",
    )
    token, folder = home / "token", home / "ray"
    return Joined(id="0123456789abcdef", node=node, ports=Ports(), token_file=token, temp_dir=folder, processes=(ref,))


def test_a_pc_says_what_is_ready_and_what_runs_there(tmp_path):
    state, code = tmp_path / ".local/state/vr", tmp_path / CODE
    assert look(tmp_path) == Found()
    for folder in (state, code):
        folder.mkdir(parents=True)
    (code / MARK).write_text(f"{OURS}\n")
    assert look(tmp_path) == Found(code=OURS)

    argv = ["/bin/sleep", "600"]
    ref = spawn("ray", argv, {MARKER: "0123456789abcdef"}, tmp_path / "log", tmp_path)
    try:
        write_member(state / "joined-study.json", joined(tmp_path, ref))
        assert look(tmp_path).memberships == (Membership("192.168.1.10:6379", "/bin/sleep"),)
    finally:
        os.kill(ref.pid, 9)


def test_a_number_that_is_another_process_by_now_is_not_taken_for_ours(tmp_path):
    state = tmp_path / ".local/state/vr"
    state.mkdir(parents=True)
    ref = ProcessRef(name="ray", pid=os.getpid(), start_ticks=1, boot_id="0", log=tmp_path / "log")
    write_member(state / "joined-study.json", joined(tmp_path, ref))
    assert json.loads((state / "joined-study.json").read_text())["node"]["head"] == "192.168.1.10:6379"
    assert look(tmp_path).memberships == (Membership("192.168.1.10:6379", None),)
