"""What happens on several PCs at once, shown while it happens; and what a PC said where it failed."""

import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from rich.live import Live
from rich.table import Table

from jobs.commands.terminal import console

if TYPE_CHECKING:
    from cluster.inventory import NodeSpec
    from cluster.remote.up import Outcome


class LiveTable:
    """A row for each PC on stderr: what is going on there and for how long; a context manager."""

    def __init__(self, nodes: Sequence["NodeSpec"]) -> None:
        self._nodes = nodes
        self._doing: dict[str, tuple[str, float]] = {node.name: ("waits", time.monotonic()) for node in nodes}
        self._done: dict[str, Outcome] = {}
        self._lock = threading.Lock()
        self._live = Live(get_renderable=self._table, console=console(), refresh_per_second=4)

    def __enter__(self) -> "LiveTable":
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)
        if not self._live.console.is_terminal:
            self._live.console.line()  # rich ends the last line on a terminal only

    def tell(self, name: str, what: str) -> None:
        """`what` begins on the PC `name`; from any thread."""
        with self._lock:
            self._doing[name] = (what, time.monotonic())

    def finish(self, outcome: "Outcome") -> "Outcome":
        """That PC is through, with `outcome`; from any thread."""
        with self._lock:
            self._done[outcome.name] = outcome
        return outcome

    def _table(self) -> Table:
        table = Table("node", "address", "state", "seconds", box=None, pad_edge=False)
        with self._lock:
            for node in self._nodes:
                outcome = self._done.get(node.name)
                doing, since_s = self._doing[node.name]
                state, seconds = (outcome.state, outcome.seconds) if outcome else (doing, time.monotonic() - since_s)
                table.add_row(node.name, node.address, state, f"{seconds:.1f}")
        return table


def tell_failures(outcomes: Sequence["Outcome"]) -> None:
    """Say of each PC that failed why, and its last words."""
    from cluster.remote.up import log_file

    stderr = console()
    for outcome in outcomes:
        if outcome.state != "failed":
            continue
        lines = [f"{outcome.name}: failed: {outcome.why}", *(f"    {line}" for line in outcome.log)]
        lines += [f"    (all of it: {log_file(outcome.name)})"] if outcome.log else []
        for line in lines:
            stderr.print(line, highlight=False, markup=False, soft_wrap=True)
