"""`vr jobs logs`: what a run's job has printed."""

from typing import Annotated

import typer

from jobs.commands.jobs.options import RUNS, Out, RunName


def logs(
    name: RunName,
    out: Out = RUNS,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job ends; without it, print what is there now.")
    ] = False,
) -> None:
    """Print what a submitted run's newest job has printed.

    Example: vr jobs logs songs-pretrain-1a2b3c4d-1 --follow
    """
    import asyncio

    from cluster.node.head import find_head, state_folder
    from jobs.errors import UnknownRun
    from jobs.queue.submit import follow_logs, job_logs
    from jobs.queue.table import Ledger
    from jobs.reports.overview import find_run

    run = find_run(name, out)
    row = Ledger(state_folder()).row(run.id)
    if row is None:
        raise UnknownRun(f"{run.id}: not submitted from here; what it failed with is in {run.attempts}")
    head = find_head()
    if not follow:
        print(job_logs(head, row.submission), end="")
        return

    async def print_pieces() -> None:
        async for piece in follow_logs(head, row.submission):
            print(piece, end="", flush=True)

    asyncio.run(print_pieces())
