"""What a run is asked for from outside, by files in its folder: to stop, or to leave its machines."""

import contextlib
import time

from jobs.runs.folder import RunFolder

POLL_S = 1.0
"""Between two looks for the files."""


class Wishes:
    """Rank 0 looks; the others learn of it with the next exchange, so that all ranks end after the same step."""

    def __init__(self, run: RunFolder, rank: int) -> None:
        """Of `run`, as `rank` sees it."""
        self._run, self._rank = run, rank
        self._looked_s = time.monotonic()

    def look(self) -> dict[str, bool]:
        """`stop` and `leave`, where it is time to look and a file is there; an earlier wish has been told already."""
        if self._rank or time.monotonic() - self._looked_s <= POLL_S:
            return {}
        self._looked_s = time.monotonic()
        with contextlib.suppress(OSError):  # the share is away: nobody can have wished for anything
            return {"stop": self._run.stop_file.exists(), "leave": self._run.leave_file.exists()}
        return {}
