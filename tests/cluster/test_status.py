"""On answers of Ray 2.60's dashboard: `recorded/running.json` is a run with a worker on each of two nodes,
`recorded/killed.json` the same cluster after one node was drained, came back and had its raylet killed."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from cluster.status.nodes import node_rows, run_name, runs_by_node, why_dead
from cluster.status.table import ago, card_line, differs, table

RECORDED = Path(__file__).parent / "recorded"
RUN = "quickstart-pretrain-de475513-1"
LOST_S = 1795575410.942


def recorded(name):
    return json.loads((RECORDED / f"{name}.json").read_text())


def node(name, state="ALIVE", start_ms=1, head=False, node_id=None, **labels):
    return {
        "node_id": node_id or f"{name}-{start_ms}",
        "node_ip": "192.168.1.10",
        "is_head_node": head,
        "state": state,
        "state_message": "Expected termination: received SIGTERM" if state == "DEAD" else None,
        "node_name": name,
        "resources_total": {"CPU": 8.0, "GPU": 1.0, "memory": 1e9},
        "labels": {"ray.io/node-id": "x", "vr/node": name, **{k.replace("__", "/"): v for k, v in labels.items()}},
        "start_time_ms": start_ms,
        "end_time_ms": 5000 if state == "DEAD" else 0,
    }


def answers(*nodes, usage=None):
    return {"data": {"result": {"result": list(nodes)}}}, {
        "data": {"clusterStatus": {"loadMetricsReport": {"usageByNode": usage or {}}}}
    }


CARDS = {
    "vr__gpu-count": "2",
    "vr__gpu-0-model": "GeForce-RTX-3090-Ti",
    "vr__gpu-0-memory-gib": "24",
    "vr__gpu-1-model": "GeForce-RTX-3080-Ti",
    "vr__gpu-1-memory-gib": "12",
}
# As `ray.dashboard.modules.reporter.reporter_models` describes it; there was no card to record it from.
GPUS = [
    {
        "index": 0,
        "name": "NVIDIA GeForce RTX 3090 Ti",
        "uuid": "GPU-1",
        "utilizationGpu": 97,
        "memoryUsed": 12288,
        "memoryTotal": 24564,
        "processesPids": [{"pid": 77, "gpuMemoryUsage": 11000}, {"pid": 5, "gpuMemoryUsage": 9}],
        "powerMw": 411_230,
        "temperatureC": 71,
    },
    {
        "index": 1,
        "name": "NVIDIA GeForce RTX 3080 Ti",
        "uuid": "GPU-2",
        "utilizationGpu": None,
        "memoryUsed": 100,
        "memoryTotal": 12288,
        "processesPids": None,
        "powerMw": None,
        "temperatureC": None,
    },
]


def stats(node_id, **measured):
    return {"data": {"summary": [{"raylet": {"nodeId": node_id}, **measured}, {"raylet": {}}]}}


def actor(node_id, pid, job="02000000", **resources):
    return {"node_id": node_id, "pid": pid, "job_id": job, "required_resources": resources}


def actors(*rows):
    return {"data": {"result": {"result": list(rows)}}}


JOBS = [{"job_id": "02000000", "submission_id": "a-1.a1", "metadata": {"run": "a-1"}}, {"job_id": None}]


def test_a_run_is_found_on_every_node_that_works_for_it():
    rows = node_rows(**recorded("running"))
    assert [(row.name, row.head, row.state, row.runs) for row in rows] == [
        ("attic", True, "alive", (RUN,)),
        ("study", False, "alive", (RUN,)),
    ]
    assert [(row.cpus, row.cpus_used, row.gpus) for row in rows] == [(2, 2, 0), (2, 2, 0)]


def test_what_rays_agent_measures_is_shown():
    attic, _ = node_rows(**recorded("running"))
    assert attic.cpu_percent == 99.9
    assert (attic.memory_used_bytes, attic.memory_bytes) == (7092576256, 25276502016)
    assert (attic.disk_free_bytes, attic.disk_bytes) == (77957009408, 270553174016)
    assert (attic.sent_bytes_per_s, attic.received_bytes_per_s) == (0.0, 0.0)
    assert attic.since_s == 1795575030.237


def test_a_node_that_died_says_since_when_and_why():
    attic, study = node_rows(**recorded("killed"))
    assert attic.alive
    assert (study.state, study.alive, study.since_s) == ("dead", False, 1795575410.942)
    assert study.why.startswith("lost without notice")
    assert (study.cpus, study.cpu_percent, study.runs) == (0.0, None, ())


@pytest.mark.parametrize(
    ("message", "state", "why"),
    [
        ("Terminated due to preemption: vr: until 23:00", "drained", "vr: until 23:00"),
        ("Terminated due to preemption", "drained", "taken back"),
        (
            "Unexpected termination: health check failed due to missing too many heartbeats",
            "dead",
            "lost without notice",
        ),
        ("Expected termination: received SIGTERM", "dead", "its Ray was ended there"),
        ("Unexpected termination: something new", "dead", "Unexpected termination: something new"),
        (None, "dead", "Ray gives no reason"),
    ],
)
def test_why_a_node_is_gone(message, state, why):
    found = why_dead(message)
    assert found[0] == state
    assert found[1].startswith(why)


def test_nodes_of_the_inventory_that_are_not_there_are_listed():
    expected = {"attic": "127.0.0.2", "study": "127.0.0.3", "shed": "192.168.1.12", "loft": "192.168.1.13"}
    rows = node_rows(**recorded("running"), expected=expected, drained={"loft": "loft is drained until 23:00"})
    assert [(row.name, row.state) for row in rows] == [
        ("attic", "alive"),
        ("loft", "drained"),
        ("shed", "missing"),
        ("study", "alive"),
    ]
    assert rows[1].why == "loft is drained until 23:00"
    assert "has not joined" in rows[2].why
    assert rows[2].address == "192.168.1.12"


def test_a_pc_that_is_there_under_another_name_is_not_missing():
    rows = node_rows(**recorded("running"), expected={"localhost": "127.0.0.2", "shed": "192.168.1.12"})
    assert [(row.name, row.state) for row in rows] == [("attic", "alive"), ("shed", "missing"), ("study", "alive")]


def test_a_drained_node_is_leaving_until_it_is_gone():
    said = {"study": "study is drained until 23:00"}
    for name, state in (("running", "leaving"), ("killed", "dead")):
        study = node_rows(**recorded(name), drained=said)[1]
        assert (study.state, study.why) == (state, "study is drained until 23:00")


def test_a_row_tells_cards_by_label_and_what_is_in_use():
    usage = {"attic-1": {"CPU": [2.5, 8.0], "GPU": [1.0, 1.0]}}
    (row,) = node_rows(*answers(node("attic", head=True, room="study", **CARDS), usage=usage))
    assert (row.name, row.head, row.alive) == ("attic", True, True)
    assert [(card.model, card.memory_gib, card.used_mib) for card in row.cards] == [
        ("GeForce-RTX-3090-Ti", 24, None),
        ("GeForce-RTX-3080-Ti", 12, None),
    ]
    assert (row.gpus, row.gpus_used, row.cpus, row.cpus_used) == (1.0, 1.0, 8.0, 2.5)
    assert "ray.io/node-id" not in row.labels


def test_cards_with_memory_power_temperature_and_whose_they_are():
    workers = actors(actor("attic-1", 77, GPU_group_0_ab=1.0))
    (row,) = node_rows(*answers(node("attic", **CARDS)), stats("attic-1", gpus=GPUS), workers, JOBS)
    big, small = row.cards
    assert (big.used_mib, big.power_w, big.temperature_c, big.busy_percent) == (12288, 411.23, 71, 97)
    assert (big.runs, small.runs) == (("a-1",), ())
    assert card_line(big) == "GeForce-RTX-3090-Ti 24 GiB, 50 % full, 97 % busy, 411 W, 71 °C ← a-1"
    assert card_line(small) == "GeForce-RTX-3080-Ti 12 GiB, 1 % full"


SOFTWARE = {"vr__version": "0.1.0", "vr__commit": "5bed1e4aaaaa", "vr__python": "3.11.2", "vr__link-mbit": "2500"}


def test_link_and_software_are_as_the_node_said_when_it_was_started():
    (row,) = node_rows(*answers(node("attic", **SOFTWARE)))
    assert (row.version, row.commit, row.python, row.link_mbit) == ("0.1.0", "5bed1e4aaaaa", "3.11.2", 2500)
    (row,) = node_rows(*answers(node("attic")))
    assert (row.version, row.commit, row.python, row.link_mbit) == (None, None, None, None)


@pytest.mark.parametrize(
    ("other", "conspicuous"),
    [
        ({}, False),
        ({"vr__commit": "0123456789ab"}, True),
        ({"vr__version": "0.2.0"}, True),
        ({"vr__python": "3.12.2"}, True),
        ({"vr__python": "3.11.9"}, False),
    ],
)
def test_a_node_with_other_software_than_the_head_is_conspicuous(other, conspicuous):
    head, study = node_rows(*answers(node("attic", head=True, **SOFTWARE), node("study", **(SOFTWARE | other))))
    assert differs(study, head) == conspicuous
    console = Console(file=io.StringIO(), width=220)
    console.print(table([head, study], 0.0))
    assert ("other than the head's" in console.file.getvalue()) == conspicuous
    assert "vr 0.1.0 (5bed1e4a), Python 3.11.2" in console.file.getvalue()
    assert "link 2500 Mbit/s" in console.file.getvalue()


def test_a_node_without_a_checkout_is_not_asked_for_its_commit():
    told = {key: value for key, value in SOFTWARE.items() if key != "vr__commit"}
    head, study = node_rows(*answers(node("attic", head=True, **SOFTWARE), node("study", **told)))
    assert not differs(study, head)


def test_a_card_that_is_kept_back_is_not_shown():
    one = CARDS | {"vr__gpu-count": "1"}
    (row,) = node_rows(*answers(node("attic", **one)), stats("attic-1", gpus=GPUS))
    assert [card.power_w for card in row.cards] == [411.23]


def test_a_node_that_has_just_come_is_shown_without_measures():
    (row,) = node_rows(*answers(node("attic", **CARDS)), stats("another"), actors(), [])
    assert row.alive
    assert (row.cpu_percent, row.disk_free_bytes, row.cards[0].used_mib) == (None, None, None)


def test_the_disk_is_the_one_with_rays_temporary_folder():
    disks = {"/": {"total": 10, "free": 9}, "/tmp/vr": {"total": 8, "free": 1}}
    for shown, free in ((disks, 1), ({"/": disks["/"]}, 9)):
        (row,) = node_rows(*answers(node("attic")), stats("attic-1", disk=shown))
        assert row.disk_free_bytes == free


def test_only_actors_that_hold_something_count_as_use():
    rows = actors(
        actor("n", 1, CPU=1.0),
        actor("n", 2),
        actor("n", 3, **{"node:__internal_head__": 0.001}),
        actor("n", 4, **{"CPU_group_0_ab": 2.0, "bundle_group_ab": 0.001}),
        actor("n", 5, CPU=0.0),
        actor("n", 6, job="03000000", GPU=0.5),
        actor(None, 0, GPU=1.0),
    )
    assert runs_by_node(rows, JOBS) == {"n": {1: "a-1", 4: "a-1", 6: "job 03000000"}}


def test_jobs_that_are_not_ours_have_a_name_too():
    assert run_name({"job_id": "01", "submission_id": "raysubmit_x", "metadata": {}}) == "raysubmit_x"
    assert run_name({"job_id": "01", "submission_id": None, "metadata": None}) == "job 01"


def test_the_head_comes_first_and_the_rest_by_name():
    rows = node_rows(*answers(node("b"), node("a"), node("z", head=True)))
    assert [row.name for row in rows] == ["z", "a", "b"]


def test_a_pc_that_came_back_is_shown_once_and_alive():
    dead = [node("a", "DEAD", start_ms=5), node("a", "DEAD", start_ms=1)]
    (row,) = node_rows(*answers(dead[0], node("a", start_ms=3), dead[1]))
    assert row.alive
    assert row.why == ""
    (row,) = node_rows(*answers(*dead))
    assert (row.state, row.since_s) == ("dead", 5.0)


def test_a_cluster_whose_use_is_not_known_yet_is_shown_idle():
    nodes, _ = answers(node("a"))
    for usage in ({}, {"data": {"clusterStatus": None}}, {"data": {"clusterStatus": {"loadMetricsReport": None}}}):
        (row,) = node_rows(nodes, usage)
        assert row.cpus_used == 0


def test_the_table_shows_what_a_person_looks_for():
    expected = {"shed[bold]": "192.168.1.12"}
    console = Console(file=io.StringIO(), width=220)
    console.print(table(node_rows(**recorded("killed"), expected=expected), LOST_S + 300))
    shown = console.file.getvalue()
    for text in ("attic (head)", "alive for 11 min", "disk 77", "free", "dead for 5 min", "room=study", "lost without"):
        assert text in shown
    assert "shed[bold]" in shown, "nothing of it is taken for markup"
    assert "0 of 2 CPUs" in shown


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (-1, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (200_000, "2 days")]
)
def test_how_long_ago(seconds, text):
    assert ago(seconds) == text
