"""`vr jobs list`: the runs of a folder."""

import json
import sys
from typing import Annotated

import typer

from jobs.commands.jobs.carried import head_or_note
from jobs.commands.jobs.options import RUNS, Out
from jobs.commands.terminal import Json, show_table


def list_(
    out: Out = RUNS,
    newest: Annotated[int, typer.Option("--newest", min=1, help="Number of runs to list.")] = 30,
    all_: Annotated[bool, typer.Option("--all", help="List every run, not only the newest.")] = False,
    as_json: Json = False,
) -> None:
    """List the newest runs.

    It works without a head too: states are then those that the run folders hold.

    Example: vr jobs list --out runs --newest 5
    """
    from jobs.reports.overview import overview

    head, note = head_or_note()
    found = overview(out, head, None if all_ else newest)
    rows = found.rows
    if found.has_older:
        print(f"(the newest {len(rows)}; --all lists every run)", file=sys.stderr)
    if as_json:
        return print(json.dumps([row.plain() for row in rows]))
    from rich.table import Table

    if note:
        print(note, file=sys.stderr)
    if not rows:
        return print(f"no runs in {out.absolute()}", file=sys.stderr)
    table = Table("run", "state", "step", "loss", "attempt", "why", box=None)
    for row in rows:
        table.add_row(row.run, row.shown_state, f"{row.step}/{row.steps}", row.shown_loss, str(row.attempt), row.why)
    show_table(table)
    return None
