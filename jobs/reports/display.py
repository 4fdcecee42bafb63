"""How a run looks on a terminal: progress, rate, time left, losses. Pure summaries first, rich at the edge."""

import contextlib
import math
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from jobs.runs.folder import RunFolder
from jobs.runs.state import RunState
from jobs.runs.summary import RunSummary, SummaryReader, Validation, read_summary

if TYPE_CHECKING:
    from rich.console import RenderableType

SPARKS = "▁▂▃▄▅▆▇█"
LINE_EVERY_S = 15.0
"""Where stderr is no terminal."""


def sparkline(values: Sequence[float], width: int) -> str:
    """Means of `width` equal stretches of `values` as bars, on a logarithmic scale where all are positive."""
    if not values:
        return ""
    width = min(width, len(values))
    edges = [round(i * len(values) / width) for i in range(width + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    heights = [math.log(m) for m in means] if min(means) > 0 else means
    low, high = min(heights), max(heights)
    span = high - low or 1.0
    return "".join(SPARKS[min(len(SPARKS) - 1, int((h - low) / span * len(SPARKS)))] for h in heights)


def line(run: str, state: RunState, summary: RunSummary) -> str:
    """One line for logs and for terminals that are none."""
    running = state.state == "running"
    parts = [f"{run}: {state.state}", f"step {max(state.step, summary.step)}/{state.steps}"]
    if summary.steps_per_s is not None and running:
        parts.append(f"{summary.steps_per_s:.2f} steps/s")
    if summary.left_s is not None and running:
        parts.append(f"{duration(summary.left_s)} left")
    if summary.loss is not None:
        parts.append(f"loss {summary.loss:.4g}")
    if summary.validation is not None:
        parts.append(_validation(summary.validation))
    if state.why:
        parts.append(state.why)
    return ", ".join(parts)


def _validation(validation: Validation) -> str:
    loss = "not finite" if validation.loss is None else f"{validation.loss:.4g}"
    return f"validation {loss} at step {validation.step}"


def duration(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def render(run: str, state: RunState, summary: RunSummary) -> "RenderableType":
    """The live view of `vr train` and `vr jobs watch`."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    top = Table.grid(padding=(0, 1), expand=True)
    for _ in range(2):
        top.add_column(no_wrap=True)
    top.add_column(ratio=1)
    top.add_column(no_wrap=True)
    step = max(state.step, summary.step)
    rate = "" if summary.steps_per_s is None else f"{summary.steps_per_s:.2f} steps/s"
    left = "" if summary.left_s is None or state.state != "running" else f"{duration(summary.left_s)} left"
    top.add_row(
        Text(run, style="bold"),
        Text(state.state),
        ProgressBar(state.steps, step),
        Text(f"{step}/{state.steps}  {rate}  {left}"),
    )
    rows: list[RenderableType] = [top]
    if summary.loss is not None:
        bars = sparkline([loss for _, loss in summary.losses], 48)
        validation = "" if summary.validation is None else f"   {_validation(summary.validation)}"
        rows.append(Text(f"loss {summary.loss:.4g}  {bars}{validation}"))
    if state.why:
        rows.append(Text(state.why, style="yellow"))
    return Group(*rows)


class Display:
    """Shows one run on stderr: a live view on a terminal, a line now and then elsewhere."""

    def __init__(self, run: RunFolder) -> None:
        from rich.console import Console
        from rich.live import Live

        self._run = run
        self._reader: SummaryReader | None = None
        """For a run whose driver tells nothing."""
        console = Console(stderr=True)
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._said: tuple[str, str] = ("", "")
        self._said_s = -math.inf

    def show(self, state: RunState) -> None:
        """Show `state`, and how far the run is."""
        summary = read_summary(self._run)
        if summary is None:
            self._reader = self._reader or SummaryReader(self._run, state.steps)
            summary = self._reader.read()
        if self._live is not None:
            self._live.update(render(self._run.id, state, summary), refresh=True)
            return
        news = (state.state, state.why) != self._said
        if news or time.monotonic() - self._said_s > LINE_EVERY_S:
            self._said, self._said_s = (state.state, state.why), time.monotonic()
            print(line(self._run.id, state, summary), file=sys.stderr, flush=True)


@contextlib.contextmanager
def display(run: RunFolder) -> Iterator[Display]:
    """A display for the block."""
    shown = Display(run)
    with shown._live or contextlib.nullcontext():
        yield shown
