"""The one training loop: every recipe, one rank or many, from the first step or from a checkpoint.

Read `train` top to bottom. A step covers exactly `batch.items` items of the endless order, whoever computes them; the
position is one integer, `step × batch.items`; and nothing in a step depends on the clock or on a global generator.
That is why a killed and resumed run ends where an undisturbed one ends.
"""

import contextlib
import math
from collections.abc import Callable
from pathlib import Path

from dataprep.batches.loader import Loader
from dataprep.shards.dataset import Dataset
from jobs.recipe import Recipe, RecipeCacheSpec
from jobs.runs.folder import RunFolder
from jobs.runs.note import note
from jobs.runs.starts import Start
from jobs.steps.decision import Ended, decide
from jobs.steps.gradient import ItemLosses, everywhere_bf16
from jobs.steps.phases import phase_at, phases_of
from jobs.steps.state import TrainingFile, TrainState
from jobs.steps.step_plan import StepPlan
from jobs.steps.step_report import RankReport
from jobs.steps.world import World
from jobs.sync.choice import SyncChoice
from jobs.training.base import with_own_base
from jobs.training.checkpointer import Checkpointer
from jobs.training.data import require_data, staging_ahead, who_has_what
from jobs.training.evaluation import BEST_OF, Evaluations
from jobs.training.recorder import Recorder
from jobs.training.resume import begin, newest_checkpoint
from jobs.training.speed.calibration import Calibration
from jobs.training.speed.memory import keep_freed_memory
from jobs.training.storage import open_data
from jobs.training.wishes import Wishes

Report = Callable[[dict[str, float]], None] | None
Open = Callable[[Path, RecipeCacheSpec | None, str | None], Dataset]


def train(
    recipe: Recipe, path: Path, world: World, report: Report = None, start: Start | None = None, opens: Open = open_data
) -> Ended:
    """Train `recipe` from the newest good checkpoint in the run's folder to its last step; how it ended, on every rank.

    Args:
        recipe: resolved, with absolute paths.
        path: the run's folder, which every rank sees; rank 0 writes checkpoints and metrics into it.
        world: of this rank; nothing else communicates.
        report: called with finite numbers at the same steps on every rank: evaluations and the end.
        start: of the workers, as the run's driver counts them; by default the next one.
        opens: the data set in a folder, as `jobs.training.storage.open_data`.

    Raises:
        RunFailed: more non-finite steps in a row than the recipe allows, or a step that was not shared out once.
        ConfigError, ManifestError, WeightsError, NotACheckpoint: recipe, data set and start do not fit together.
        StorageError, NewerStart: a disk or the share failed; a newer start of the run's workers has begun.
    """
    keep_freed_memory(world.device)
    run, phases = RunFolder(path), phases_of(recipe)
    start = begin(run, start, world)  # before anything is read that it will change
    checkpoint = newest_checkpoint(run, recipe, world)  # the same step on every rank
    saved = TrainingFile.of(checkpoint, recipe.batch.items) if checkpoint else None
    data = opens(require_data(recipe), recipe.cache, saved.data if saved else None)  # the version the run began with
    tell = note if world.rank == 0 else lambda line: None
    recipe = with_own_base(recipe, run, data, saved, world, tell)
    local = who_has_what(data, recipe, world)
    state = TrainState.begin(recipe, data, world.device, saved, tell)
    losses_of = ItemLosses(recipe, world.device, bf16=everywhere_bf16(world))
    calibration = Calibration(phases, state, losses_of, data, world)
    choice = SyncChoice(recipe, state, calibration.of_last_phase, world, saved.exchange if saved else None)
    if choice.exclusion:
        return Ended("excluded", exclusion=choice.exclusion)
    sync = choice.sync(recipe, state, losses_of, world, saved)
    plan = StepPlan(recipe, data.manifest, calibration.speeds, local, world.rank, state.step, sync.rounds)
    evaluations = Evaluations.of(recipe, run, data, losses_of, world)
    wishes, figures = Wishes(run, world.rank), {"step": float(state.step)}
    ended = Ended("finished", figures) if state.step == recipe.steps else None
    with (
        Recorder(run, recipe, start, state.step, world.rank) as record,
        Checkpointer(run, recipe, start, data, sync, choice.kept, world) as checkpoints,
        calibration.trying(state),
        staging_ahead(data, recipe.cache, note),
        contextlib.closing(Loader(data, plan.batches(state.step), world.device)) as batches,
    ):
        record.begin(choice, state.step)
        sync.enter(state)
        while not ended:
            if state.enter(phase_at(phases, state.step)):
                calibration.phase_begins(state)
                sync.enter(state)

            # 1. gradients of this rank's items; the last micro-batch overlaps the exchange
            record.step_begins(batches.waited_s)
            mine = RankReport(state.step, world, recipe.batch.items)
            for piece in (pieces := plan.pieces(state.step)):
                batch = next(batches)
                mine.add(sync.backward(batch, plan, state.step, last=piece == pieces[-1]), batch.items)
            mine.wish(**wishes.look(), **checkpoints.wishes())
            reports = sync.exchange(mine)
            sync.clock.begin()

            # 2. update, or skip and count
            norm = state.gradient_norm()
            if taken := math.isfinite(sync.loss) and math.isfinite(norm.item()):
                state.update(norm, plan.rate(state.step))
            else:
                note(where := plan.nonfinite(state.step, math.isfinite(sync.loss)))
                state.skip(plan.rate(state.step), where)
            sync.after_update(state, plan, taken=taken)
            record.step_ends(state, norm.item(), batches.waited_s, plan.shares(state.step - 1))
            calibration.first_step_taken(state)
            if not reports:
                continue

            # 3. what all ranks now know: each item once, shares, records
            decided = [record.step(reported, plan, plan.observe(reported)) for reported in reports]
            judged = any(decided) and state.phase == phases[-1]  # whom an earlier phase does not need a later one may
            exclusion = choice.excluded(plan.speeds(state.step - 1)) if judged else None

            # 4. now and then: evaluations, checkpoint, leaving
            found = evaluations.run_due(state, sync, plan, record)
            figures |= {"step": float(state.step), "loss": reports[-1].loss, **found}
            decision = decide(
                reports, recipe.steps, recipe.checkpoint.every_steps, excluded=exclusion is not None,
                improved=evaluations.improved, skipped=state.skipped_in_a_row > 0, local_steps=sync.name == "diloco",
            )  # fmt: skip
            if decision.save:
                record.flush()
                checkpoints.save(decision.save, state, finite(found).get(BEST_OF), best=evaluations.improved)
            if decision.end:
                checkpoints.end(decision.end)
                ended = Ended(decision.end, figures, exclusion if decision.end == "excluded" else None)
            record.written(checkpoints)
            if report and (found or decision.end == "finished"):
                report(finite(figures))
            if any(decided) or decision.end:
                calibration.keep(plan, state.step - 1)
    return ended


def finite(figures: dict[str, float]) -> dict[str, float]:
    """Those that are numbers."""
    return {name: value for name, value in figures.items() if math.isfinite(value)}
