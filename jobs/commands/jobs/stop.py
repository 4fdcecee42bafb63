"""`vr jobs stop`: a run is asked to end with a checkpoint."""

import sys

from jobs.commands.jobs.carried import head_or_note
from jobs.commands.jobs.options import RUNS, Out, RunName
from jobs.commands.terminal import console


def stop(name: RunName, out: Out = RUNS) -> None:
    """Stop a run after it has written a checkpoint.

    `vr jobs resume` goes on from there.

    Example: vr jobs stop songs-pretrain-1a2b3c4d-1
    """
    from jobs.queue.client import stop_run
    from jobs.reports.overview import find_run

    run = find_run(name, out)
    head, _ = head_or_note()
    with console().status(f"stopping {run.id} (it writes a checkpoint first)"):
        state = stop_run(run, head)
    print(f"{run.id} is {state.state} at step {state.step} of {state.steps}", file=sys.stderr)
