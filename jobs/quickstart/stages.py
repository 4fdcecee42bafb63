"""What a quickstart says on the terminal: its stages, and how long each took."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


STAGES = ("songs", "data set", "Ray head", "pretraining", "fine-tuning", "separation")


@dataclass
class Stages:
    """Says on stderr what is being done, and keeps how long it took."""

    console: "Console"
    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def stage(self, name: str, text: str) -> Iterator[None]:
        """Announce the stage `name` as `text`; when the block has ended, say how long it took."""
        number = STAGES.index(name) + 1
        self.say(f"[{number}/{len(STAGES)}] {name}: {text}")
        began_s = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - began_s, 1)
        self.say(f"      done in {self.seconds[name]:.0f} s")

    @contextlib.contextmanager
    def bar(self, total_s: float) -> Iterator[Callable[[float], None]]:
        """A bar over seconds of audio, where a terminal shows it; yields what to call with the seconds done."""
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f} s of audio"), TimeRemainingColumn())
        with Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as progress:
            task = progress.add_task("", total=total_s)
            yield lambda done_s: progress.update(task, completed=done_s)

    def say(self, text: str) -> None:
        """One line, as it is."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)
