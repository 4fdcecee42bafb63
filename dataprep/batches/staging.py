"""Copying a data set's shards to this machine's own disk while it is read."""

import threading
from collections.abc import Callable

from dataprep.shards.dataset import Dataset
from vr_core.errors import VrError


class BackgroundStaging:
    """A thread that copies shards into a data set's cache; each is read from its copy as soon as that is whole.

    What fails ends the copying and not the reading: the shards are still where they were.
    """

    def __init__(self, data: Dataset, on_failure: Callable[[str], None]) -> None:
        """Start.

        Args:
            data: opened with a cache.
            on_failure: called by the thread, with one line.
        """
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(data, on_failure), name="staging", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop, and wait for the thread; half a copy is gone on with the next time."""
        self._stop.set()
        self._thread.join()

    def _run(self, data: Dataset, on_failure: Callable[[str], None]) -> None:
        try:
            data.stage(self._go_on)
        except _Stopped:
            return
        except VrError as error:
            on_failure(f"staging stopped, shards are read from {data.folder}: {error}")

    def _go_on(self, _: int) -> None:
        if self._stop.is_set():
            raise _Stopped


class _Stopped(Exception):
    """`close` was called."""
