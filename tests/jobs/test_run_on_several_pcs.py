"""A run over the PCs of a LAN in a box: joined by code, trained across the cable, one PC taken back, and watched."""

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.jobs.test_train import recipe_of
from tests.lan import SHARED, Lan, await_true, require
from vr_core.config import to_yaml

pytestmark = [pytest.mark.ray, pytest.mark.slow]

INVENTORY = """
nodes:
  - {name: attic, address: 10.77.0.11, role: head, cpus: 1, shared: /media}
  - {name: study, address: 10.77.0.12, cpus: 1, shared: /media}
  - {name: den, address: 10.77.0.13, cpus: 1, shared: /media}
  - {name: loft, address: 10.77.0.99, cpus: 1}
"""
STEPS = 300
LINK_MBIT = 20
"""Slow, so that the gradients of a small model make steps long enough for a PC to be taken back meanwhile."""
PATIENCE_S = 180


def add(lan, name):
    """The one line on the other PC, with a fresh code of the head's."""
    said = lan["attic"].vr("cluster", "head", "home.yaml", "--yes")
    code = re.search(r"vr cluster join (\S+)", said)[1]
    (lan[name].home / "home.yaml").write_text(INVENTORY)
    lan[name].vr("cluster", "join", code, "--inventory", "home.yaml", "--yes")


@pytest.fixture(scope="module")
def lan():
    """Three PCs in a cluster, and one in the inventory that is off."""
    require()
    with Lan("attic", "study", "den") as box:
        (box["attic"].home / "home.yaml").write_text(INVENTORY)
        for name in ("study", "den"):
            add(box, name)
        yield box


def nodes(lan):
    return {row["name"]: row for row in lan["attic"].vr_json("cluster", "status")["nodes"]}


def test_who_is_there_and_who_is_missing(lan):
    states = {name: row["state"] for name, row in nodes(lan).items()}
    assert states == {"attic": "alive", "study": "alive", "den": "alive", "loft": "missing"}


def test_a_run_trains_across_pcs_and_moves_off_the_one_that_is_taken_back(lan, tiny_data):
    attic = lan["attic"]
    shutil.copytree(tiny_data, lan.shared / "data")
    for host in lan.hosts.values():
        host.rate(LINK_MBIT)
    changes = {
        "steps": STEPS, "out": f"{SHARED}/runs", "batch.crop_frames": 64, "model.width": 32,
        "checkpoint.every_steps": None, "validation.every_steps": 100, "workers.device": "cpu", "workers.count": 2,
        "workers.labels": [{"vr/node": "attic"}, {"vr/node": "in(study,den)"}],
    }  # fmt: skip
    (lan.shared / "tiny.yaml").write_text(to_yaml(recipe_of(Path(SHARED) / "data", **changes)))
    run = attic.vr_json("submit", f"{SHARED}/tiny.yaml")["run"]
    folder = lan.shared / "runs" / run

    def machines(fit):
        told = json.loads((folder / "origin.json").read_text())["machines"].get(fit, [])
        return {machine["labels"]["vr/node"]: machine["host"] for machine in told}

    def state():
        return json.loads((folder / "state.json").read_text())

    def started(fit):
        assert state()["state"] in ("pending", "running"), state()
        return machines(fit)

    first = await_true(lambda: started("1.1"), "the run starts", PATIENCE_S)
    [taken] = set(first) - {"attic"}
    assert first == {"attic": "attic", taken: taken}, "every worker computes on its own PC"
    await_true(lambda: state()["step"] > 5, "some steps", PATIENCE_S)
    runs = nodes(lan)
    assert [name for name, row in runs.items() if run in row["runs"]] == sorted(first, key=lambda n: n != "attic")

    attic.vr("cluster", "drain", taken, "--for", "2h", "--yes")
    second = await_true(lambda: machines("1.2") or (state()["state"] == "finished" and first), "it goes on", PATIENCE_S)
    assert set(second) == {"attic", "study", "den"} - {taken}
    await_true(lambda: state()["state"] not in ("pending", "running"), "the end", PATIENCE_S)
    assert state()["state"] == "finished", state()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = Counter(line["step"] for line in lines if line["kind"] == "step")
    assert steps == Counter(range(1, STEPS + 1)), "every step once"
    assert nodes(lan)[taken]["state"] in ("leaving", "drained")

    logs = subprocess.run(
        lan["attic"].entered([sys.executable, "-m", "jobs.cli", "jobs", "logs", run, "--out", f"{SHARED}/runs"]),
        env=lan["attic"].environment(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert f"run {run}: finished at step {STEPS} of {STEPS}" in logs.stdout


def test_down_on_each_pc_leaves_nothing(lan):
    for host in lan.hosts.values():
        host.vr("cluster", "down", "--yes")
        left = host.run(["ps", "-eo", "args"]).stdout
        assert "ray" not in left, left
