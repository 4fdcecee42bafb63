"""PCs taken back while a run uses them: the real training loop, head, node, keeper and commands; each event once."""

import datetime
import json
import os
import time
from collections.abc import Callable

import pytest

from cluster.inventory import Inventory
from cluster.node.drain import Record, read_drained
from cluster.node.gcs import ask, leave_if_idle
from cluster.node.head import Head, keep_inventory
from cluster.node.start import has_left
from jobs.queue import node_power as machines
from jobs.queue.kept import require_kept
from jobs.queue.submit import keep_source, submit_next
from jobs.runs.creation import create_run
from jobs.runs.folder import RunFolder
from jobs.runs.metrics import read_metrics
from tests.jobs import training
from tests.jobs.heads import wait_for
from tests.loopback import ATTIC, CELLAR, PCS, Loopback
from vr_core.small_files import read_json

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("head")]

STEPS = 90
SLOWER = """

_set_rates = set_rates


def set_rates(*arguments: object) -> None:
    # A step takes long enough for a PC to be taken back meanwhile, and leaves a line.
    import time

    time.sleep(0.25)
    with open({computed!r}, "a") as file:
        file.write("step\\n")
    _set_rates(*arguments)
"""


@pytest.fixture(scope="module")
def head(loopback: Loopback) -> Head:
    """With its keeper; it and the node beside it could each hold the whole run."""
    return loopback.head


@pytest.fixture(scope="module")
def vr(loopback: Loopback) -> Callable[..., str]:
    """`vr cluster` on the head."""
    return loopback.attic.typed


def come_back(head: Head) -> None:
    """Its supervisor starts a node's Ray again when it has ended there and the head says that it may."""
    wait_for("its return", lambda: any(n.name == "cellar" and n.alive for n in machines.look(head)), head)


def seen(head: Head, name: str) -> machines.Seen:
    return next(node for node in machines.look(head) if node.name == name)


def rooms(run: RunFolder, fit: str) -> list[str]:
    return [machine["labels"]["vr/node"] for machine in read_json(run.origin_file)["machines"].get(fit, [])]


def test_a_run_leaves_a_pc_that_is_taken_back_and_no_step_is_computed_twice(head, vr, tiny_data, tmp_path):
    changes = {
        "out": str(tmp_path / "runs"),
        "steps": STEPS,
        "workers.count": 2,
        "workers.device": "cpu",
        "checkpoint.every_steps": None,
        "validation.every_steps": STEPS,
    }
    recipe = training.recipe_of(tiny_data, **changes)

    # The head itself is taken back first: its workers leave, Ray stays.
    assert "attic holds no workers now" in vr("drain", "attic", "--yes")
    run, computed = create_run(recipe), tmp_path / "computed"
    keep_source(run, run.recipe())
    with (require_kept(run).source / "jobs" / "steps" / "state.py").open("a") as file:
        file.write(SLOWER.format(computed=str(computed)))
    submit_next(head, run)
    wait_for("a start away from the head", lambda: rooms(run, "1.1") == ["cellar", "cellar"], head, run)
    wait_for("some steps", lambda: run.state().step > 4, head, run)

    cellar = seen(head, "cellar")
    assert cellar.busy
    assert not leave_if_idle(head, cellar.node_id, "suspended"), "a PC in use is not sent to sleep"
    vr("undrain", "attic")
    assert "cellar has left" in vr("drain", "cellar", "--for", "2h", "--yes")
    left_at = run.last_step()
    assert 4 < left_at < STEPS
    wait_for("a start on the other PC", lambda: rooms(run, "1.2") == ["attic", "attic"], head, run)
    wait_for("some steps there", lambda: run.state().step > left_at + 4, head, run)
    nodes = {node["name"]: node for node in json.loads(vr("status", "--json"))["nodes"]}
    assert nodes["cellar"]["why"].startswith("cellar is drained until ")
    assert nodes["cellar"]["state"] == "drained"

    # The other one as well: the run waits, and says for what.
    vr("drain", "attic", "--yes")
    wait_for("waiting", lambda: run.state().why.startswith("waits: cellar is drained until "), head, run)
    assert run.last_step() > left_at
    vr("drain", "cellar", "--for", "1s", "--yes")
    come_back(head)
    assert [node.name for node in read_drained().nodes] == ["attic"]
    wait_for("the end", lambda: run.state().state == "finished", head, run)
    assert rooms(run, "1.3") == ["cellar", "cellar"]
    assert run.newest_attempt() == 1
    steps = [line["step"] for line in read_metrics(run) if line["kind"] == "step"]
    assert steps == list(range(1, STEPS + 1))
    assert len(computed.read_text().splitlines()) == 2 * STEPS, (
        "each rank computed each step once: it left, it was not ended"
    )
    vr("undrain", "attic")


def test_outside_of_its_owner_hours_a_pc_is_taken_out_and_comes_back_when_the_user_says_so(
    loopback, head, vr, tmp_path
):
    hour = (datetime.datetime.now().hour + 12) % 24
    later = CELLAR.model_copy(update={"owner_hours": (f"{hour:02}:00-{hour:02}:30",)})
    keep_inventory(Inventory(nodes=(ATTIC, later)))
    wait_for("the node's leaving", lambda: has_left(loopback.node), head)
    [record] = read_drained().nodes
    assert (record.name, record.by) == ("cellar", "hours")
    assert record.why.startswith("cellar is drained until ")
    assert f"{hour:02}:00" in record.why

    wrong = tmp_path / "token"
    wrong.touch(mode=0o600)
    wrong.write_text("0" * 64)
    assert ask(head.gcs_address, wrong) is None
    assert ask("127.0.0.2:1", head.token_file) is None, "no head is there"
    wait_for("the notice", lambda: ask(head.gcs_address, head.token_file) == {"cellar"}, head)

    # In spite of its hours.
    vr("undrain", "cellar")
    come_back(head)
    assert read_drained() == Record(lent=("cellar",))
    keep_inventory(PCS)
    wait_for("the end of the loan", lambda: read_drained() == Record(), head)


def test_an_idle_pc_leaves_ray_before_it_is_suspended(loopback, head, tmp_path, monkeypatch):
    program = tmp_path / "ssh"
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    spec = CELLAR.model_copy(update={"idle_suspend": "30m"})
    action = machines.Suspend(spec, seen(head, "cellar"))
    _, said = machines.act(action, head, machines.Memory(), time.time())
    assert said == "cellar: idle for 30m, suspended"
    assert (tmp_path / "asked").read_text().strip().endswith("127.0.0.3 -- systemctl suspend")
    wait_for("the node's leaving", lambda: has_left(loopback.node), head)
    come_back(head)
