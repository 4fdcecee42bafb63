"""`vr jobs watch`: a run's progress until it ends."""

from jobs.commands.jobs.carried import watch_run
from jobs.commands.jobs.options import RUNS, Out, RunName


def watch(name: RunName, out: Out = RUNS) -> None:
    """Show a run's progress until it ends.

    Ctrl-C leaves it going.

    Example: vr jobs watch songs-pretrain-1a2b3c4d-1
    """
    from jobs.reports.overview import find_run

    watch_run(find_run(name, out))
