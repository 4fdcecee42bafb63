"""The driver of a search: Ray Tune with ASHA around `jobs.search.trial.Trial`, and what it writes into its folder.

Points are drawn and validated before Ray is asked (`jobs.search.search.plan_trials`), so Tune gets a finished list of
run folders. It decides who runs when and who is stopped; what a trial is, and how far it has come, is in its folder.

Ray is imported late: it reads the token's settings when it is imported, and `jobs.execution.ray_session` sets them.
"""

import contextlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.errors import NoHead
from cluster.node.head import Head, find_head, timings_here
from jobs.errors import RunExists, RunFailed, Unplaceable
from jobs.execution.placement import Missing, live_nodes, place
from jobs.execution.ray_session import head_ray, private_ray
from jobs.recipe import Recipe
from jobs.runs.folder import read_json
from jobs.runs.liveness import Listener, beating, write_driver
from jobs.runs.summary import ProgressWriter
from jobs.search.search import ENDED, Search, TrialRow, counts, end_live_trials, shown_trial, shown_values
from vr_core.errors import UserError

CARD_EVERY_S = 10.0
"""A restart of a card costs about a second of one core."""
CARDS_END_S = 60.0

_TUNE_ENVIRONMENT = {
    # The folders of the trials hold the metrics already.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "5",
    "RAY_AIR_NEW_OUTPUT": "0",
}

Watch = Callable[[list[TrialRow]], None]


