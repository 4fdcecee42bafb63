"""What `vr jobs list` and `vr jobs show` tell: run folders first, Ray's job states beside them where a head runs."""

import dataclasses
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.head import Head, state_folder
from jobs.driver import look_for_driver, of_own_job
from jobs.errors import DamagedRun
from jobs.ledger import Ledger, Row
from jobs.metrics_log import read_metrics
from jobs.progress import last_record
from jobs.recipe import SYNC_NAMES, SyncName
from jobs.record import read_events
from jobs.runs import LIVE, RunFolder, list_runs, read_json, resolve_run
from jobs.shares import choose_sync
from jobs.submit import job_states
from jobs.trace import machines_of_starts
from vr_core.config import plain

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


def overview(out: Path, head: Head | None) -> list[RunRow]:
    """The runs under `out` and those submitted on this machine, newest change last."""
    ledger = {row.run: row for row in Ledger(state_folder()).rows()}
    folders = {run.path: run for run in list_runs(out.absolute())}
    for row in ledger.values():
        run = RunFolder(Path(row.folder))
        if run.recipe_file.is_file():
            folders.setdefault(run.path, run)
    jobs = job_states(head) if head is not None else {}
    rows = [_row(run, ledger.get(run.id), jobs) for run in folders.values()]
    return sorted(rows, key=lambda row: row.updated_s)


def details(run: RunFolder, head: Head | None) -> dict[str, Any]:
    """All that is known about one run, JSON-ready."""
    kept = Ledger(state_folder()).row(run.id)
    jobs = job_states(head) if head is not None else {}
    row = _row(run, kept, jobs)
    checkpoints = sorted(p.name for p in run.checkpoints.glob("step-*")) if run.checkpoints.is_dir() else []
    pointers = {name: pointed.name for name in ("last", "best") if (pointed := run.pointer(name))}
    return {
        **row.plain(),
        "updated": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row.updated_s)),
        "checkpoints": checkpoints,
        **pointers,
        **foretold(run),
        "events": read_events(run)[-EVENTS:],
        "origin": read_json(run.origin_file),
        "recipe": plain(run.recipe()),
    }


def foretold(run: RunFolder) -> dict[str, Any]:
    """What the run's workers predicted at a start, beside what came of it; empty where they had nothing to say.

    Returns:
        `sync`: `chosen`, `predicted_s` (way → seconds of a step, the mean over the run) and `step_s`, the mean so far.
        `not_worth`: the `machines` without which steps would have been shorter, `with_s` and `without_s`: what the
        first start of a run that keeps all of its workers predicted.
    """
    records = [*read_metrics(run.metrics_file)]
    found: dict[str, Any] = {}
    for record in records:
        if record["kind"] == "sync":
            predicted_s: dict[SyncName, float] = {way: record[way] for way in SYNC_NAMES if way in record}
            found["sync"] = {"chosen": choose_sync(predicted_s), "predicted_s": predicted_s}
        elif record["kind"] == "not_worth":
            found["not_worth"] = record
    if "sync" in found:
        steps_s = [record["step_s"] for record in records if record["kind"] == "step" and "step_s" in record]
        found["sync"]["step_s"] = statistics.fmean(steps_s) if steps_s else None
    if "not_worth" in found:
        told, starts = found["not_worth"], machines_of_starts(run)
        names = starts[0][1] if starts else []
        machines = [names[rank] if rank < len(names) else f"worker {rank}" for rank in told["ranks"]]
        found["not_worth"] = {"machines": machines, "with_s": told["with_s"], "without_s": told["without_s"]}
    return found


_DRIVEN = {"alive": True, "dead": False, "unknown": None}


def _row(run: RunFolder, kept: Row | None, jobs: dict[str, str]) -> RunRow:
    submission = kept.submission if kept else None
    try:
        state = run.state()
    except DamagedRun as error:
        return RunRow(run.id, str(run.path), "damaged", False, 0, 0, None, 0, submission, None, str(error), 0.0)
    signs = look_for_driver(run, state)
    if kept is not None and kept.attempt == run.newest_attempt():
        signs = of_own_job(signs)
    record = last_record(run, "step")
    loss = record.get("loss") if record else None
    return RunRow(
        run=run.id,
        folder=str(run.path),
        state=state.state,
        driven=_DRIVEN[signs.known],
        step=state.step,
        steps=state.steps,
        loss=float(loss) if loss is not None else None,
        attempt=state.attempt,
        submission=submission,
        job=jobs.get(submission) if submission else None,
        why=state.why,
        updated_s=state.updated_s,
    )
