"""`vr jobs resume`: a run goes on from its last checkpoint."""

import sys
from functools import partial
from typing import Annotated

import typer

from jobs.commands.jobs.carried import train_run, watch_run
from jobs.commands.jobs.options import RUNS, Out, RunName


def resume(
    name: RunName,
    out: Out = RUNS,
    here: Annotated[
        bool, typer.Option("--here", help="Train in this process, as `vr train` does; without it, as a job.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show the run until it ends; Ctrl-C leaves it going.")] = False,
) -> None:
    """Go on with a run from its last checkpoint.

    Example: vr jobs resume songs-pretrain-1a2b3c4d-1 --watch
    """
    from cluster.node.head import find_head, timings_here
    from jobs.queue.kept import recipe_of
    from jobs.queue.submit import keep_source, start
    from jobs.reports.overview import find_run
    from jobs.runs.liveness import require_resumable
    from jobs.training.resume import require_data_kept

    run = find_run(name, out)
    run.mend_state()
    recipe = recipe_of(run, run.recipe, partial(print, file=sys.stderr))
    require_data_kept(run, recipe)
    if here:
        require_resumable(run, timings_here().driver_silent_s)
        keep_source(run, recipe)  # the keeper may go on with it, and reads what this version writes
        return train_run(lambda: run, recipe, as_json=False)
    submission = start(find_head(), run, recipe)
    print(f"{run.id} goes on from step {run.last_step()} as {submission}", file=sys.stderr)
    if watch:
        watch_run(run)
    return None
