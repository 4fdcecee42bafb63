"""Progress bars of commands: on stderr, where that is a terminal."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from jobs.commands.terminal import console

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn

    from dataprep.preparing.prepare import PrepareProgress

LINE_EVERY_S = 15.0
"""Where stderr is no terminal."""


@contextmanager
def _progress(console: "Console", *columns: "ProgressColumn") -> "Iterator[Progress]":
    from rich.progress import Progress

    # What goes to a pipe or a file on stdout stays there, and is not drawn above the bar on stderr.
    redirected = sys.stdout.isatty()
    with Progress(*columns, console=console, disable=not console.is_terminal, redirect_stdout=redirected) as progress:
        yield progress


@contextmanager
def step_bar(what: str, total: int) -> Iterator[Callable[[str], None]]:
    """A bar over steps that are alike; yields a function to call after each, with words for the next."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with _progress(console(), *columns) as progress:
        task = progress.add_task(what, total=total)
        yield lambda next_: progress.update(task, advance=1, description=next_)


@contextmanager
def audio_bar() -> Iterator[Callable[[str, int, int, float, float], None]]:
    """A bar over seconds of audio on stderr; where that is no terminal, a line now and then.

    Yields:
        A function to call with the song at work, songs done, songs in all, seconds of audio done, seconds in all.
    """
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

    stderr = console()
    started_s = line_s = time.monotonic()
    columns = (
        TextColumn("{task.fields[songs]}"), BarColumn(), TextColumn("{task.fields[hours]}"),
        TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), TextColumn("{task.description}"),
    )  # fmt: skip
    with _progress(stderr, *columns) as progress:
        task = progress.add_task("", total=None, songs="", hours="", rate="")

        def report(song: str, songs_done: int, songs: int, done_s: float, total_s: float) -> None:
            nonlocal line_s
            now_s = time.monotonic()
            count = f"{songs_done}/{songs} songs"
            hours = f"{done_s / 3600:.2f}/{total_s / 3600:.2f} h of audio"
            rate = f"{done_s / max(now_s - started_s, 1e-3):.0f} × real time"
            progress.update(
                task, completed=done_s, total=total_s, description=song, songs=count, hours=hours, rate=rate
            )
            if not stderr.is_terminal and now_s - line_s > LINE_EVERY_S:
                line_s = now_s
                typer.echo(f"{count}, {hours}, {rate}", err=True)

        yield report


def in_bar(report: Callable[[str, int, int, float, float], None]) -> "Callable[[PrepareProgress], None]":
    """What `prepare` is given to report to a `audio_bar`."""
    return lambda p: report(p.song, p.songs_done, p.songs, p.done_s, p.total_s)


@contextmanager
def byte_bar(what: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
    """A bar over bytes on stderr, where that is a terminal; yields a function to call with bytes done since."""
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    stderr = console()
    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with _progress(stderr, *columns) as progress:
        task = progress.add_task("", total=total_bytes)
        yield lambda count: progress.advance(task, count)


@contextmanager
def song_progress(seconds: dict[str, float]) -> Iterator[Callable[[str, float], None]]:
    """A bar over the seconds of several songs on stderr; where that is no terminal, a line for each song.

    Args:
        seconds: song → length, 0 where it is not known.

    Yields:
        A function to call with the song and the seconds of it that are done.
    """
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

    stderr = console()
    stderr.soft_wrap = True  # so that a path that is printed above the bar stays one line
    total_s = sum(seconds.values())
    finished_s: dict[str, float] = {}
    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[rate]}"), TimeRemainingColumn(),
    )  # fmt: skip
    with _progress(stderr, *columns) as bar:
        task = bar.add_task("separating", total=total_s or None, rate="")

        def report(name: str, now_s: float) -> None:
            if name not in finished_s and not stderr.is_terminal:
                stderr.print(f"separating {name} ({len(finished_s) + 1} of {len(seconds)})", highlight=False)
            finished_s[name] = now_s
            speed = bar.tasks[0].speed
            bar.update(
                task, completed=sum(finished_s.values()), description=name,
                rate=f"{speed:.1f} × real time" if speed else "",
            )  # fmt: skip

        yield report
