"""How long a cluster takes for a node that has gone silent: its cable is cut, or its plug is pulled, in a LAN in a box.

Counted from just before the cut to the head's dashboard calling the node dead, which is what `vr cluster status`, Ray
Train and our supervisor go by. The promise is 15 s; Ray's own settings take 65 s.

The node has just joined: Ray puts the first check of a new node off, and a measurement of an old one would not see it.
"""

import statistics
from typing import Any

from tests.bench.measurement import Benchmark
from tests.box.runs import join, start_cluster
from tests.box.silence import PROMISED_S, seconds_to_notice
from tests.lan import Host, Lan

CUTS, PULLS = 6, 2
"""In the full form: where in the head's round of checks a cut falls is chance."""


def measure(quick: bool) -> dict[str, Any]:
    """One cut, or several and some pulled plugs; the ratio is of the slowest."""
    cuts, pulls = [], []
    with Lan("attic", "study") as lan:
        head, node = lan["attic"], lan["study"]
        start_cluster(head, node)
        while True:
            cuts.append(seconds_to_notice(head, node, node.cut))
            if quick or len(cuts) == CUTS:
                break
            node.mend()
            _join_again(head, node)
        while not quick and len(pulls) < PULLS:
            node.mend() if node.is_on else node.start()
            _join_again(head, node)
            pulls.append(seconds_to_notice(head, node, node.kill))
    slowest_s = max(cuts + pulls)
    return {
        "ratio": PROMISED_S / slowest_s,
        "promised_s": PROMISED_S,
        "slowest_s": slowest_s,
        "median_s": statistics.median(cuts + pulls),
        "cut_s": [round(seconds, 2) for seconds in cuts],
        "plug_pulled_s": [round(seconds, 2) for seconds in pulls],
    }


def _join_again(head: Host, node: Host) -> None:
    # Ray keeps a node dead that it once called dead, also when its processes go on.
    node.vr("cluster", "down", "--yes")
    join(head, node)


BENCHMARK = Benchmark("15 s over the seconds until a silent node is called dead", measure)
