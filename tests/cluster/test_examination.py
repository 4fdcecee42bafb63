import functools
import itertools
import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.doctor.diagnosis import blocks, findings
from cluster.doctor.examination import Doctor, Patience, examine, needed_ports, rounds, steps
from cluster.inventory import Inventory
from cluster.node.ray_start import Ports, ports_from
from cluster.probe.readings import NodeProbe
from cluster.remote.probe_call import Ran, Unanswered, ask, python_here, python_there, read_as, run_here
from cluster.remote.shell import Unreached
from tests.command_line import vr
from vr_core.config import validate

PORTS = ports_from(29952)


@given(st.integers(1, 9))
def test_every_pair_meets_once_and_nobody_is_in_two_at_a_time(count):
    players = list(range(count))
    played = rounds(players)
    assert sorted(pair for round_ in played for pair in round_) == list(itertools.combinations(players, 2))
    for round_ in played:
        met = [player for pair in round_ for player in pair]
        assert len(met) == len(set(met))
    assert len(played) <= count + count % 2


def test_no_port_is_asked_for_that_only_its_own_node_needs():
    ports = Ports()
    assert {ports.dashboard, ports.client_server} & {*needed_ports(ports, head=True)} == set()
    assert ports.gcs in needed_ports(ports, head=True)
    assert ports.gcs not in needed_ports(ports, head=False)
    assert {ports.node_manager, ports.worker_low, ports.worker_high} <= {*needed_ports(ports, head=False)}


def home(tmp_path, **study):
    """Two PCs and their shared folder, all on this machine."""
    (tmp_path / "nas").mkdir(exist_ok=True)
    (tmp_path / "cache").mkdir(exist_ok=True)
    shared = {"shared": str(tmp_path / "nas")}
    first = {"name": "attic", "address": "127.0.0.2", "role": "head", **shared}
    cache = {"path": str(tmp_path / "cache"), "quota_gb": 0.001}
    nodes = [first, {"name": "study", "address": "127.0.0.3", "cache": cache, **shared, **study}]
    return validate(Inventory, {"nodes": nodes}, "test")


@pytest.fixture
def visit(monkeypatch, tmp_path):
    """Examine with quick bounds; gives the examination and what was told of progress."""
    patience = Patience(rate_s=0.1, disk_s=0.1, share_s=0.1, stale_s=0.2)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def go(inventory, run=run_here, python=python_here):
        told = []
        return examine(inventory, Doctor(run, python, told.append, PORTS, patience)), told

    return go


def test_two_nodes_are_measured_for_real_and_nothing_is_left_behind(visit, tmp_path):
    inventory = home(tmp_path)
    measured, told = visit(inventory)
    assert len(told) == steps(inventory)
    assert list(measured.links) == [("attic", "study")]
    link = measured.links["attic", "study"]
    assert link.error is None
    assert {port.state for port in link.ports} == {"open"}
    assert link.stale_s is not None
    attic, study = measured.nodes
    assert (attic.share.lock_seen, study.share.lock_seen) == (None, True)
    assert study.share_rates.crops > 0
    assert study.cache.write > 0
    assert attic.cache is None
    found = findings(measured)
    # This machine itself may be short of something, a machine of CI's above all.
    between = ("reached", "address", "clock", "python", "ray", "torch", "vr", "ports", "mtu", "shared folder")
    assert {f.check: f.severity for f in found if f.check in between} == dict.fromkeys(between, "ok")
    assert list((tmp_path / "nas").iterdir()) == []
    assert list((tmp_path / "cache").iterdir()) == []


def test_four_nodes_that_share_a_folder_disturb_no_pairs_file(visit, tmp_path):
    (tmp_path / "nas").mkdir()
    names = ("attic", "study", "den", "loft")
    nodes = [
        {"name": name, "address": f"127.0.0.{i}", "shared": str(tmp_path / "nas")} for i, name in enumerate(names, 2)
    ]
    nodes[0]["role"] = "head"
    files = []

    def run(node, argv, stdin, timeout_s):
        files.extend(re.findall(r"/(changing[^\\/]*)", stdin))
        return run_here(node, argv, stdin, timeout_s)

    measured, _ = visit(validate(Inventory, {"nodes": nodes}, "test"), run)
    assert {*measured.links} == {*itertools.combinations(names, 2)}
    assert {pair: link.stale_error for pair, link in measured.links.items()} == dict.fromkeys(measured.links)
    assert sorted(files) == sorted({*files})
    assert len(files) == len(measured.links)
    assert list((tmp_path / "nas").iterdir()) == []


def test_a_folder_that_is_not_mounted_on_one_node_blocks(visit, tmp_path):
    (tmp_path / "own").mkdir()
    measured, _ = visit(home(tmp_path, shared=str(tmp_path / "own")))
    (finding,) = (f for f in findings(measured) if f.severity == "blocks")
    assert (finding.check, finding.nodes) == ("shared folder", ("study",))
    assert list((tmp_path / "own").iterdir()) == []


def test_a_shared_folder_that_cannot_be_written_is_told_of_the_first_node(visit, tmp_path):
    inventory = home(tmp_path)
    (tmp_path / "nas").rmdir()
    (tmp_path / "nas").write_text("a file")
    measured, _ = visit(inventory)
    told = [f for f in findings(measured) if f.check == "shared folder" and f.severity == "blocks"]
    assert [f.nodes for f in told] == [("attic",)]


