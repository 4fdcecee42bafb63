"""A cluster of PCs with its inventory to its end, in a LAN in a box: what a home sees on a Saturday, in this order.

One PC is off, one more joins by code; examined; a run across the cables, one PC taken back meanwhile, the head's Ray
killed; all of it watched in a browser on another PC; and ended. How a cluster comes up from nothing is in
`tests/cluster/test_up_on_ray.py`.
"""

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import psutil
import pytest

from tests.box.events import kill_controller, kill_ray
from tests.box.runs import PATIENCE_S, submit
from tests.jobs.dashboard import keep_artefact
from tests.jobs.training import recipe_of
from tests.lan import SHARED, await_true, require

pytestmark = [pytest.mark.xdist_group("box"), pytest.mark.breaks, pytest.mark.ray]

INVENTORY = f"""
nodes:
  - {{name: attic, address: 10.77.0.11, role: head, cpus: 1, shared: /media}}
  - {{name: study, address: 10.77.0.12, cpus: 1, shared: /media, python: {sys.executable}}}
  - {{name: den, address: 10.77.0.13, cpus: 1, shared: /media, python: {sys.executable}}}
  - {{name: loft, address: 10.77.0.14, cpus: 1, shared: /media, python: {sys.executable}}}
"""
STEPS = 160
CHECKPOINT_STEPS = 20
LINK_MBIT = 8
"""Slow, so that the gradients of a small model make steps long enough for all that happens meanwhile."""


@pytest.fixture(scope="module")
def lan(standing_lan):
    """Five PCs: three of the inventory's four in their cluster; loft is off, and cellar is not in it."""
    require("rsync")
    (standing_lan["attic"].home / "home.yaml").write_text(INVENTORY)
    return standing_lan


@pytest.fixture(scope="module")
def run(lan, tiny_data):
    """A run of two workers, one on attic and one on study or den, submitted on the head."""
    shutil.copytree(tiny_data, lan.shared / "data")
    changes = {
        "steps": STEPS, "out": f"{SHARED}/runs", "batch.crop_frames": 64, "model.width": 32,
        "checkpoint.every_steps": CHECKPOINT_STEPS, "validation.every_steps": 60, "workers.device": "cpu",
        "workers.count": 2, "workers.labels": [{"vr/node": "attic"}, {"vr/node": "in(study,den)"}],
    }  # fmt: skip
    return submit(lan, lan["attic"], recipe_of(Path(SHARED) / "data", **changes))


def nodes(lan):
    return {row["name"]: row for row in lan["attic"].vr_json("cluster", "status")["nodes"]}


def test_one_command_finds_what_is_on_and_a_fifth_pc_joins_by_code(lan):
    said = lan["attic"].vr("cluster", "up", "home.yaml", "--yes")
    assert "loft: off (no answer at 10.77.0.14:22); join later with: vr cluster up home.yaml" in said
    assert "The head runs already." in said
    code = re.search(r"vr cluster join (\S+)", lan["attic"].vr("cluster", "head", "home.yaml"))[1]
    lan["cellar"].vr("cluster", "join", code, "--num-cpus", "1", "--yes")


def test_who_is_there_and_who_is_missing(lan):
    states = {name: row["state"] for name, row in nodes(lan).items()}
    assert states == {"attic": "alive", "study": "alive", "den": "alive", "cellar": "alive", "loft": "missing"}


@pytest.mark.long("cluster", "jobs/commands")
def test_the_doctor_finds_what_was_planted_and_nothing_besides(lan):
    lan["study"].rate(100)
    lan["den"].run(["mount", "-t", "tmpfs", "tmpfs", SHARED])  # another folder of that name
    try:
        told = lan["attic"].vr_json("cluster", "doctor", "home.yaml", code=1)
    finally:
        lan["den"].run(["umount", SHARED])
        lan["study"].rate(None)
    # How full the machine is that carries the box is no plant.
    found = [finding for finding in told["findings"] if finding["severity"] != "ok" and finding["check"] != "disk"]
    blocking = {(finding["check"], *finding["nodes"]) for finding in found if finding["severity"] == "blocks"}
    assert blocking == {("shared folder", "den")}, blocking
    assert ("reached", "loft") in {(finding["check"], *finding["nodes"]) for finding in found}
    slow = {tuple(finding["nodes"]) for finding in found if finding["check"] == "link"}
    assert slow == {("attic", "study"), ("study", "den")}, slow


