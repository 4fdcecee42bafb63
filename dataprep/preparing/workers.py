"""Processes that prepare groups side by side and end with the process that started them, however that ends."""

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch

from dataprep.audio.tracks import Track
from dataprep.errors import WorkerError
from dataprep.preparing.group import GroupPlan, prepare_group
from dataprep.preparing.song import SongSettings

_POLL_S = 0.2
Work = Sequence[tuple[GroupPlan, Sequence[Track]]]
Failed = list[tuple[str, str]]
Tick = Callable[[str, float], None]
"""Called with a song and seconds of it that are done."""
GroupDone = Callable[[GroupPlan], None]
RunGroups = Callable[[Path, Work, SongSettings, int, Tick, GroupDone], Failed]
"""Prepares groups side by side: `run_groups` on this PC, or what does the same on several."""


def run_groups(
    folder: Path, work: Work, settings: SongSettings, workers: int, tick: Tick, group_done: GroupDone
) -> Failed:
    """Prepare every group, in this process where `workers` is 1.

    Args:
        folder: of the data set.
        work: groups with their songs.
        settings: how songs are stored.
        workers: processes.
        tick: called in this process with a song and seconds of it that are done.
        group_done: called in this process when a group is.

    Returns:
        Songs that could not be used: (id, reason).

    Raises:
        NoSpaceError: the disk is full; the other groups are stopped, finished ones stay.
        WorkerError: a process was killed.
    """
    failed: Failed = []
    if workers == 1:
        for plan, tracks in work:
            failed += prepare_group(folder, plan, tracks, settings, tick)
            group_done(plan)
        return failed
    # Not forked: torch and pyarrow have threads, and a fork would copy their locks as they happen to be.
    context = multiprocessing.get_context("spawn")
    ticks: multiprocessing.Queue[tuple[str, float]] = context.Queue()
    stop = context.Event()
    with ProcessPoolExecutor(workers, context, _begin, (ticks, stop)) as pool:
        try:
            running: dict[Future[Failed], GroupPlan] = {
                pool.submit(_run, folder, plan, tracks, settings): plan for plan, tracks in work
            }
            while running:
                finished, _ = wait(running, _POLL_S, FIRST_COMPLETED)
                _drain(ticks, tick)
                for future in finished:
                    failed += future.result()
                    group_done(running.pop(future))
        except BrokenProcessPool:
            raise WorkerError(
                "a worker of the preparation was killed, most likely for want of memory; run the same command again "
                "with fewer --workers: finished songs are kept"
            ) from None
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            ticks.close()
    return failed


def _drain(ticks: "multiprocessing.Queue[tuple[str, float]]", tick: Callable[[str, float], None]) -> None:
    with contextlib.suppress(queue.Empty):
        while True:
            tick(*ticks.get_nowait())


class _Stopped(Exception):
    """The process that started this one wants no more."""


_ticks: Any = None
_stop: Any = None


def _begin(ticks: Any, stop: Any) -> None:
    """Set up a worker process."""
    global _ticks, _stop
    _ticks, _stop = ticks, stop
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group of processes: the parent decides
    ticks.cancel_join_thread()
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _run(folder: Path, plan: GroupPlan, tracks: Sequence[Track], settings: SongSettings) -> Failed:
    def tick(song: str, seconds: float) -> None:
        if _stop.is_set():
            raise _Stopped
        _ticks.put((song, seconds))

    return prepare_group(folder, plan, tracks, settings, tick)
