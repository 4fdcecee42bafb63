"""What `vr jobs list` and `vr jobs show` tell: run folders first, Ray's job states beside them where a head runs."""

import dataclasses
import itertools
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.node.head import Head, state_folder
from jobs.errors import NotACheckpoint
from jobs.queue.submit import job_states
from jobs.queue.table import Ledger, Row
from jobs.recipe import SYNC_NAMES, SyncName
from jobs.reports.trace import machines_of_starts
from jobs.runs.folder import POINTERS, PointerName, RunFolder
from jobs.runs.liveness import look_for_driver, of_own_job
from jobs.runs.lookup import resolve_run
from jobs.runs.progress import last_record
from jobs.runs.provenance import read_kept_origin
from jobs.runs.state import LIVE
from jobs.runs.state_writer import read_events
from jobs.runs.summary import RunSummary, read_summary, summary_of
from jobs.steps.shares import choose_sync
from vr_core.config import plain
from vr_core.errors import VrError
from vr_core.small_files import DamagedFile

EVENTS = 20
"""The newest that are shown."""


@dataclass(frozen=True)
class RunRow:
    """One line of the list."""

    run: str
    folder: str
    state: str
    driven: bool | None
    """Somebody carries it now; None: its driver is on another PC, which one look cannot tell."""
    step: int
    steps: int
    loss: float | None
    attempt: int
    submission: str | None
    job: str | None
    """Ray's status of the newest job."""
    why: str
    updated_s: float

    @property
    def shown_state(self) -> str:
        """The state; `interrupted` where nobody carries a run that says it runs, `running?` where that is not known."""
        if self.state not in LIVE or self.driven:
            return self.state
        return f"{self.state}?" if self.driven is None else "interrupted"

    @property
    def shown_loss(self) -> str:
        """The last loss, short."""
        return "" if self.loss is None else f"{self.loss:.4g}"

    def plain(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return dataclasses.asdict(self)


def find_run(name_or_path: str, out: Path) -> RunFolder:
    """The run of that folder or name: under `out`, or submitted on this machine to any folder.

    Raises:
        UnknownRun: neither.
    """
    row = Ledger(state_folder()).row(name_or_path)
    if row is not None and not (out / name_or_path).exists() and (Path(row.folder) / "recipe.yaml").is_file():
        return RunFolder(Path(row.folder))
    return resolve_run(name_or_path, out)


@dataclass(frozen=True)
class Overview:
    """Some of the runs, newest change last."""

    rows: list[RunRow]
    has_older: bool
    """Whether there are runs besides these."""


def overview(out: Path, head: Head | None, newest: int | None = None) -> Overview:
    """The runs under `out` and those submitted on this machine; with `newest`, no other runs than those are read."""
    ledger = {row.run: row for row in Ledger(state_folder()).rows()}
    submitted = {Path(row.folder) for row in ledger.values()}
    # A folder changes when a file in it is replaced, as state.json is: so no file of older runs has to be looked at.
    changed_s = _folders_in(out.absolute())
    changed_s |= {path: at_s for path in submitted - changed_s.keys() if (at_s := _changed_s(path)) is not None}
    runs = (
        RunFolder(path)
        for path in sorted(changed_s, key=changed_s.__getitem__, reverse=True)
        if (path / "recipe.yaml").is_file() and (path in submitted or (path / "state.json").is_file())
    )
    chosen = list(itertools.islice(runs, newest))
    jobs = job_states(head) if head is not None and chosen else {}
    rows = [_row(run, ledger.get(run.id), jobs) for run in chosen]
    return Overview(sorted(rows, key=lambda row: row.updated_s), next(runs, None) is not None)


def _folders_in(out: Path) -> dict[Path, float]:
    """The folders in `out`, and when each was changed."""
    if not out.is_dir():
        return {}
    with os.scandir(out) as entries:
        folders = [out / entry.name for entry in entries if entry.is_dir()]
    return {path: at_s for path in folders if (at_s := _changed_s(path)) is not None}


def _changed_s(folder: Path) -> float | None:
    try:
        return folder.stat().st_mtime
    except OSError:  # gone, or its share is away
        return None


def details(run: RunFolder, head: Head | None) -> dict[str, Any]:
    """All that is known about one run, JSON-ready."""
    recipe = run.recipe()
    kept = Ledger(state_folder()).row(run.id)
    jobs = job_states(head) if head is not None else {}
    row = _row(run, kept, jobs)
    checkpoints = sorted(p.name for p in run.checkpoints.glob("step-*")) if run.checkpoints.is_dir() else []
    pointers: dict[str, str] = {name: pointed for name in POINTERS if (pointed := _pointed(run, name))}
    return {
        **row.plain(),
        "updated": shown_moment(row.updated_s, "%Y-%m-%d %H:%M:%S"),
        "checkpoints": checkpoints,
        **pointers,
        **foretold(run, summary_of(run, recipe.steps)),
        "events": read_events(run)[-EVENTS:],
        **_origin(run),
        "recipe": plain(recipe),
    }


def _origin(run: RunFolder) -> dict[str, Any]:
    """`origin`, as far as it can be read, and `damage`, what cannot: a run goes on without it."""
    try:
        return {"origin": read_kept_origin(run.origin_file), "damage": []}
    except (OSError, DamagedFile) as error:
        return {"origin": {}, "damage": [str(error)]}


def shown_moment(moment_s: float, form: str) -> str:
    """Unix time as local time; `?` for what is no moment that a calendar has."""
    try:
        return time.strftime(form, time.localtime(moment_s))
    except (OverflowError, ValueError, OSError):
        return "?"


def foretold(run: RunFolder, summary: RunSummary) -> dict[str, Any]:
    """What the run's workers predicted at a start, beside what came of it; empty where they had nothing to say.

    Returns:
        `sync`: `chosen`, `predicted_s` (way → seconds of a step, the mean over the run) and `step_s`, the mean so far.
        `not_worth`: the `machines` without which steps would have been shorter, `with_s` and `without_s`: what the
        first start of a run that keeps all of its workers predicted.
    """
    found: dict[str, Any] = {}
    if summary.predicted_s:
        predicted_s: dict[SyncName, float] = {w: summary.predicted_s[w] for w in SYNC_NAMES if w in summary.predicted_s}
        found["sync"] = {
            "chosen": choose_sync(predicted_s), "predicted_s": predicted_s, "step_s": summary.step_s,
        }  # fmt: skip
    if summary.not_worth is not None:
        reported, starts = summary.not_worth, machines_of_starts(run)
        names = starts[0] if starts else []
        machines = [names[rank] if rank < len(names) else f"worker {rank}" for rank in reported.ranks]
        found["not_worth"] = {"machines": machines, "with_s": reported.with_s, "without_s": reported.without_s}
    return found


def _pointed(run: RunFolder, name: PointerName) -> str | None:
    try:
        pointed = run.pointer(name)
    except NotACheckpoint:
        return "damaged"
    return pointed.name if pointed else None


_DRIVEN = {"alive": True, "dead": False, "unknown": None}


def _row(run: RunFolder, kept: Row | None, jobs: dict[str, str]) -> RunRow:
    """The line of a run; of one that is damaged in any way, that: it must not hide the others."""
    try:
        return _whole_row(run, kept, jobs)
    except (VrError, OSError) as error:
        submission = kept.submission if kept else None
        return RunRow(run.id, str(run.path), "damaged", False, 0, 0, None, 0, submission, None, str(error), 0.0)


def _whole_row(run: RunFolder, kept: Row | None, jobs: dict[str, str]) -> RunRow:
    submission = kept.submission if kept else None
    state = run.state()
    signs = look_for_driver(run, state)
    if kept is not None and kept.attempt == run.newest_attempt():
        signs = of_own_job(signs)
    return RunRow(
        run=run.id,
        folder=str(run.path),
        state=state.state,
        driven=_DRIVEN[signs.known],
        step=state.step,
        steps=state.steps,
        loss=_last_loss(run),
        attempt=state.attempt,
        submission=submission,
        job=jobs.get(submission) if submission else None,
        why=state.why,
        updated_s=state.updated_s,
    )


def _last_loss(run: RunFolder) -> float | None:
    summary = read_summary(run)
    if summary is not None:
        return summary.loss
    loss = (last_record(run, "step") or {}).get("loss")
    return float(loss) if isinstance(loss, int | float) else None
