"""How long a cluster takes to notice that a node has gone silent."""

import subprocess
import sys
import time
from collections.abc import Callable

from tests.lan import Host

PROMISED_S = 15.0
_WATCH = """
import sys, time
from cluster.node.head import fetch, find_head
from cluster.status.nodes import node_rows

head = find_head()
def alive():
    rows = node_rows(fetch(head, "/api/v0/nodes?detail=1"), {})
    return any(row.name == sys.argv[1] and row.alive for row in rows)
assert alive(), "not in the cluster"
print("alive", flush=True)
while alive():
    time.sleep(0.02)
print(time.monotonic(), flush=True)
"""
"""On the head. All hosts of a box have one clock, and it counts from the machine's start."""


def seconds_to_notice(head: Host, node: Host, silence: Callable[[], None]) -> float:
    """Seconds from `silence`, which makes `node` silent, to the head calling it dead."""
    watch = head.popen([sys.executable, "-c", _WATCH, node.name], stdout=subprocess.PIPE)
    assert watch.stdout is not None
    with watch:
        said = watch.stdout.readline()
        assert said == "alive\n", f"{node.name}: not in the cluster of {head.name}"
        start = time.monotonic()
        silence()
        return float(watch.stdout.readline()) - start
