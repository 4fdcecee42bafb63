"""A run's folder: what stands in it, and its state; nothing here starts or watches anything.

    <out>/<recipe>-<8 hex>-<n>/
        recipe.yaml       the resolved recipe, with absolute paths
        origin.json       git commit, package versions, machines of each attempt
        attempts/<n>/     made by the driver of attempt n; the newest attempt owns the run
        state.json        RunState
        summary.json      how far it is (`jobs.runs.summary`)
        events.jsonl      what happened to the run: starts, machines lost and joined
        metrics.jsonl     a line for each step and each validation: what counts of all starts
        metrics/<a>.<k>.jsonl  tensorboard/  checkpoints/step-NNNNNNNN/  checkpoints/{last,best}
        notice.json       Notice: what others say of the state: handed in, or ended without its driver
        stop, leave       wishes

The loop writes what stands in the folders, each start under its own number (`jobs.runs.starts`). The driver of the
newest attempt writes state, summary, events and metrics.jsonl; whoever else has something to say writes a file beside
them.
"""

import contextlib
import re
import time
from pathlib import Path
from typing import Any, Literal

from jobs.errors import DamagedRun, NotACheckpoint
from jobs.recipe import RUNS, Recipe
from jobs.runs.state import Notice, RunState, State, settled, standing, stored, with_wait
from vr_core.config import load, plain, validate
from vr_core.errors import ConfigError, command
from vr_core.files import require_no_links, storage_failure, write_json
from vr_core.small_files import DamagedFile, read_json, read_text

PointerName = Literal["last", "best"]
POINTERS: tuple[PointerName, ...] = ("last", "best")
"""Files that name a checkpoint."""
STEP_FOLDER = re.compile(r"step-\d{8,}")
"""Name of a checkpoint's folder."""


