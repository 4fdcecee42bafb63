"""What the supervisor of a run tells: state.json and events.jsonl, on storage that may be full or away for a while."""

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Literal

from cluster.timings import Timings
from jobs.errors import DamagedRun, Superseded
from jobs.runs.folder import RunFolder
from jobs.runs.progress import last_step
from jobs.runs.state import RunState, settled
from vr_core.config import plain
from vr_core.files import open_below
from vr_core.small_files import DamagedFile, parse_json, printable, read_bytes

EventKind = Literal["start", "workers_ready", "retry", "lost", "excluded", "leaving", "mended", "no_effect"]
"""What an event of a run is.

start, workers_ready: workers are asked for, or all there; retry: a failure is tried again; lost: a machine answers no
more; excluded: steps are shorter without a machine; leaving: the loop is to leave its machines at the next report;
mended: a damaged file was written anew; no_effect: the recipe asks for something in vain.
"""


class Record:
    """Of one attempt."""

    def __init__(
        self,
        run: RunFolder,
        attempt: int,
        watch: Callable[[RunState], None],
        timings: Timings,
        *,
        sleep: Callable[[float], object] = time.sleep,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is written yet; `watch` is called with every state."""
        self._run, self._attempt, self._watch = run, attempt, watch
        self._timings, self._sleep, self._now_s = timings, sleep, now_s
        self._known: RunState | None = None
        """The whole state, as last written or as it is to be written."""
        self._beat = 0

    def say(self, line: str, kind: EventKind, **facts: str) -> None:
        """Into the job's log and the run's events: for people, and as an event of that kind with its facts."""
        print(f"run {self._run.id}: {line}", file=sys.stderr, flush=True)
        with contextlib.suppress(OSError):  # the log has it
            event: dict[str, Any] = {"time_s": round(time.time(), 3), "attempt": self._attempt}
            event |= {"step": last_step(self._run), "kind": kind, **facts}
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            with open_below(self._run.root, self._run.events_file, flags) as file:
                file.write(json.dumps({**event, "said": line}).encode() + b"\n")

    def write(self, **changes: Any) -> RunState:
        """Write the run's state; where that cannot be done now, it is told later, and only an end waits until it is.

        Raises:
            OSError, DamagedRun: the first state of the attempt cannot be written, or an end for `tell_for_s`.
            Superseded: a newer attempt owns the run, and nothing was written.
        """
        changes = settled(changes)
        ends = changes.get("state") in ("finished", "failed", "stopped")
        said, until_s = False, self._now_s() + self._timings.tell_for_s
        self._beat += 1
        changes["beat"] = self._beat
        while True:
            try:
                self.require_newest()
                known = plain(self._known) if self._known is not None else {}
                self._known = self._run.write_state(**{**known, **changes})
            except (OSError, DamagedRun) as error:  # a file on a share that is away looks damaged
                if not said:
                    print(f"run {self._run.id}: state not written: {error}", file=sys.stderr, flush=True)
                said = True
                if self._known is None or (ends and self._now_s() > until_s):
                    raise
                if ends:
                    self._sleep(self._timings.storage_again_s)
                    continue
                self._known = self._known.model_copy(update=changes)
            self._watch(self._known)
            return self._known

    def require_newest(self) -> None:
        """Check that the run is this driver's still.

        Raises:
            Superseded: a newer attempt owns it.
        """
        newest = self._run.newest_attempt()
        if newest > self._attempt:
            raise Superseded(f"run {self._run.id}: attempt {newest} has taken over from attempt {self._attempt}")

    def await_folder(self, stop: threading.Event) -> None:
        """Until the run's folder is there: without it nothing can be told, and a start on it would be a mistake."""
        said = False
        while not self._is_there():
            if not said:
                print(f"run {self._run.id}: {self._run.path} is away; waiting for it", file=sys.stderr, flush=True)
            said = True
            if stop.wait(self._timings.storage_again_s):
                return

    def _is_there(self) -> bool:
        try:
            return self._run.recipe_file.is_file()
        except OSError:
            return False


_EVENT: dict[str, Any] = {"time_s": (int, float), "step": int, "said": str}
"""What every event has, of which types."""


def read_events(run: RunFolder) -> list[dict[str, Any]]:
    """What happened to the run, oldest first: `time_s`, `attempt`, `step`, `said`; a damaged line is left out."""
    found = []
    with contextlib.suppress(FileNotFoundError, DamagedFile):
        for line in read_bytes(run.events_file).splitlines():
            with contextlib.suppress(DamagedFile):
                event = parse_json(line, str(run.events_file))
                if all(isinstance(event.get(key), kind) for key, kind in _EVENT.items()):
                    found.append({key: printable(x) if isinstance(x, str) else x for key, x in event.items()})
    return found
