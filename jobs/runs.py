"""A run's identity and its folder: names, states, checkpoints; nothing here starts or watches anything.

    <out>/<recipe>-<8 hex>-<n>/
        recipe.yaml       the resolved recipe, with absolute paths
        origin.json       git commit, package versions, machines of each attempt
        attempts/<n>/     made by the driver of attempt n; the newest attempt owns the run
        state.json        RunState
        summary.json      how far it is (`jobs.summary`)
        events.jsonl      what happened to the run: starts, machines lost and joined
        metrics.jsonl     a line for each step and each validation: what counts of all starts
        metrics/<a>.<k>.jsonl  tensorboard/  checkpoints/step-NNNNNNNN/  checkpoints/{last,best}
        notice.json       Notice: what others say of the state: handed in, or ended without its driver
        stop, leave       wishes

The loop writes what stands in the folders, each start under its own number (`jobs.starts`). The driver of the newest
attempt writes state, summary, events and metrics.jsonl; whoever else has something to say writes a file beside them.
"""

import contextlib
import json
import re
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from jobs.errors import DamagedRun, NotACheckpoint, RunExists, UnknownRun
from jobs.origin import read_origin
from jobs.recipe import Recipe, require_startable
from jobs.run_state import LIVE, Notice, RunState, State, settled, standing, stored, with_wait
from vr_core.config import load, plain, to_yaml, validate
from vr_core.errors import ConfigError, StorageError
from vr_core.files import storage_failure, write_json

PointerName = Literal["last", "best"]
POINTERS: tuple[PointerName, ...] = ("last", "best")
"""Files that name a checkpoint."""
_STEP = re.compile(r"step-\d{8,}")


class RunFolder:
    """Paths and state of one run; the folder is on storage that every machine sees."""

    def __init__(self, path: Path) -> None:
        """The run in `path`; nothing is read or made yet."""
        self.path = path.absolute()
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
        write_json(self.state_file, stored(state))
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
        write_json(self.notice_file, plain(notice))
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
                f"run {self.id}: {self.state_file} is damaged ({error}); `vr jobs resume {self.path}` mends it"
            ) from None

    def newest_attempt(self) -> int:
        """Number of the attempt that owns the run; 0 before the first."""
        with contextlib.suppress(FileNotFoundError):
            return max((int(p.name) for p in self.attempts.iterdir() if p.name.isdecimal()), default=0)
        return 0

    def begin_attempt(self) -> int:
        """Take the next attempt: earlier drivers must let go of the run, and wishes to stop or leave are forgotten."""
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
            last = max((path for path in whole if _STEP.fullmatch(path.name)), default=None)
        return int(last.name.removeprefix("step-")) if last else 0

    def pointer(self, name: PointerName) -> Path | None:
        """Step folder that `checkpoints/<name>` names; None where there is no such pointer.

        Raises:
            NotACheckpoint: the pointer is damaged.
            StorageError: the disk or the share with it failed.
        """
        file = self.checkpoints / name
        try:
            step = file.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None
        except OSError as error:
            failed = storage_failure(file, error)
            if failed is not None:
                raise failed from None
            step = ""
        except UnicodeDecodeError:
            step = ""
        if not _STEP.fullmatch(step):
            raise NotACheckpoint(f"{file}: damaged, should name a folder such as step-00000200; write it there by hand")
        return self.checkpoints / step


def read_json(path: Path) -> dict[str, Any]:
    """Mapping in the JSON file `path`.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON, or not a mapping.
    """
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def resolve_paths(recipe: Recipe) -> Recipe:
    """`recipe` with absolute `data`, `out` and `init`; `init` becomes the weights file itself.

    Raises:
        ConfigError: no data set, or no `init` where the recipe needs one.
        NotACheckpoint: `init` is not a checkpoint of ours.
        UnknownRun: `init` names nothing.
    """
    require_startable(recipe)
    out = recipe.out.expanduser().absolute()
    changes: dict[str, Any] = {**plain(recipe), "out": out, "data": Path(str(recipe.data)).expanduser().absolute()}
    if recipe.init is not None:
        init = recipe.init.expanduser()
        changes["init"] = resolve_weights(init if init.exists() else resolve_run(str(init), out).path)
    if not changes["data"].is_dir():
        raise ConfigError(f"data: {changes['data']} is not a folder; make a data set with `vr data prepare`")
    return validate(Recipe, changes, f"recipe {recipe.name}")


def list_runs(out: Path, stem: str = "") -> Iterator[RunFolder]:
    """Runs in the folder `out` whose ids begin with `stem`, by name; folders that are not runs are passed over."""
    if out.is_dir():
        for path in sorted(path for path in out.iterdir() if path.name.startswith(stem)):
            if (path / "recipe.yaml").is_file() and (path / "state.json").is_file():
                yield RunFolder(path)


def repeats(recipe: Recipe) -> list[RunFolder]:
    """Earlier runs of the same recipe over the same data from the same start, oldest first."""
    stem = f"{recipe.name}-{recipe.digest()}-"
    found = [run for run in list_runs(recipe.out, stem) if run.id.removeprefix(stem).isdecimal()]
    same = []
    for run in sorted(found, key=lambda run: int(run.id.removeprefix(stem))):
        earlier = run.recipe()
        if (earlier.data, earlier.init) == (recipe.data, recipe.init):
            same.append(run)
    return same


