"""A search's folder: its trials, their table, the best recipe; nothing here starts or watches anything.

<out>/<recipe>-<8 hex>-<n>/
    search.yaml       the resolved recipe with its tune section
    state.json        RunState, counting trials in place of steps
    trials.json       the table: id, values, state, step, score of each trial
    best.yaml         the best trial's complete recipe
    trials/<id>/      a run folder: recipe.yaml, state.json, summary.json, metrics.jsonl, checkpoints/ and so on
    ray-tune/         Ray Tune's own state, which nothing reads: it is pickled
"""

import contextlib
import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from jobs.errors import RunExists, UnknownRun
from jobs.recipe import Recipe
from jobs.runs.creation import drafted_in, place, resolve_paths, writable
from jobs.runs.folder import RunFolder
from jobs.runs.metrics import read_metrics
from jobs.runs.progress import last_record, last_step
from jobs.runs.provenance import read_origin
from jobs.runs.state import LIVE, RunState, State
from jobs.runs.summary import ProgressWriter, read_summary
from jobs.search.space import TrialPlan, Value, plan_trials, shown_values
from vr_core.config import Line, Spec, load, plain, to_yaml, validate
from vr_core.errors import ConfigError, command
from vr_core.files import whole_file, write_json
from vr_core.small_files import expanded, read_json

ENDED: tuple[State, ...] = ("finished", "stopped")
"""A trial in one of these never trains again: it came to its last step, or ASHA stopped it."""


class TrialRow(Spec):
    """One line of `trials.json`."""

    id: Annotated[str, Field(pattern=r"^\d{4,}$")]
    values: dict[str, Value]
    state: State = "pending"
    step: int = 0
    steps: int
    score: float | None = None
    """Loss of the last validation; less is better."""
    why: Line = ""


class Search:
    """Paths and table of one search."""

    def __init__(self, path: Path) -> None:
        """The search in `path`; nothing is read or made yet."""
        self.run = RunFolder(path)
        """Its state and attempts; a step is an ended trial."""
        self.path = self.run.path
        self.id = self.run.id
        self.recipe_file = self.path / "search.yaml"
        self.trials_file = self.path / "trials.json"
        self.best_file = self.path / "best.yaml"
        self.trials = self.path / "trials"
        self.tune = self.path / "ray-tune"
        """Not `tune`, where versions before kept theirs."""

    def recipe(self) -> Recipe:
        """The resolved recipe, with its tune section."""
        return load(Recipe, self.recipe_file)

    def trial(self, trial: str) -> RunFolder:
        """Run folder of a trial."""
        run = RunFolder(self.trials / trial)
        run.root = self.run.root
        return run

    def rows(self) -> list[TrialRow]:
        """The table, brought up to date from the trials' folders.

        A damaged one is made anew: what was drawn follows from the recipe, and how far it is from the folders.

        Raises:
            DamagedRun: a trial's state is unreadable.
            ConfigError: trials.json and the recipe are.
        """
        try:
            kept = [validate(TrialRow, row, str(self.trials_file)) for row in read_json(self.trials_file)["trials"]]
        except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
            print(f"search {self.id}: its table is made anew of its trials ({error})", file=sys.stderr, flush=True)
            plans = (plan for plan in plan_trials(self.recipe()) if self.trial(plan.id).path.is_dir())
            kept = [TrialRow(id=plan.id, values=plan.values, steps=plan.recipe.steps) for plan in plans]
        return [self._refreshed(row) for row in kept]

    def row(self, trial: str) -> TrialRow:
        """One trial's line of the table, up to date."""
        return next(row for row in self.rows() if row.id == trial)

    def write_rows(self) -> list[TrialRow]:
        """Write the table up to date; returns it."""
        rows = self.rows()
        write_json(self.trials_file, {"trials": [plain(row) for row in rows]}, seal=True, root=self.run.root)
        return rows

    def write_best(self) -> TrialRow | None:
        """Write the best trial's recipe to best.yaml, whole or not at all; returns its row, None without a score."""
        row = best(self.rows())
        if row is not None:
            about = f"# Best of search {self.id}: trial {row.id}, validation loss {row.score:.6g} at step {row.step}\n"
            with whole_file(self.best_file, self.run.root) as draft:
                draft.write_text(about + to_yaml(self.trial(row.id).recipe()), encoding="utf-8")
        return row

    def _refreshed(self, row: TrialRow) -> TrialRow:
        run = self.trial(row.id)
        state = run.state()
        step = last_step(run) if state.state == "running" else state.step
        return row.model_copy(update={"state": state.state, "step": step, "why": state.why, "score": _score(run)})


def validations(run: RunFolder) -> Iterator[tuple[int, float]]:
    """Step and loss of a trial's validations so far, as far as they are numbers."""
    for record in read_metrics(run):
        loss = record.get("loss")
        if record["kind"] == "validation" and isinstance(loss, int | float) and math.isfinite(loss):
            yield record["step"], float(loss)


