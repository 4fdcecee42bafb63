"""A head and nodes on PCs of a LAN in a box, as their cluster sees them.

What becomes of a PC whose cable is cut is seen in `tests/jobs/test_comings_and_goings.py`, of one whose plug is pulled
in `tests/jobs/test_prepare_on_nodes.py`, while both have work. How soon it is noticed is measured by
`python -m tests.bench detect`, and that Ray's settings add up to less in `tests/cluster/test_plan.py`.
"""

import sys

import pytest

pytestmark = [pytest.mark.xdist_group("box"), pytest.mark.ray]


WHERE = """
import os
from cluster.node.head import find_head
os.environ.update(find_head().environment())
import ray, socket
ray.init(logging_level="ERROR", log_to_driver=False)
here = ray.remote(lambda: socket.gethostname())
print(ray.get(here.options(label_selector={"vr/node": "study"}).remote()))
"""
"""A driver on the head, with a task that asks for study's label."""


def test_all_pcs_are_in_the_cluster_with_their_own_addresses(standing_lan):
    seen = {row["name"]: row for row in standing_lan["attic"].vr_json("cluster", "status")["nodes"]}
    addresses = {name: row["address"] for name, row in seen.items()}
    assert addresses == {"attic": "10.77.0.11", "study": "10.77.0.12", "den": "10.77.0.13"}
    assert [name for name, row in seen.items() if row["head"]] == ["attic"]
    assert all(row["alive"] for row in seen.values())

    assert standing_lan["attic"].run([sys.executable, "-c", WHERE]).stdout == "study\n"
