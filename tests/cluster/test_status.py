import io

from rich.console import Console

from cluster.status import node_rows, table


def node(name, state="ALIVE", start_ms=1, head=False, node_id=None, **labels):
    return {
        "node_id": node_id or f"{name}-{start_ms}",
        "node_ip": "192.168.1.10",
        "is_head_node": head,
        "state": state,
        "state_message": "Expected termination: received SIGTERM" if state == "DEAD" else None,
        "node_name": name,
        "resources_total": {"CPU": 8.0, "GPU": 1.0, "memory": 1e9} if state == "ALIVE" else {},
        "labels": {"ray.io/node-id": "x", "vr/node": name, **{k.replace("__", "/"): v for k, v in labels.items()}},
        "start_time_ms": start_ms,
    }


def answers(*nodes, usage=None):
    return {"data": {"result": {"result": list(nodes)}}}, {
        "data": {"clusterStatus": {"loadMetricsReport": {"usageByNode": usage or {}}}}
    }


CARD = {"vr__gpu-count": "1", "vr__gpu-0-model": "GeForce-RTX-3090-Ti", "vr__gpu-0-memory-gib": "24"}


def test_a_row_tells_cards_by_label_and_what_is_in_use():
    usage = {"attic-1": {"CPU": [2.5, 8.0], "GPU": [1.0, 1.0]}}
    (row,) = node_rows(*answers(node("attic", head=True, room="study", **CARD), usage=usage))
    assert (row.name, row.head, row.alive) == ("attic", True, True)
    assert (row.gpu_models, row.gpu_memory_gib) == (("GeForce-RTX-3090-Ti",), (24,))
    assert (row.gpus, row.gpus_used, row.cpus, row.cpus_used) == (1.0, 1.0, 8.0, 2.5)
    assert "ray.io/node-id" not in row.labels


def test_the_head_comes_first_and_the_rest_by_name():
    rows = node_rows(*answers(node("b"), node("a"), node("z", head=True)))
    assert [row.name for row in rows] == ["z", "a", "b"]


def test_a_pc_that_came_back_is_shown_once_and_alive():
    dead = [node("a", "DEAD", start_ms=5), node("a", "DEAD", start_ms=1)]
    (row,) = node_rows(*answers(dead[0], node("a", start_ms=3), dead[1]))
    assert row.alive
    assert row.why == ""
    (row,) = node_rows(*answers(*dead))
    assert not row.alive
    assert "SIGTERM" in row.why


def test_a_cluster_whose_use_is_not_known_yet_is_shown_idle():
    nodes, _ = answers(node("a"))
    for usage in ({}, {"data": {"clusterStatus": None}}, {"data": {"clusterStatus": {"loadMetricsReport": None}}}):
        (row,) = node_rows(nodes, usage)
        assert row.cpus_used == 0


def test_the_table_shows_what_a_person_looks_for():
    rows = node_rows(*answers(node("attic", head=True, room="study", **CARD), node("shed", "DEAD")))
    console = Console(file=io.StringIO(), width=200)
    console.print(table(rows))
    shown = console.file.getvalue().splitlines()
    assert "attic (head)" in shown[1]
    assert "GeForce-RTX-3090-Ti 24 GiB" in shown[1]
    assert "room=study" in shown[1]
    assert "dead: Expected termination" in shown[2]


def test_a_drained_node_is_shown_with_its_time_whether_it_has_left_or_not():
    why = "shed is drained until 23:00"
    for state in ("ALIVE", "DEAD"):
        rows = node_rows(*answers(node("attic", head=True), node("shed", state)), drained={"shed": why})
        assert [row.drained for row in rows] == ["", why]
        console = Console(file=io.StringIO(), width=200)
        console.print(table(rows))
        assert why in console.file.getvalue()
        assert "dead" not in console.file.getvalue()