def _score(run: RunFolder) -> float | None:
    """Loss of a trial's last validation; None before the first, and where that one was not finite."""
    summary = read_summary(run)
    if summary is not None:
        return summary.validation.loss if summary.validation else None
    score = (last_record(run, "validation") or {}).get("loss")
    return float(score) if isinstance(score, int | float) and math.isfinite(score) else None


def best(rows: Sequence[TrialRow]) -> TrialRow | None:
    """Least score among the trials that got furthest: losses at different steps do not compare."""
    scored = [row for row in rows if row.score is not None and row.state != "failed"]
    return min(scored, key=lambda row: (-row.step, row.score, row.id), default=None)


def shown_trial(row: TrialRow) -> str:
    """Trial, values, step and score in a line: what the Ray dashboard shows."""
    score = "none yet" if row.score is None else f"{row.score:.4g}"
    return f"trial {row.id} | {shown_values(row.values)} | step {row.step}/{row.steps} | score {score} | {row.state}"


def create_search(recipe: Recipe, again: bool = False) -> Search:
    """A new search folder with all its trials' run folders, which appears whole or not at all.

    Raises:
        RunExists: the same recipe was searched before over the same data and `again` is not given.
        ConfigError, NotACheckpoint, UnknownRun: as `plan_trials` and `jobs.runs.creation.resolve_paths`.
        StorageError: `out` cannot be written.
    """
    recipe = resolve_paths(recipe)
    plans = plan_trials(recipe)
    refuse_search(recipe, again)
    with writable(recipe.out):
        return _create_search(recipe, plans)


def _create_search(recipe: Recipe, plans: Sequence[TrialPlan]) -> Search:
    with drafted_in(recipe.out) as draft:
        _write_draft(Search(draft), recipe, plans)
        return Search(place(draft, recipe))


def _write_draft(draft: Search, recipe: Recipe, plans: Sequence[TrialPlan]) -> None:
    origin, now_s = read_origin(), time.time()
    draft.trials.mkdir()
    draft.recipe_file.write_text(to_yaml(recipe), encoding="utf-8")
    write_json(draft.run.state_file, plain(RunState(state="pending", steps=len(plans), updated_s=now_s)))
    rows = [TrialRow(id=plan.id, values=plan.values, steps=plan.recipe.steps) for plan in plans]
    write_json(draft.trials_file, {"trials": [plain(row) for row in rows]}, seal=True)
    for plan in plans:
        run = draft.trial(plan.id)
        run.path.mkdir()
        run.recipe_file.write_text(to_yaml(plan.recipe), encoding="utf-8")
        write_json(run.origin_file, origin)
        write_json(run.state_file, plain(RunState(state="pending", steps=plan.recipe.steps, updated_s=now_s)))


def refuse_search(recipe: Recipe, again: bool) -> None:
    """Check that no earlier search stands against one of the resolved `recipe`.

    Raises:
        RunExists: one does.
    """
    if again:
        return
    for search in list_searches(recipe.out):
        if not search.id.startswith(f"{recipe.name}-{recipe.digest()}-"):
            continue
        earlier = search.recipe()
        if (earlier.data, earlier.init) == (recipe.data, recipe.init):
            finished = search.run.state().state == "finished"
            hint = (
                f"see `{command('trials', search.path)}`"
                if finished
                else f"go on with `{command('tune', '--resume', search.path)}`"
            )
            raise RunExists(f"{search.id} is the same search; {hint}, or add --again to start from nothing")


def list_searches(out: Path) -> list[Search]:
    """Searches in the folder `out`, by name."""
    if not out.is_dir():
        return []
    return [Search(path) for path in sorted(out.iterdir()) if (path / "search.yaml").is_file()]


def resolve_search(name_or_path: str, out: Path) -> Search:
    """The search of that folder, or of that name under `out`.

    Raises:
        UnknownRun: neither.
    """
    for path in (expanded(Path(name_or_path)), expanded(out) / name_or_path):
        if (path / "search.yaml").is_file():
            return Search(path)
    known = ", ".join(search.id for search in list_searches(expanded(out))) or "none"
    raise UnknownRun(f"{name_or_path}: no such search in {expanded(out).absolute()} (there: {known})")


def end_live_trials(search: Search) -> None:
    """Mark trials that no driver carries any more: they go on when the search does."""
    for row in search.rows():
        if row.state == "running":
            run = search.trial(row.id)
            with contextlib.suppress(OSError):
                ProgressWriter(run, row.steps).tell()  # it may have validated since its last report
            run.write_state(state="pending", step=row.step, why="the search was interrupted")


def counts(rows: Sequence[TrialRow]) -> dict[str, Any]:
    """How many trials are in each state, and how many have ended."""
    states = [row.state for row in rows]
    return {
        **{s: states.count(s) for s in dict.fromkeys(states)},
        "ended": sum(s not in LIVE for s in states),
    }
