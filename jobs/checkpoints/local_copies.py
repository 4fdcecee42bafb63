"""Copies of a run's newest state on each PC's own disk: where the share is slow, a loss costs no more than since these.

They are checkpoints like the others, in this PC's state folder, made by every worker at the same steps. A run goes on
from the newest that all of its workers have, where that is newer than what the share has; a worker on a PC that has
none therefore makes all go on from the share. Only for ways of `sync` whose workers have nothing of their own.
"""

import contextlib
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.node.head import state_folder
from jobs.checkpoints.background import BackgroundCheckpoints
from jobs.runs.folder import RunFolder
from jobs.runs.starts import Start
from vr_core.errors import StorageError
from vr_core.small_files import read_json

KEPT = 2
"""Of each run: workers that die at different moments have one in common."""
OTHERS = 8
"""Runs whose copies stay when another one ends, those that were written to last: by number, since a clock may jump."""


def copies_of(run: RunFolder) -> Path | None:
    """Folder of this PC's copies, a run folder `rank-N` for each of its workers; ranks may change with every start.

    None for a run that cannot be told from another one of the same id.
    """
    try:
        born = str(read_json(run.origin_file)["born"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return state_folder() / "checkpoints" / f"{run.id}.{born}"


class OwnDisk(BackgroundCheckpoints):
    """Writes them; what fails is said once and costs nothing but the copies."""

    def __init__(self, copies: Path, rank: int, start: Start, note: Callable[[str], None]) -> None:
        """Into `copies`, for the worker of a rank; the others as `BackgroundCheckpoints`."""
        self._copies, self._own = copies, RunFolder(copies / f"rank-{rank}")
        super().__init__(self._own, KEPT, note, start, retry_for_s=0.0)
        self._say, self._failed = note, False

    def save(self, *arguments: Any, **more: Any) -> None:
        """As `BackgroundCheckpoints.save`."""
        if self._failed:
            return
        try:
            self._own.path.mkdir(parents=True, exist_ok=True)
            super().save(*arguments, **more)
        except (OSError, StorageError) as error:
            self._failed = True
            self._say(f"no more copies of the run on {platform.node()}'s own disk: {error.__cause__ or error}")

    def forget(self) -> None:
        """Remove the copies of this run, which has ended, and those of runs that are long gone."""
        with contextlib.suppress(StorageError):
            self.wait()
        shutil.rmtree(self._own.path, ignore_errors=True)
        with contextlib.suppress(OSError):
            self._copies.rmdir()  # by the last one on this PC
        with contextlib.suppress(OSError):
            for other in sorted(self._copies.parent.iterdir(), key=_touched_s, reverse=True)[OTHERS:]:
                shutil.rmtree(other, ignore_errors=True)


def _touched_s(folder: Path) -> float:
    return max(path.stat().st_mtime for path in (folder, *folder.glob("rank-*/checkpoints")))