def refusal(earlier: Iterable[tuple[str, RunState]], again: bool) -> str | None:
    """Why a run may not start beside `earlier` runs (id, state) of the same recipe; None when it may."""
    for run, state in reversed(list(earlier)):
        at = f"step {state.step} of {state.steps}"
        if state.state in LIVE:
            return (
                f"{run} is {state.state} with the same recipe ({at}); watch it with `vr jobs watch {run}`, "
                f"stop it with `vr jobs stop {run}`, or, if its machine died, `vr jobs resume {run}`"
            )
        if not again and state.state == "finished":
            return f"{run} finished the same recipe over the same data; add --again to repeat it"
        if not again:
            return (
                f"{run} has the same recipe and is {state.state} at {at}; go on with `vr jobs resume {run}`, "
                "or add --again to start from nothing"
            )
    return None


def create_run(
    recipe: Recipe,
    again: bool = False,
    confirm: Callable[[Recipe], None] | None = None,
    reserved: Collection[str] = (),
) -> RunFolder:
    """A new run folder for `recipe`, which appears whole or not at all.

    Args:
        recipe: As the user gave it.
        again: Make another run of a recipe that has been run.
        confirm: Called with the resolved recipe when nothing stands against the run; raises to give it up.
        reserved: Ids of runs in any folder: the ledger and Ray know a run by its id alone.

    Raises:
        RunExists: the same recipe over the same data is running, or has been run and `again` is not given.
        ConfigError, NotACheckpoint, UnknownRun: as `resolve_paths`.
        StorageError: `out` cannot be written.
    """
    recipe = resolve_paths(recipe)
    _refuse_repeat(recipe, again)
    if confirm is not None:
        confirm(recipe)
    with writable(recipe.out):
        return _create_run(recipe, again, reserved)


@contextlib.contextmanager
def writable(out: Path) -> Iterator[None]:
    """Make the folder `out` of run folders; in the block something is written there.

    Raises:
        StorageError: that failed.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise StorageError(
            f"out {out}: cannot be written ({error.strerror or error}); give another out=FOLDER or free some space"
        ) from None


def _create_run(recipe: Recipe, again: bool, reserved: Collection[str]) -> RunFolder:
    stem = f"{recipe.name}-{recipe.digest()}-"
    draft = recipe.out / f".new-{uuid.uuid4().hex[:12]}"
    try:
        draft.mkdir()
        (draft / "recipe.yaml").write_text(to_yaml(recipe), encoding="utf-8")
        write_json(draft / "origin.json", {**read_origin(), "born": uuid.uuid4().hex[:12]})
        state = RunState(state="pending", steps=recipe.steps, updated_s=time.time())
        write_json(draft / "state.json", plain(state))
        while True:
            taken = [
                int(name.removeprefix(stem))
                for name in (*reserved, *(p.name for p in recipe.out.iterdir()))
                if name.startswith(stem) and name.removeprefix(stem).isdecimal()
            ]
            path = recipe.out / f"{stem}{max(taken, default=0) + 1}"
            # After the number is chosen: of a run that another process made before, this hears, and a later one has
            # that number.
            _refuse_repeat(recipe, again)
            try:
                # A rename onto a folder that is not empty fails, so that two at once never share a number.
                draft.rename(path)
            except OSError:
                if not path.exists():
                    raise
            else:
                return RunFolder(path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _refuse_repeat(recipe: Recipe, again: bool) -> None:
    reason = refusal([(run.id, run.state()) for run in repeats(recipe)], again)
    if reason is not None:
        raise RunExists(reason)


def resolve_run(name_or_path: str, out: Path) -> RunFolder:
    """The run of that folder, or of that name under `out`.

    Raises:
        UnknownRun: neither; near names are given.
    """
    for path in (Path(name_or_path).expanduser(), out.expanduser() / name_or_path):
        if (path / "recipe.yaml").is_file():
            return RunFolder(path)
    near = get_close_matches(name_or_path, [run.id for run in list_runs(out.expanduser())], n=1)
    hint = f"did you mean {near[0]}?" if near else "`vr jobs list` shows the runs; --out names their folder"
    raise UnknownRun(f"{name_or_path}: no such run in {out.expanduser().absolute()}; {hint}")


def resolve_weights(path: Path) -> Path:
    """The weights file of a run folder (its best checkpoint, else its last), a step folder or such a file itself.

    Raises:
        NotACheckpoint: `path` is none of these, or what it names is incomplete.
    """
    path = path.expanduser().absolute()
    expected = "expected a run folder, a checkpoint folder (step-…) or a weights.safetensors file"
    if path.is_file():
        if path.suffix != ".safetensors":
            raise NotACheckpoint(f"{path}: not a checkpoint of ours; {expected}")
        return path
    if not path.is_dir():
        raise NotACheckpoint(f"{path}: does not exist; {expected}")
    if (path / "recipe.yaml").is_file():
        run = RunFolder(path)
        step = run.pointer("best") or run.pointer("last")
        if step is None:
            raise NotACheckpoint(f"{path}: this run has no checkpoint yet; see `vr jobs show {run.id}`")
        return _weights_of_step(step)
    if _STEP.fullmatch(path.name):
        return _weights_of_step(path)
    raise NotACheckpoint(f"{path}: not a checkpoint of ours; {expected}")


def _weights_of_step(step: Path) -> Path:
    # checkpoint.json is written last, so that a folder without it was cut short.
    for name in ("checkpoint.json", "weights.safetensors"):
        if not (step / name).is_file():
            raise NotACheckpoint(f"{step}: incomplete checkpoint, {name} is missing; use another step of that run")
    return step / "weights.safetensors"