def test_a_node_that_is_off_is_named_and_the_others_are_measured(visit, tmp_path):
    def run(node, argv, stdin, timeout_s):
        if node.name == "study":
            raise Unreached("No route to host", "off")
        return run_here(node, argv, stdin, timeout_s)

    measured, told = visit(home(tmp_path), run)
    assert (measured.nodes[1].why, measured.nodes[1].unanswered) == ("No route to host", "off")
    assert measured.links == {}
    assert measured.nodes[0].share.same_file
    (finding,) = (f for f in findings(measured) if f.check == "reached" and f.severity != "ok")
    assert (finding.severity, finding.nodes) == ("warns", ("study",))
    assert not blocks(findings(measured))


def test_a_node_with_the_systems_bare_python_is_compared(visit, tmp_path):
    measured, _ = visit(
        home(tmp_path), python=lambda node: [sys.executable, *(["-I", "-S"] if node.name == "study" else [])]
    )
    told = {f.check: f for f in findings(measured) if f.severity == "blocks"}
    assert told["installed"].nodes == ("study",)
    assert "vr, ray, torch missing" in told["installed"].measured


CLOCK = "import time; now = time.time; time.time = lambda: now() + 3600.0; exec(__import__('sys').stdin.read())"


def test_a_clock_that_is_an_hour_ahead_is_seen_over_the_link(visit, tmp_path):
    def run(node, argv, stdin, timeout_s):
        wrong = [*argv[:-1], "-c", CLOCK] if node.name == "study" else argv
        return run_here(node, wrong, stdin, timeout_s)

    measured, _ = visit(home(tmp_path), run)
    told = {f.nodes: f for f in findings(measured) if f.check == "clock"}
    assert told["attic",].severity == "ok"
    assert told["study",].severity == "blocks"
    assert told["study",].measured == "3.6e+03 s ahead of the head"


NODE = validate(Inventory, {"nodes": [{"name": "a", "address": "127.0.0.2", "role": "head"}]}, "test").head


@pytest.mark.parametrize(
    ("ran", "said", "kind"),
    [
        (Ran(1, "", "Traceback\n  x\nValueError: no\n"), "ValueError: no", "failed"),
        (Ran(127, "", ""), "exit code 127", "failed"),
        (Ran(0, "welcome to this PC\n", ""), "not an answer", "failed"),
        (Ran(0, "", ""), "not an answer", "failed"),
        (Unreached("nobody opens", "refused"), "nobody opens", "refused"),
        (OSError(2, "No such file"), "No such file", "failed"),
        (subprocess.TimeoutExpired("ssh", 5), "no answer in 5 s", "silent"),
    ],
)
def test_a_node_that_gives_no_answer_gives_a_reason(ran, said, kind):
    def run(node, argv, stdin, timeout_s):
        if isinstance(ran, Exception):
            raise ran
        return ran

    with pytest.raises(Unanswered, match=said) as caught:
        ask(run, python_here, NODE, {"do": "node"}, 5.0)
    assert caught.value.kind == kind


def test_what_a_login_shell_says_before_the_answer_is_passed_over():
    assert ask(lambda *_: Ran(0, 'welcome\n{"port": 1}\n', ""), python_here, NODE, {}, 5.0) == {"port": 1}


def test_an_answer_of_another_shape_is_refused():
    request = {"do": "node", "disks": {}}
    answer = ask(run_here, python_there, NODE, request, 60.0)
    assert read_as(NodeProbe, answer).software.executable == sys.executable
    answer["system"]["cpus"] = "many"
    with pytest.raises(Unanswered, match=r"wrong system\.cpus"):
        read_as(NodeProbe, answer)


def test_without_our_python_the_systems_is_taken(monkeypatch, tmp_path):
    python = tmp_path / "python3"
    python.symlink_to(sys.executable)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    ours = functools.partial(python_there, ours="/no/such/python")
    answer = ask(run_here, ours, NODE, {"do": "node", "disks": {}}, 60.0)
    assert answer["software"]["executable"] == str(python)


@pytest.fixture
def own_state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "200")


def test_the_command_measures_this_machine_alone(tmp_path, own_state):
    done = vr("cluster", "doctor", "--json", code=None)
    answer = json.loads(done.stdout)
    assert done.code == any(f["severity"] == "blocks" for f in answer["findings"]), done.stderr
    assert list(answer["nodes"]) == ["this-pc"]
    assert {"check": "head", "severity": "ok"}.items() <= answer["findings"][-1].items()
    assert not (tmp_path / "state" / "vr" / "token").exists(), "looking changes nothing"


def test_the_command_blocks_with_exit_code_1_and_a_wrong_inventory_with_2(tmp_path, own_state):
    inventory = tmp_path / "home.yaml"
    shared = f"shared: {tmp_path}/none"
    inventory.write_text(f"nodes:\n  - {{name: attic, address: 127.0.0.2, role: head, {shared}}}\n")
    done = vr("cluster", "doctor", inventory, code=1)
    assert "shared folder" in done.stdout
    assert f"{tmp_path}/none" in done.stdout
    inventory.write_text("nodes: []\n")
    assert "role: head" in vr("cluster", "doctor", inventory, code=2).stderr


def test_the_readings_are_the_examinations_own(tmp_path):
    # `replace` of a frozen reading must give the same class that the answer is checked against.
    probe = read_as(NodeProbe, ask(run_here, python_here, NODE, {"do": "node", "disks": {}}, 60.0))
    assert type(replace(probe)) is NodeProbe