def test_a_run_trains_across_pcs_and_moves_off_the_one_that_is_taken_back(lan, run):
    for host in lan.on:
        host.rate(LINK_MBIT)
    first = run.await_started("1.1")
    [taken] = set(first) - {"attic"}
    assert first == {"attic": "attic", taken: taken}, "every worker computes on its own PC"
    run.await_one_more_step()
    using = nodes(lan)
    assert {name for name, row in using.items() if run.name in row["runs"]} == set(first)

    lan["attic"].vr("cluster", "drain", taken, "--for", "2h", "--yes")
    assert set(run.await_started("1.2")) == {"attic", "study", "den"} - {taken}
    run.await_one_more_step()
    assert nodes(lan)[taken]["state"] in ("leaving", "drained")


def test_another_pc_sees_every_node_and_the_job_on_the_dashboard(lan, run):
    """In a browser on cellar, through the ssh line that the head printed."""
    cellar = lan["cellar"]
    token = (lan["attic"].home / ".local/state/vr/token").read_text().strip()
    alive = [row["address"] for row in nodes(lan).values() if row["alive"]]
    pages = [
        {"path": "#/cluster", "wanted": alive, "picture": f"{SHARED}/cluster.png"},
        {"path": "#/jobs", "wanted": [f"{run.name}.a1", "RUNNING"], "picture": f"{SHARED}/jobs.png"},
    ]
    asked = {"url": "http://127.0.0.1:8265", "token": token, "pages": pages}
    with cellar.popen(["ssh", "-N", "-L", "8265:127.0.0.1:8265", lan["attic"].address]) as tunnel:
        await_true(lambda: "127.0.0.1:8265" in cellar.run(["ss", "-ltn"]).stdout, "the tunnel")
        cellar.run([sys.executable, "-m", "tests.jobs.dashboard"], stdin=json.dumps(asked), env={"CI": "true"})
        tunnel.terminate()
    for page in pages:
        picture = lan.shared / Path(page["picture"]).name
        keep_artefact(picture.rename(picture.with_name(f"several-pcs-{picture.name}")))


def raylets(host):
    return host.run(["pgrep", "-x", "raylet"]).stdout


def test_the_head_is_back_after_it_was_killed_and_the_run_goes_on_to_its_end(lan, run):
    [other] = {"study", "den"} & set(run.machines("1.2"))
    before = {host.name: raylets(host) for host in (lan[other], lan["cellar"])}
    [worker] = [pid for name, pid in run.worker_pids("1.2").items() if name == other]
    run.await_one_more_step()
    # Out of memory, one after the other: Ray's head knows that the controller is dead when it dies itself, and comes
    # back without knowing.
    kill_controller(lan["attic"])
    await_true(lambda: not psutil.pid_exists(worker), "the end of the workers, which Ray's head tells to end")
    assert kill_ray(lan["attic"]) > 4
    assert set(run.await_started("2.1")) == {"attic", other}
    assert {name for name, row in nodes(lan).items() if row["alive"]} == {"attic", other, "cellar"}
    assert {name: raylets(lan[name]) for name in before} == before, "the others never left"
    for name in ("attic", other):
        lan[name].rate(None)
    await_true(lambda: run.state["state"] not in ("pending", "running"), "the end", PATIENCE_S)
    assert run.state["state"] == "finished", run.state
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    steps = Counter(line["step"] for line in lines if line["kind"] == "step")
    assert steps == Counter(range(1, STEPS + 1)), "every step once"
    logs = subprocess.run(
        lan["attic"].entered([sys.executable, "-m", "jobs.cli", "jobs", "logs", run.name, "--out", f"{SHARED}/runs"]),
        env=lan["attic"].environment(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert f"run {run.name}: finished at step {STEPS} of {STEPS}" in logs.stdout


def test_down_leaves_nothing_on_any_pc(lan):
    said = lan["attic"].vr("cluster", "down", "home.yaml", "--yes")
    assert re.search(r"Ended: .*attic", said), said
    lan["cellar"].vr("cluster", "down", "--yes")
    for host in lan.on:
        left = host.run(["ps", "-eo", "args"]).stdout
        assert "ray" not in left, left
