"""The driver of a search: Ray Tune with ASHA around `jobs.search.trial.Trial`, and what it writes into its folder.

Points are drawn and validated before Ray is asked (`jobs.search.space.plan_trials`), so Tune gets a finished list of
run folders. It decides who runs when and who is stopped; what a trial is, and how far it has come, is in its folder.

Ray is imported late: it reads the token's settings when it is imported, and `jobs.execution.ray_session` sets them.
"""

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cluster.node.head import Head, timings_here
from jobs.errors import DamagedRun, RunExists, RunFailed, Unplaceable
from jobs.execution.placement import Missing, live_nodes, place
from jobs.recipe import Recipe
from jobs.runs.liveness import Listener, beating, write_driver
from jobs.search.folder import ENDED, Search, TrialRow, counts, end_live_trials, validations
from jobs.search.follower import Follower, Watch, followed_by, trial_id
from jobs.search.space import plan_trials
from vr_core.config import plain
from vr_core.errors import UserError, command
from vr_core.files import require_no_links

_TUNE_ENVIRONMENT = {
    # The folders of the trials hold the metrics already.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "5",
    "RAY_AIR_NEW_OUTPUT": "0",
}


def run_search(search: Search, recipe: Recipe, head: Head | None, watch: Watch = lambda rows: None) -> list[TrialRow]:
    """Carry the search of `recipe` to its end in this process, within `jobs.execution.ray_session.connected`.

    `head`: whose Ray this process is connected to; None: a private one.

    An unfinished search goes on: ended trials stay, the others continue from their last checkpoints. Tune's own state
    is not read: it is pickled, and whoever may write to the share could put code there. What ASHA knew is in the
    trials' metrics.

    Returns:
        The table; best.yaml is written.

    Raises:
        RunExists: the search is finished, or somebody carries it.
        Unplaceable: no machine can hold a trial.
        RunFailed: every trial failed.
        KeyboardInterrupt: Ctrl-C; the search can be resumed.
    """
    _begin(search)
    os.environ.update(_TUNE_ENVIRONMENT)
    # They warn that Tune's own metrics files, which are off, are missing, and tell how to resume in Python.
    for name in ("ray.tune.analysis.experiment_analysis", "ray.tune.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
    follower = Follower(search, watch, with_cards=head is not None)
    try:
        with beating(search.run, timings_here().beat_s):
            _fit(search, recipe, follower)
            follower.close()
    except BaseException as error:
        end_live_trials(search)
        search.write_rows()
        interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
        why = "interrupted" if interrupted else f"{type(error).__name__}: {error}"
        search.run.write_state(state="stopped" if interrupted else "failed", why=why)
        raise
    return _conclude(search)


def _begin(search: Search) -> None:
    state = search.run.state()
    if state.state == "finished":
        raise RunExists(
            f"{search.id} is finished; see `{command('trials', search.path)}`, or search again with --again"
        )
    if Listener().until_known(search.run, timings_here().driver_silent_s) == "alive":
        raise RunExists(f"{search.id} is going on; watch it with `{command('trials', search.path, '--watch')}`")
    attempt = search.run.begin_attempt()
    write_driver(search.run, attempt)
    search.run.write_state(state="running", why="", attempt=attempt)


def _conclude(search: Search) -> list[TrialRow]:
    end_live_trials(search)
    rows = search.write_rows()
    ended = counts(rows)["ended"]
    if any(row.state == "pending" for row in rows):
        # Tune takes a first Ctrl-C for itself and returns.
        search.run.write_state(state="stopped", why="interrupted", step=ended)
        raise KeyboardInterrupt
    if search.write_best() is None:
        why = next((f"trial {row.id}: {row.why}" for row in rows if row.why), "no trial reported a score")
        search.run.write_state(state="failed", why=why, step=ended)
        raise RunFailed(f"search {search.id}: every trial failed; {why}")
    search.run.write_state(state="finished", why="", step=ended)
    return rows


def _fit(search: Search, recipe: Recipe, follower: Follower) -> None:
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    from jobs.search.trial import SCORE, STEP, Trial

    spec = recipe.tune
    if spec is None:
        raise UserError(f"{search.recipe_file}: no tune section; search anew")
    scheduler = ASHAScheduler(
        time_attr=STEP, metric=SCORE, mode="min", max_t=recipe.steps, grace_period=spec.grace_steps,
        reduction_factor=spec.reduction,
    )  # fmt: skip
    rows = search.rows()
    for row in rows:
        if row.state in ENDED:
            _remember(scheduler, row.id, [*validations(search.trial(row.id))])
    waiting = [row.id for row in rows if row.state not in ENDED]
    if not waiting:
        return
    require_no_links(search.run.root, search.tune, search.trials)
    with followed_by(search, follower):
        tune.Tuner(
            Trial,
            param_space=_param_space(search, recipe, waiting),
            tune_config=tune.TuneConfig(
                scheduler=scheduler,
                max_concurrent_trials=spec.concurrent,
                trial_name_creator=trial_id,
                trial_dirname_creator=trial_id,
            ),
            run_config=tune.RunConfig(
                name=f"{search.tune.name}/{search.run.newest_attempt()}",
                storage_path=str(search.path),
                callbacks=[_callback(search)],
                verbose=0,
            ),
        ).fit()


@dataclass(frozen=True)
class _Known:
    """What ASHA asks of a trial."""

    trial_id: str


def _remember(scheduler: Any, trial: str, reports: Sequence[tuple[int, float]]) -> None:
    """Let `scheduler` know what a trial of before has reported, so that it decides as if it had seen it."""
    from jobs.search.trial import SCORE, STEP

    known = _Known(trial)
    scheduler.on_trial_add(None, known)
    for step, score in reports:
        scheduler.on_trial_result(None, known, {STEP: step, SCORE: score})


def configurations(search: Search, recipe: Recipe, trials: Sequence[str]) -> list[dict[str, str]]:
    """Folder of each trial, and as JSON what it computes: the folder lies on storage that others may write to.

    Raises:
        DamagedRun: one of the trials is none of the recipe's.
    """
    recipes = {plan.id: plan.recipe for plan in plan_trials(recipe)}
    if strangers := [trial for trial in trials if trial not in recipes]:
        raise DamagedRun(
            f"{search.trials_file}: damaged (trial {strangers[0]} is not in the search's recipe); delete it, and "
            f"`{command('tune', '--resume', search.path)}` makes it anew of the trials"
        )
    return [{"folder": str(search.trials / trial), "recipe": json.dumps(plain(recipes[trial]))} for trial in trials]


def _param_space(search: Search, recipe: Recipe, trials: Sequence[str]) -> dict[str, Any]:
    import ray
    from ray import tune

    found = place(recipe.workers, live_nodes(ray.nodes()))  # type: ignore[no-untyped-call]
    if isinstance(found, Missing):
        raise Unplaceable(f"search {search.id}: {found.why}; change workers.cpus, workers.device or workers.labels")
    return {
        "trial": tune.grid_search(configurations(search, recipe, trials)),
        "use_gpu": found.use_gpu,
        "resources": found.resources,
        "selector": found.selectors[0],
    }


def _callback(search: Search) -> Any:
    from jobs.search.tune_callback import Forward

    return Forward(str(search.path))
