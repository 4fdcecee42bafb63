"""Runs as commands carry or watch them to their end, and the head beside which they do."""

import json
import sys
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cluster.node.head import Head
    from jobs.recipe import Recipe
    from jobs.runs.folder import RunFolder

STOPPED_HERE = 130
"""Exit code of a shell command that Ctrl-C ended."""


def head_or_note() -> "tuple[Head | None, str]":
    """The running head, or a line that says why there is none."""
    from cluster.errors import NoHead
    from cluster.node.head import find_head

    try:
        return find_head(), ""
    except NoHead as error:
        return None, f"({error}; states are those of the run folders)"


def train_run(
    run_of: "Callable[[], RunFolder]", recipe: "Recipe", as_json: bool, told: "Mapping[str, object] | None" = None
) -> None:
    """Carry the next attempt of a run by `recipe` in this process, to the end.

    Args:
        run_of: Makes the run, or names it; called when Ray is up and has room for its workers.
        recipe: The run's resolved recipe.
        as_json: Print the final state as JSON.
        told: More that the JSON says.

    Raises:
        ClusterError, ClusterFailure, Unplaceable: the run cannot begin, and `run_of` was not called.
        UserError, RunFailed: it failed.
        typer.Exit: it was stopped; the exit code is that of Ctrl-C.
    """
    from jobs.execution.launch import raise_for
    from jobs.execution.membership import require_room
    from jobs.execution.ray_session import connected
    from jobs.queue.client import train_here
    from jobs.reports.display import display

    with connected() as head:
        if head is None:  # no machine will join
            require_room(recipe)
        run = run_of()
        with display(run) as shown:
            state = train_here(run, recipe, head, shown.show)
    raise_for(run, state)
    if as_json:
        from vr_core.config import plain

        print(json.dumps({"run": run.id, "folder": str(run.path), **plain(state), **(told or {})}))
    else:
        print(f"{run.id} is {state.state} at step {state.step} of {state.steps}: {run.path}", file=sys.stderr)
    if state.state == "stopped":
        raise typer.Exit(STOPPED_HERE)


def watch_run(run: "RunFolder") -> None:
    """Show `run` until it ends.

    Raises:
        UserError, RunFailed: it failed.
        typer.Exit: it was stopped: it has not done what it was to do.
    """
    from jobs.execution.launch import raise_for
    from jobs.queue.client import follow
    from jobs.reports.display import display

    with display(run) as shown:
        state = follow(run, shown.show)
    raise_for(run, state)
    print(f"{run.id} is {state.state} at step {state.step} of {state.steps}: {run.path}", file=sys.stderr)
    if state.state == "stopped":
        raise typer.Exit(1)
