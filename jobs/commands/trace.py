"""`vr trace`: who computed and who waited in a run's steps, as a table and a picture."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from jobs.commands.jobs.options import RUNS, Out
from jobs.commands.terminal import Json, results, show_table


def trace(
    names: Annotated[list[str], typer.Argument(metavar="RUN", help="Names or folders of runs.")],
    picture: Annotated[
        Path | None,
        typer.Option("-o", "--picture", help="Draw it into this .png, .svg or .pdf.", show_default="no picture"),
    ] = None,
    out: Out = RUNS,
    as_json: Json = False,
) -> None:
    """Show who computed and who waited in a run's steps.

    Of one run it shows steps under its newest start's first shares, and under the last; of several runs, each one's
    newest steps, below each other. Times are in seconds.

    Example: vr trace home-pretrain-1a2b3c4d-1 -o steps.png
    """
    from jobs.reports.overview import find_run
    from jobs.reports.trace import draw, timelines
    from vr_core.errors import UserError

    if picture is not None and picture.suffix not in (".png", ".svg", ".pdf"):
        raise UserError(f"{picture}: expected a file that ends in .png, .svg or .pdf")
    lines = [line for name in names for line in timelines(find_run(name, out))[-1 if len(names) > 1 else 0 :]]
    if picture is not None:
        draw(lines, picture)
    if as_json:
        print(json.dumps({"timelines": [line.plain() for line in lines]}))
        return
    from rich.table import Table

    console = results()
    for line in lines:
        table = Table("machine", "items", "computes (s)", "waits (s)", box=None, title_justify="left")
        for bar in line.bars:
            table.add_row(bar.machine, str(bar.items), f"{bar.busy_s:.3f}", f"{line.step_s - bar.busy_s:.3f}")
        console.print(
            f"{line.run}, steps {line.first_step} to {line.last_step}: {line.step_s:.3f} s a step, of which"
            f" {line.exchange_s:.3f} s"
            f" exchange; {line.items_per_s:.1f} items/s, {100 * line.reached:.0f} % of what the machines do while they"
            " compute",
            soft_wrap=True,
        )
        show_table(table)
    if picture is not None:
        print(f"picture: {picture}", file=sys.stderr)
