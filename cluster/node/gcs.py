"""What passes through Ray's GCS about drained nodes: Ray's own drain, and the notice that a node reads.

The only place that touches this part of Ray, which is not a stable interface (2.60: `ray drain-node` is hidden). Each
call is a short process of its own: Ray reads token and mode once for the life of a process, waits 40 s where no GCS
answers, and ends the whole process when a GCS goes away.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cluster.errors import ClusterFailure
from cluster.node.head import Head
from cluster.node.ray_start import client_environment
from cluster.node.start import require_answer
from cluster.trust.peer import require_own_at

_NAMESPACE, _KEY = b"vr", b"drained"
_TIMEOUT_S = 30.0


def publish(head: Head, names: Iterable[str]) -> None:
    """Let every node read that `names` are drained.

    Raises:
        ClusterFailure: the GCS does not take it.
    """
    _call(head.gcs_address, head.environment(), "publish", *sorted(names))


def ask(address: str, token_file: Path) -> frozenset[str] | None:
    """Names of the nodes that the head at `address` (`host:port`) has drained; None where it does not answer."""
    try:
        require_answer(address)
        environment = client_environment(address.rpartition(":")[0], token_file)
        return frozenset(_call(address, environment, "ask"))
    except ClusterFailure:
        return None


def leave(head: Head, node_id: str, why: str, within_s: float) -> None:
    """Let Ray drain a node: it takes no new work, and its raylet ends when it is idle, or after `within_s`.

    `ray start --block` and the log monitor stay (`cluster.node.start.has_left`). It cannot be taken back.

    Raises:
        ClusterFailure: Ray refuses.
    """
    accepted, said = _call(head.gcs_address, head.environment(), "leave", node_id, why, str(within_s))
    if not accepted:
        raise ClusterFailure(f"{why}: Ray does not let it leave ({said})")


def leave_if_idle(head: Head, node_id: str, why: str) -> bool:
    """Let Ray drain a node on which nothing runs; False, and no change, where something does."""
    accepted, _ = _call(head.gcs_address, head.environment(), "leave-if-idle", node_id, why, "0")
    return bool(accepted)


def _call(address: str, environment: Mapping[str, str], *arguments: str) -> Any:
    require_own_at(address)
    # An inherited token would win over the file.
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "cluster.node.gcs", address, *arguments],
            env={**inherited, **environment},
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise ClusterFailure(f"{address}: Ray's GCS gave no answer in {_TIMEOUT_S:.0f} s") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        raise ClusterFailure(f"{address}: Ray's GCS does not answer ({lines[-1][:300] if lines else 'no output'})")
    return json.loads(done.stdout)


def main(arguments: list[str]) -> int:
    """The process of one call: ADDRESS VERB ARGUMENTS; its answer is JSON on stdout."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason  # type: ignore[attr-defined]

    address, verb, *rest = arguments
    client = GcsClient(address=address)
    answer: Any = None
    match verb:
        case "publish":
            client.internal_kv_put(_KEY, json.dumps(rest).encode(), True, _NAMESPACE)
        case "ask":
            answer = json.loads(client.internal_kv_get(_KEY, _NAMESPACE) or "[]")
        case "leave" | "leave-if-idle":
            node_id, why, within_s = rest
            if verb == "leave":
                # Not to be refused, and a worker that it ends is not counted as failed by Ray.
                reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
                deadline_ms = int((time.time() + float(within_s)) * 1000)
            else:
                reason, deadline_ms = DrainNodeReason.Value("DRAIN_NODE_REASON_IDLE_TERMINATION"), 0
            answer = client.drain_node(node_id, reason, why, deadline_ms)
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