class RunFolder:
    """Paths and state of one run; the folder is on storage that every machine sees."""

    def __init__(self, path: Path) -> None:
        """The run in `path`; nothing is read or made yet."""
        self.path = path.absolute()
        self.root = self.path.parent
        """What the user gave: below it others may write, and no link is followed when something is written."""
        self.id = self.path.name
        self.recipe_file = self.path / "recipe.yaml"
        self.origin_file = self.path / "origin.json"
        self.state_file = self.path / "state.json"
        self.notice_file = self.path / "notice.json"
        self.summary_file = self.path / "summary.json"
        self.stop_file = self.path / "stop"
        self.leave_file = self.path / "leave"
        self.attempts = self.path / "attempts"
        self.metrics_file = self.path / "metrics.jsonl"
        self.metrics = self.path / "metrics"
        self.events_file = self.path / "events.jsonl"
        self.tensorboard = self.path / "tensorboard"
        self.checkpoints = self.path / "checkpoints"

    @property
    def typed(self) -> str:
        """As a command that is typed here finds it: the name in the usual folder of runs, else the whole path."""
        return self.id if self.path.parent == RUNS.absolute() else str(self.path)

    def recipe(self) -> Recipe:
        """The resolved recipe.

        Raises:
            ConfigError: recipe.yaml is damaged.
        """
        return load(Recipe, self.recipe_file)

    def state(self) -> RunState:
        """The run's state.

        Raises:
            DamagedRun: state.json is missing or damaged.
        """
        return standing(self._written_state(), self._notice())

    def write_state(self, **changes: Any) -> RunState:
        """What the driver alone may do: write the state with `changes` and a new time, in one piece.

        A state that is given as a whole is written whatever stands there: nobody else has anything to say in it.

        Raises:
            DamagedRun: state.json is missing or damaged, and `changes` is not a whole state.
            OSError: it cannot be written.
        """
        changes = settled(changes)
        whole = {"state", "steps"} <= changes.keys()
        written = {} if whole else plain(self._written_state())
        state = validate(RunState, {**written, **changes, "updated_s": time.time()}, str(self.state_file))
        write_json(self.state_file, stored(state), seal=True, root=self.root)
        return state

    def mend_state(self) -> None:
        """Write a state that is damaged anew, for a run that is taken up again; a driver that lives has written it.

        Raises:
            ConfigError: recipe.yaml is damaged as well.
            OSError: it cannot be written.
        """
        try:
            validate(RunState, read_json(self.state_file), str(self.state_file))
        except OSError:  # not damage: whoever reads it says so
            return
        except (ValueError, ConfigError):
            known = {"step": self.last_step(), "steps": self.recipe().steps, "attempt": self.newest_attempt()}
            self.write_state(**known, state="failed", why="its state was damaged")

    def give_notice(self, state: State, why: str) -> RunState:
        """What anybody but the driver may do: say the run's state until its driver writes; returns it."""
        about = self._written_state()
        notice = Notice(state=state, why=why, of_updated_s=about.updated_s, updated_s=time.time())
        write_json(self.notice_file, plain(notice), root=self.root)
        return standing(about, notice)

    def _notice(self) -> Notice | None:
        """Nothing where there is none, or one that cannot be read: it is what others have to say, and no more."""
        try:
            return validate(Notice, read_json(self.notice_file), str(self.notice_file))
        except (OSError, ValueError, ConfigError):
            return None

    def _written_state(self) -> RunState:
        try:
            return validate(RunState, with_wait(read_json(self.state_file)), str(self.state_file))
        except OSError as error:
            raise DamagedRun(
                f"run {self.id}: {self.state_file} cannot be read ({error}); start the recipe anew with --again"
            ) from None
        except (ValueError, ConfigError) as error:
            raise DamagedRun(
                f"run {self.id}: {self.state_file} is damaged ({error}); `{command('jobs resume', self.path)}` mends it"
            ) from None

    def newest_attempt(self) -> int:
        """Number of the attempt that owns the run; 0 before the first."""
        with contextlib.suppress(FileNotFoundError):
            return max((int(p.name) for p in self.attempts.iterdir() if p.name.isdecimal()), default=0)
        return 0

    def begin_attempt(self) -> int:
        """Take the next attempt: earlier drivers must let go of the run, and wishes to stop or leave are forgotten."""
        require_no_links(self.root, self.attempts)
        self.attempts.mkdir(exist_ok=True)
        self.stop_file.unlink(missing_ok=True)
        self.leave_file.unlink(missing_ok=True)
        while True:
            attempt = self.newest_attempt() + 1
            with contextlib.suppress(FileExistsError):
                (self.attempts / str(attempt)).mkdir()
                return attempt

    def take_attempt(self, attempt: int) -> bool:
        """Take exactly that attempt, and leave a wish to stop as it is; False where somebody else has taken it."""
        require_no_links(self.root, self.attempts)
        self.attempts.mkdir(exist_ok=True)
        try:
            (self.attempts / str(attempt)).mkdir()
        except FileExistsError:
            return False
        self.leave_file.unlink(missing_ok=True)
        return True

    def give_back(self, attempt: int) -> None:
        """Undo the taking of an attempt that nobody has begun to carry: who looks would wait for its driver."""
        with contextlib.suppress(OSError):  # something is in it: somebody has
            self.attempt_folder(attempt).rmdir()

    def attempt_folder(self, attempt: int) -> Path:
        """Folder of what belongs to one attempt."""
        return self.attempts / str(attempt)

    def last_step(self) -> int:
        """Step of the newest complete checkpoint; 0 without one."""
        try:
            last = self.pointer("last")
        except NotACheckpoint:  # the next start mends it; how far the run is can be seen without
            whole = [path.parent for path in self.checkpoints.glob("step-*/checkpoint.json")]
            last = max((path for path in whole if STEP_FOLDER.fullmatch(path.name)), default=None)
        return int(last.name.removeprefix("step-")) if last else 0

    def pointer(self, name: PointerName) -> Path | None:
        """Step folder that `checkpoints/<name>` names; None where there is no such pointer.

        Raises:
            NotACheckpoint: the pointer is damaged.
            StorageError: the disk or the share with it failed.
        """
        file = self.checkpoints / name
        try:
            step = read_text(file).strip()
        except FileNotFoundError:
            return None
        except OSError as error:
            failed = storage_failure(file, error)
            if failed is not None:
                raise failed from None
            step = ""
        except DamagedFile:
            step = ""
        if not STEP_FOLDER.fullmatch(step):
            raise NotACheckpoint(f"{file}: damaged, should name a folder such as step-00000200; write it there by hand")
        return self.checkpoints / step
