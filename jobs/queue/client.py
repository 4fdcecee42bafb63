"""Acts on one run from the command line: carry it here, follow it, stop it."""

import time
from collections.abc import Callable

from cluster.errors import NoHead
from cluster.node.head import Head, find_head, state_folder, timings_here
from cluster.timings import DEFAULT_TIMINGS
from jobs.errors import RunFailed
from jobs.execution.launch import launch
from jobs.queue.submit import ENDED_JOB, LIVE_JOB, job_states, stop_job
from jobs.queue.table import Ledger
from jobs.recipe import Recipe
from jobs.runs.folder import RunFolder
from jobs.runs.liveness import Listener
from jobs.runs.state import LIVE, RunState
from vr_core.errors import command
from vr_core.files import touch_below

POLL_S = 0.5


def train_here(run: RunFolder, recipe: Recipe, head: Head | None, watch: Callable[[RunState], None]) -> RunState:
    """Carry the next attempt of `run` by `recipe` in this process, within `jobs.execution.ray_session.connected`.

    Args:
        run: Its folder.
        recipe: The run's resolved recipe.
        head: Whose Ray this process is connected to; None: a private one.
        watch: Called with every written state.

    Returns:
        The final state: finished, stopped or failed.

    Raises:
        Unplaceable: the workers do not fit on this machine and there is no cluster.
    """
    attempt = run.begin_attempt()
    try:
        timings = head.timings if head is not None else DEFAULT_TIMINGS
        return launch(recipe, run, attempt, can_wait=head is not None, watch=watch, timings=timings)
    except BaseException as error:
        if run.newest_attempt() == attempt and run.state().state in LIVE:
            stopped = isinstance(error, KeyboardInterrupt)
            why = "interrupted" if stopped else f"{type(error).__name__}: {error}"
            run.write_state(state="stopped" if stopped else "failed", why=why, attempt=attempt)
        raise


def follow(run: RunFolder, watch: Callable[[RunState], None]) -> RunState:
    """Call `watch` with the state of `run`, again and again until it has ended; returns the last state.

    Raises:
        RunFailed: nobody carries the run and no keeper will.
    """
    silent_s, driver = timings_here().driver_silent_s, Listener()
    while True:
        state = run.state()
        watch(state)
        if state.state not in LIVE:
            return state
        if driver.look(run, state, silent_s) == "dead" and not _is_kept(run):
            raise RunFailed(
                f"run {run.id} is {state.state} at step {state.step} but nothing carries it any more; "
                f"go on with `{command('jobs resume', run.typed)}`"
            )
        time.sleep(POLL_S)


def stop_run(run: RunFolder, head: Head | None, now_s: Callable[[], float] = time.monotonic) -> RunState:
    """Stop `run` and wait until it has; returns its last state, which is unchanged where it had ended already.

    Raises:
        RunFailed: its driver, which is not a job of this head, does not react.
        ClusterFailure: the head does not answer.
    """
    state = run.state()
    if state.state not in LIVE:
        return state
    # The row as the wish leaves it: no job is submitted after that, and one that was submitted before is in it.
    row = Ledger(state_folder()).want_stopped(run.id)
    touch_below(run.root, run.stop_file)
    job = row.submission if row is not None and row.attempt == run.newest_attempt() else None
    if head is not None and job is not None and job_states(head).get(job) in LIVE_JOB:
        stop_job(head, job)
    timings = head.timings if head is not None else DEFAULT_TIMINGS
    end_s, driver = now_s() + timings.stopped_within_s, Listener(now_s)
    while True:
        # Before the state: a driver that listens writes that and then ends. One that has just started ends at once.
        gone = head is not None and job is not None and job_states(head).get(job, "unknown") in ENDED_JOB
        state = run.state()
        if state.state not in LIVE:
            return state
        known = driver.look(run, state, timings.driver_silent_s)
        if gone or known == "dead":
            return run.give_notice("stopped", "stopped by the user")
        if known == "alive" and now_s() > end_s:
            raise RunFailed(f"run {run.id}: attempt {state.attempt} does not react; end its process by hand")
        time.sleep(POLL_S)


def _is_kept(run: RunFolder) -> bool:
    """Whether the keeper of this machine's head will go on with the run."""
    row = Ledger(state_folder()).row(run.id)
    if row is None or not row.open or row.wanted == "stopped":
        return False
    try:
        find_head()
    except NoHead:
        return False
    return True
