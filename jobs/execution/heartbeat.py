"""Which of a run's PCs still answer: a connection to each one's raylet, twice a second.

Ray takes a node for dead after some 13 seconds (`python -m tests.bench detect`), gloo and NCCL wait for minutes. A PC
whose plug or cable is pulled answers nothing at once; one that is only busy takes the connection, since its kernel does
that by itself.
"""

import socket
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType

from cluster.timings import Timings
from jobs.execution.placement import Node


def answers(address: str, port: int, within_s: float) -> bool:
    """Whether something takes a connection there."""
    try:
        with socket.create_connection((address, port), timeout=within_s):
            return True
    except OSError:
        return False


class Heartbeat:
    """Asks `nodes` until it is closed; a context manager."""

    def __init__(
        self,
        nodes: Sequence[Node],
        timings: Timings,
        *,
        ask: Callable[[str, int, float], bool] = answers,
        now_s: Callable[[], float] = time.monotonic,
        end: threading.Event | None = None,
    ) -> None:
        """Begin to ask, as `answers` does; a node counts as answering now. `end`, once set, ends it as well."""
        self._timings, self._answers, self._now_s = timings, ask, now_s
        self._answered_s = dict.fromkeys((node.name for node in nodes), now_s())
        self._end = end or threading.Event()
        for node in nodes:
            threading.Thread(target=self._ask, args=(node,), name=f"heartbeat of {node.name}", daemon=True).start()

    def unresponsive(self) -> list[str]:
        """Names of the nodes that have been silent for longer than `silent_s`."""
        now_s = self._now_s()
        return sorted(name for name, at_s in self._answered_s.items() if now_s - at_s > self._timings.silent_s)

    def _ask(self, node: Node) -> None:
        while not self._end.is_set():
            began_s = self._now_s()
            if self._answers(node.address, node.port, self._timings.answer_within_s):
                self._answered_s[node.name] = self._now_s()
            self._end.wait(max(0.0, began_s + self._timings.ask_every_s - self._now_s()))

    def __enter__(self) -> "Heartbeat":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end.set()
