"""A head and a node on two PCs of a LAN in a box: seen, lost when a cable is cut or a plug pulled, and back again."""

import sys

import pytest

from tests.box.runs import join, start_cluster
from tests.box.silence import PROMISED_S, seconds_to_notice
from tests.lan import Lan, await_true, require

pytestmark = pytest.mark.ray


WHERE = """
import os
from cluster.head import find_head
os.environ.update(find_head().environment())
import ray, socket
ray.init(logging_level="ERROR", log_to_driver=False)
here = ray.remote(lambda: socket.gethostname())
print(ray.get(here.options(label_selector={"vr/node": "study"}).remote()))
"""
"""A driver on the head, with a task that asks for study's label."""


@pytest.fixture(scope="module")
def lan():
    """The cluster of attic, its head, and study; each test leaves both in it."""
    require()
    with Lan("attic", "study") as box:
        start_cluster(box["attic"], box["study"])
        yield box


def nodes(lan):
    return {row["name"]: row for row in lan["attic"].vr_json("cluster", "status")["nodes"]}


def test_both_pcs_are_in_the_cluster_with_their_own_addresses(lan):
    seen = nodes(lan)
    assert {name: row["address"] for name, row in seen.items()} == {"attic": "10.77.0.11", "study": "10.77.0.12"}
    assert [name for name, row in seen.items() if row["head"]] == ["attic"]
    assert all(row["alive"] for row in seen.values())

    assert lan["attic"].run([sys.executable, "-c", WHERE]).stdout == "study\n"


def test_a_cut_cable_is_noticed_in_time_and_the_pc_may_come_back(lan):
    attic, study = lan["attic"], lan["study"]
    assert seconds_to_notice(attic, study, study.cut) < PROMISED_S
    lost = nodes(lan)["study"]
    assert not lost["alive"]
    assert "lost without notice" in lost["why"]
    assert "raylet" in study.run(["ps", "-eo", "comm"]).stdout, "it knows nothing of that yet"
    study.mend()
    # Once it hears that it was given up, its Ray ends: no run continues in two places. Its supervisor starts another.
    await_true(lambda: nodes(lan)["study"]["alive"], "it is back by itself")
    assert "supervisor: starting Ray again" in study.run(["cat", ".local/state/vr/joined-study.log"]).stdout


def test_a_pulled_plug_is_noticed_in_time_and_the_pc_joins_again_after_it_has_booted(lan):
    attic, study = lan["attic"], lan["study"]
    assert seconds_to_notice(attic, study, study.kill) < PROMISED_S
    assert not nodes(lan)["study"]["alive"]
    study.start()
    join(attic, study)
    assert nodes(lan)["study"]["alive"]
    assert len(nodes(lan)) == 2
