"""How a run looks on a terminal: progress, rate, time left, losses. Pure summaries first, rich at the edge."""

import contextlib
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jobs.progress import MetricsReader
from jobs.runs import RunFolder, RunState

if TYPE_CHECKING:
    from rich.console import RenderableType

SPARKS = "▁▂▃▄▅▆▇█"
RATE_STEPS = 50
"""The rate is that of this many last steps."""
LINE_EVERY_S = 15.0
"""Where stderr is no terminal."""


@dataclass(frozen=True)
class Summary:
    """What one looks for in a running job."""

    run: str
    state: str
    why: str
    step: int
    steps: int
    steps_per_s: float | None
    left_s: float | None
    loss: float | None
    validation: tuple[int, float] | None
    """Step and loss of the last validation."""
    losses: tuple[float, ...]
    """Of all steps so far, in order."""


def summarise(run: str, state: RunState, records: Sequence[dict[str, Any]]) -> Summary:
    """Summary of a run in `state` with the metrics `records`."""
    steps = [r for r in records if r.get("kind") == "step"]
    validations = [r for r in records if r.get("kind") == "validation" and r.get("loss") is not None]
    step = max(state.step, steps[-1]["step"] if steps else 0)
    rate = _rate(steps[-RATE_STEPS:])
    running = state.state == "running" and rate is not None
    losses = tuple(float(r["loss"]) for r in steps if _finite(r.get("loss")))
    return Summary(
        run=run,
        state=state.state,
        why=state.why,
        step=step,
        steps=state.steps,
        steps_per_s=rate,
        left_s=(state.steps - step) / rate if running and rate else None,
        loss=losses[-1] if losses else None,
        validation=(validations[-1]["step"], float(validations[-1]["loss"])) if validations else None,
        losses=losses,
    )


def _rate(steps: Sequence[dict[str, Any]]) -> float | None:
    """Steps per second between the first and the last of `steps`; pauses between attempts are part of it."""
    if len(steps) < 2 or "time_s" not in steps[0] or "time_s" not in steps[-1]:
        return None
    elapsed_s = steps[-1]["time_s"] - steps[0]["time_s"]
    return (steps[-1]["step"] - steps[0]["step"]) / elapsed_s if elapsed_s > 0 else None


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


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


def line(summary: Summary) -> str:
    """One line for logs and for terminals that are none."""
    parts = [f"{summary.run}: {summary.state}", f"step {summary.step}/{summary.steps}"]
    if summary.steps_per_s is not None and summary.state == "running":
        parts.append(f"{summary.steps_per_s:.2f} steps/s")
    if summary.left_s is not None:
        parts.append(f"{duration(summary.left_s)} left")
    if summary.loss is not None:
        parts.append(f"loss {summary.loss:.4g}")
    if summary.validation is not None:
        parts.append(f"validation {summary.validation[1]:.4g} at step {summary.validation[0]}")
    if summary.why:
        parts.append(summary.why)
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def render(summary: Summary) -> "RenderableType":
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
    rate = "" if summary.steps_per_s is None else f"{summary.steps_per_s:.2f} steps/s"
    left = "" if summary.left_s is None else f"{duration(summary.left_s)} left"
    top.add_row(
        Text(summary.run, style="bold"),
        Text(summary.state),
        ProgressBar(summary.steps, summary.step),
        Text(f"{summary.step}/{summary.steps}  {rate}  {left}"),
    )
    rows: list[RenderableType] = [top]
    if summary.loss is not None:
        validation = (
            ""
            if summary.validation is None
            else (f"   validation {summary.validation[1]:.4g} at step {summary.validation[0]}")
        )
        rows.append(Text(f"loss {summary.loss:.4g}  {sparkline(summary.losses, 48)}{validation}"))
    if summary.why:
        rows.append(Text(summary.why, style="yellow"))
    return Group(*rows)


class Display:
    """Shows one run on stderr: a live view on a terminal, a line now and then elsewhere."""

    def __init__(self, run: RunFolder) -> None:
        from rich.console import Console
        from rich.live import Live

        self._run = run
        self._reader = MetricsReader(run.metrics_file)
        console = Console(stderr=True)
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._said: tuple[str, str] = ("", "")
        self._said_s = -math.inf

    def show(self, state: RunState) -> None:
        """Show `state` and the metrics that are new."""
        self._reader.read()
        summary = summarise(self._run.id, state, self._reader.records)
        if self._live is not None:
            self._live.update(render(summary), refresh=True)
            return
        news = (state.state, state.why) != self._said
        if news or time.monotonic() - self._said_s > LINE_EVERY_S:
            self._said, self._said_s = (state.state, state.why), time.monotonic()
            print(line(summary), file=sys.stderr, flush=True)


@contextlib.contextmanager
def display(run: RunFolder) -> Iterator[Display]:
    """A display for the block."""
    shown = Display(run)
    with shown._live or contextlib.nullcontext():
        yield shown
