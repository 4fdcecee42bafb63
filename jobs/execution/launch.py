"""Carrying one attempt of a run in this process: the driver of a Ray job, or `vr train` itself.

`vr submit` runs it on the head as the driver of a Ray job (`python -m jobs.execution.launch RUN ATTEMPT`), `vr train`
in its own process. What it does until the run has ended is `jobs.execution.supervisor`.
"""

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from cluster.errors import ClusterFailure
from cluster.node.head import timings_here
from cluster.timings import Timings
from cluster.trust.ray_requests import guard
from jobs.errors import RunFailed, Superseded
from jobs.execution.ray_session import connect
from jobs.execution.reservations import release_abandoned
from jobs.execution.supervisor import Supervisor
from jobs.recipe import Recipe
from jobs.runs.folder import RunFolder
from jobs.runs.liveness import write_driver
from jobs.runs.state import LIVE, RunState
from vr_core.config import load
from vr_core.errors import UserError, VrError


def launch(
    recipe: Recipe,
    run: RunFolder,
    attempt: int,
    *,
    loop: str | None = None,
    can_wait: bool = True,
    is_job: bool = False,
    watch: Callable[[RunState], None] = lambda state: None,
    timings: Timings,
) -> RunState:
    """Carry attempt `attempt` of `run` to its end in this process, which is connected to Ray already.

    Args:
        recipe: The run's resolved recipe.
        run: Its folder.
        attempt: A number from `run.begin_attempt()`.
        loop: `module:function` to train with; `jobs.training.loop:train` by default.
        can_wait: Wait for machines that are missing now.
        is_job: This process is a job of Ray's: whoever ends it without saying that the run is to stop ends Ray.
        watch: Called with every written state, at least every `beat_s`.
        timings: Of the head.

    Returns:
        The final state: finished, stopped or failed.

    Raises:
        Superseded: a newer attempt owns the run.
        Unplaceable: the workers do not fit and nothing can join.
    """
    from jobs.execution.messages import DEFAULT_LOOP

    write_driver(run, attempt)
    supervisor = Supervisor(run, recipe, attempt, loop or DEFAULT_LOOP, can_wait, watch, timings)
    with stop_on_signals(supervisor.request_stop, run if is_job else None):
        try:
            return supervisor.supervise()
        except Superseded:
            raise
        except VrError as error:
            why, user_error = str(error), isinstance(error, UserError)
            run.write_state(state="failed", why=why, user_error=user_error, attempt=attempt)
            raise


def raise_for(run: RunFolder, state: RunState) -> None:
    """Raise the failure of an ended run as the error that the command line prints.

    Raises:
        UserError: the run failed by something that the user can change.
        RunFailed: it failed otherwise.
    """
    if state.state == "failed":
        text = f"run {run.id} failed at step {state.step} of {state.steps}: {state.why}"
        raise UserError(text) if state.user_error else RunFailed(f"{text}; details in {run.attempts}")


@contextlib.contextmanager
def stop_on_signals(stop: Callable[[], None], job: RunFolder | None = None) -> Iterator[None]:
    """SIGTERM and Ctrl-C ask the run to stop; a second Ctrl-C ends this process at once.

    So does SIGTERM the job that carries the run `job` where nobody has said that it is to stop: the head is ended, and
    the run, which is left as one whose driver has died, goes on when there is a head again.
    """

    def on_signal(number: int, _frame: object) -> None:
        if number == signal.SIGTERM and job is not None and not job.stop_file.exists():
            os._exit(128 + number)
        stop()
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(argv: list[str] | None = None) -> int:
    """The entry point of a submitted job: the driver on the head."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.execution.launch", description="Driver of one attempt of a run."
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("attempt", type=int)
    parser.add_argument("--recipe", type=Path, required=True, help="The head's own copy.")
    arguments = parser.parse_args(argv)
    run = RunFolder(arguments.run)
    import ray

    try:
        recipe = load(Recipe, arguments.recipe)
        guard()
        try:
            connect()
        except ClusterFailure as error:  # no failure of the run: the keeper submits it again
            print(error, file=sys.stderr)
            return error.exit_code
        release_abandoned()
        state = launch(recipe, run, arguments.attempt, is_job=True, timings=timings_here())
        raise_for(run, state)
    except Superseded as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except VrError as error:
        if run.newest_attempt() == arguments.attempt and run.state().state in LIVE:
            why, user_error = str(error), isinstance(error, UserError)
            run.write_state(state="failed", why=why, user_error=user_error, attempt=arguments.attempt)
        print(error, file=sys.stderr)
        return error.exit_code
    finally:
        ray.shutdown()
    print(f"run {run.id}: {state.state} at step {state.step} of {state.steps}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
