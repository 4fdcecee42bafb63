"""Checkpoints written while training goes on: it stops for a copy in memory, and for no disk or network.

What fails for its storage's sake (a share that is away, a full disk) is tried again every few seconds, and said; the
checkpoints before stay. Rank 0 writes; the others do where they have something of their own.
"""

import functools
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from jobs.checkpoints.writing import write_checkpoint, write_part
from jobs.runs.folder import RunFolder
from jobs.runs.starts import BEFORE, Start
from vr_core.errors import StorageError
from vr_core.weights import WeightsMeta

RETRY_EVERY_S = 5.0
RETRY_FOR_S = 900.0
"""Storage that is away for longer ends the attempt."""


class Written(NamedTuple):
    """What one checkpoint cost."""

    step: int
    stopped_s: float
    """Training stood still for so long: for the copy, and for the checkpoint before where that had to be waited for."""
    wrote_s: float
    """From the copy to the checkpoint's being there."""


class BackgroundCheckpoints:
    """Writes one checkpoint at a time, in a thread; a context manager."""

    def __init__(
        self,
        run: RunFolder,
        keep: int,
        note: Callable[[str], None],
        start: Start = BEFORE,
        retry_every_s: float = RETRY_EVERY_S,
        retry_for_s: float = RETRY_FOR_S,
        write: Callable[..., Path] = write_checkpoint,
    ) -> None:
        """Of `run`, whose `keep` newest stay.

        Args:
            run: its folder.
            keep: as `write_checkpoint`.
            note: is given what the user is told.
            start: as `write_checkpoint`.
            retry_every_s: between two tries.
            retry_for_s: storage that is away for longer is an error.
            write: what writes one, as `write_checkpoint`.
        """
        self._run, self._keep, self._note, self._start = run, keep, note, start
        self._retry_every_s, self._retry_for_s, self._write = retry_every_s, retry_for_s, write
        self._thread: threading.Thread | None = None
        self._give_up = threading.Event()
        self._error: BaseException | None = None
        self._written: list[Written] = []

    @property
    def busy(self) -> bool:
        """Whether the checkpoint before is still being written."""
        return self._thread is not None and self._thread.is_alive()

    def save(
        self,
        weights: dict[str, Tensor],
        training: dict[str, Any],
        meta: WeightsMeta,
        position: int,
        validation_loss: float | None,
        best: bool,
        parts: int = 0,
    ) -> None:
        """Copy all of it and return; arguments as `write_checkpoint`. Waits where the one before is not done.

        Raises:
            StorageError: the one before could not be written.
        """
        began_s = time.monotonic()
        self.wait()
        held = _copied(weights), _copied(training)
        stopped_s = time.monotonic() - began_s

        def write() -> None:
            self._write(self._run, *held, meta, position, validation_loss, best, self._keep, self._start, parts)
            wrote_s = time.monotonic() - began_s - stopped_s
            self._written = [*self._written, Written(meta.step, stopped_s, wrote_s)]

        self._go_on_with(write)

    def save_part(self, step: int, rank: int, own: dict[str, Any]) -> None:
        """As `save`, for what the worker of a rank has of its own."""
        self.wait()
        self._go_on_with(functools.partial(write_part, self._run, step, self._start, rank, _copied(own)))

    def _go_on_with(self, write: Callable[[], None]) -> None:
        self._thread = threading.Thread(target=self._try, args=(write,), name="checkpoint", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until what was saved is there.

        Raises:
            StorageError: it could not be written, however often it was tried.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def written(self) -> list[Written]:
        """What has been written since the last call."""
        found, self._written = self._written, []
        return found

    def _try(self, write: Callable[[], None]) -> None:
        until_s = time.monotonic() + self._retry_for_s
        said = ""
        while True:
            try:
                write()
            except StorageError as error:
                if time.monotonic() > until_s or self._give_up.is_set():
                    self._error = error
                    return
                if str(error) != said:
                    said = str(error)
                    self._note(f"{said}; training goes on, and it is tried again every {self._retry_every_s:g} s")
                self._give_up.wait(self._retry_every_s)
            except BaseException as error:  # noqa: B902 - whatever it is, it belongs to the loop
                self._error = error
                return
            else:
                if said:
                    self._note("the storage is back, the checkpoint is written")
                return

    def __enter__(self) -> "BackgroundCheckpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait for what is being written; after an exception no longer than one more try."""
        if kind is not None:
            self._give_up.set()
        if self._thread is not None:
            self._thread.join()


def _copied(value: Any) -> Any:
    """`value` with every tensor in it copied to the CPU's memory."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(item) for item in value)
    return value