def run_search(search: Search, watch: Watch = lambda rows: None) -> list[TrialRow]:
    """Carry the search to its end in this process: on the running head's cluster, else on a private Ray.

    An unfinished search goes on: ended trials stay, the others continue from their last checkpoints.

    Returns:
        The table; best.yaml is written.

    Raises:
        RunExists: the search is finished, or somebody carries it.
        Unplaceable: no machine can hold a trial.
        RunFailed: every trial failed.
        KeyboardInterrupt: Ctrl-C; the search can be resumed.
    """
    recipe = search.recipe()
    _begin(search)
    try:
        head: Head | None = find_head()
    except NoHead:
        head = None
    os.environ.update(_TUNE_ENVIRONMENT)
    # They warn that Tune's own metrics files, which are off, are missing, and tell how to resume in Python.
    for name in ("ray.tune.analysis.experiment_analysis", "ray.tune.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
    follower = Follower(search, watch, with_cards=head is not None)
    try:
        with (
            beating(search.run, timings_here().beat_s),
            head_ray(head) if head is not None else private_ray(),
        ):
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
        raise RunExists(f"{search.id} is finished; see `vr trials {search.path}`, or search again with --again")
    if Listener().until_known(search.run, timings_here().driver_silent_s) == "alive":
        raise RunExists(f"{search.id} is going on; watch it with `vr trials {search.path} --watch`")
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


def _fit(search: Search, recipe: Recipe, follower: "Follower") -> None:
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    from jobs.search.trial import SCORE, STEP, Trial

    spec = recipe.tune
    if spec is None:
        raise UserError(f"{search.recipe_file}: no tune section; search anew")
    _following[str(search.path)] = follower
    try:
        if tune.Tuner.can_restore(str(search.tune)):
            tuner = tune.Tuner.restore(str(search.tune), trainable=Trial, resume_errored=True)
        else:
            tuner = tune.Tuner(
                Trial,
                param_space=_param_space(search, recipe),
                tune_config=tune.TuneConfig(
                    metric=SCORE,
                    mode="min",
                    scheduler=ASHAScheduler(
                        time_attr=STEP,
                        max_t=recipe.steps,
                        grace_period=spec.grace_steps,
                        reduction_factor=spec.reduction,
                    ),
                    max_concurrent_trials=spec.concurrent,
                    trial_name_creator=trial_id,
                    trial_dirname_creator=trial_id,
                ),
                run_config=tune.RunConfig(
                    name=search.tune.name,
                    storage_path=str(search.path),
                    callbacks=[_callback(search)],
                    verbose=0,
                ),
            )
        tuner.fit()
    finally:
        del _following[str(search.path)]


def _param_space(search: Search, recipe: Recipe) -> dict[str, Any]:
    import ray
    from ray import tune

    found = place(recipe.workers, live_nodes(ray.nodes()))  # type: ignore[no-untyped-call]
    if isinstance(found, Missing):
        raise Unplaceable(f"search {search.id}: {found.why}; change workers.cpus, workers.device or workers.labels")
    return {
        "folder": tune.grid_search([str(search.trials / row.id) for row in search.rows()]),
        "use_gpu": found.use_gpu,
        "resources": found.resources,
        "selector": found.selectors[0],
    }


def trial_id(trial: Any) -> str:
    """Ours, of a trial of Tune's."""
    return Path(trial.config["folder"]).name


class Follower:
    """Writes what Tune decides into the trials' folders, and keeps their cards on the dashboard up to date."""

    def __init__(self, search: Search, watch: Watch, with_cards: bool) -> None:
        """Follow `search`; cards make sense only where there is a dashboard."""
        self._search, self._watch, self._with_cards = search, watch, with_cards
        self._cards: dict[str, Any] = {}
        self._writers: dict[str, ProgressWriter] = {}
        self._refreshed_s: dict[str, float] = {}
        self._leaving: dict[str, Any] = {}
        """Cards of ended trials, by the answer that says that they show the end."""
        self._ended_before = [row.id for row in search.rows() if row.state in ENDED] if with_cards else []
        """Trials whose end a killed driver may not have shown: one after the other gets its card once more."""

    def began(self, trial: str) -> None:
        """A trial's actor is being made.

        Tune's own state may be some seconds older than a kill: it then starts trials again that had ended, and those
        only report once more (`jobs.search.trial.train_trial`).
        """
        run = self._search.trial(trial)
        if run.state().state not in ENDED:
            run.write_state(state="running", why="", step=run.last_step())
        self._tell(trial)
        if self._with_cards and trial not in self._cards:
            self._cards[trial] = self._card(trial)
        self._changed()

    def reported(self, trial: str, step: int) -> None:
        """A validation."""
        self._search.trial(trial).write_state(step=step)
        self._tell(trial)
        if time.monotonic() - self._refreshed_s.get(trial, 0.0) > CARD_EVERY_S:
            self._refresh(trial)
        self._changed()

    def ended(self, trial: str, step: int) -> None:
        """A trial came to its last step, or ASHA stopped it before."""
        run = self._search.trial(trial)
        if step >= run.state().steps:
            run.write_state(state="finished", step=step, why="")
        else:
            run.write_state(state="stopped", step=step, why=f"ASHA: behind the other trials at step {step}")
        self._leave(trial)

    def failed(self, trial: str) -> None:
        """A trial raised, or its process died."""
        run = self._search.trial(trial)
        why = "its process died: its machine, its network or its memory"
        with contextlib.suppress(OSError, ValueError, KeyError):
            why = read_json(run.path / "error.json")["message"]
        run.write_state(state="failed", step=run.last_step(), why=why)
        self._leave(trial)

    def _tell(self, trial: str) -> None:
        """Bring the trial's `summary.json` and `metrics.jsonl` up to date."""
        if trial not in self._writers:
            run = self._search.trial(trial)
            self._writers[trial] = ProgressWriter(run, run.state().steps)
        with contextlib.suppress(OSError):  # told again with the next report
            self._writers[trial].tell()

    def close(self) -> None:
        """Wait until every card shows its trial's end; Ray goes on showing that when the card has gone."""
        give_up_s = time.monotonic() + CARDS_END_S
        while (self._leaving or self._ended_before) and time.monotonic() < give_up_s:
            self._settle_all(timeout_s=1.0)

    def _changed(self) -> None:
        self._watch(self._search.write_rows())
        self._settle_all(timeout_s=0.0)

    def _settle_all(self, timeout_s: float) -> None:
        for trial in list(self._leaving):
            self._settle(trial, timeout_s)
        if self._ended_before and not self._leaving:
            trial = self._ended_before.pop(0)
            if trial not in self._cards:
                self._cards[trial] = self._card(trial)
                self._leaving[trial] = self._cards[trial].ready.remote()

    def _leave(self, trial: str) -> None:
        self._tell(trial)
        if trial in self._cards:
            self._refresh(trial)
            self._leaving[trial] = self._cards[trial].ready.remote()
        self._changed()

    def _settle(self, trial: str, timeout_s: float) -> None:
        """End the card of an ended trial if it has been made anew since."""
        import ray

        answer = self._leaving[trial]
        if not ray.wait([answer], timeout=timeout_s)[0]:
            return
        shown = ""
        with contextlib.suppress(ray.exceptions.RayError):  # it was restarting
            shown = ray.get(answer)
        if shown == shown_trial(self._search.row(trial)):
            ray.kill(self._cards.pop(trial))
            del self._leaving[trial]
            return
        if shown:
            self._refresh(trial)  # Ray had been restarting it already, and it read the folder too early
        self._leaving[trial] = self._cards[trial].ready.remote()

    def _card(self, trial: str) -> Any:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from jobs.search.trial import TrialCard

        row = self._search.row(trial)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        self._refreshed_s[trial] = time.monotonic()
        return (
            ray.remote(TrialCard)
            .options(
                name=f"{self._search.id}/{trial} {shown_values(row.values)}",
                num_cpus=0,
                max_restarts=-1,
                scheduling_strategy=here,
            )
            .remote(self._search.path, trial)
        )

    def _refresh(self, trial: str) -> None:
        import ray

        if trial in self._cards:
            self._refreshed_s[trial] = time.monotonic()
            ray.kill(self._cards[trial], no_restart=False)


_following: dict[str, Follower] = {}
"""By search folder. Tune keeps its callbacks in its own files and brings them back on restore: they only look here."""


def _callback(search: Search) -> Any:
    from jobs.search.tune_callback import Forward

    return Forward(str(search.path))


def following(path: str) -> Follower:
    """The follower of the search in `path`, which this process carries."""
    return _following[path]
