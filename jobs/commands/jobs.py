"""`vr submit`, `vr train` and `vr jobs`: start runs, look at them, stop them, go on with them."""

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from cluster.node.head import Head
    from jobs.recipe import Recipe
    from jobs.runs import RunFolder

app = typer.Typer(help="List, show, watch, stop and resume runs.", no_args_is_help=True)

RecipeName = Annotated[str, typer.Argument(help="A recipe file, or the name of one that comes with vr.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Replace keys of the recipe.")]
Again = Annotated[bool, typer.Option("--again", help="Repeat a recipe that was run before.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved recipe and do nothing.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON value on stdout.")]
Out = Annotated[Path, typer.Option("--out", help="Folder of run folders.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run's name or folder.")]
RUNS = Path("runs")
STOPPED_HERE = 130
"""Exit code of a shell command that Ctrl-C ended."""


def submit(
    recipe: RecipeName,
    overrides: Overrides = None,
    again: Again = False,
    dry_run: DryRun = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show the run until it ends; Ctrl-C leaves it going.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Submit a run to the cluster whose head runs on this machine.

    Example: vr submit songs-pretrain data=DATA workers.count=2 --watch
    """
    from cluster.node.head import find_head
    from jobs.runs import create_run
    from jobs.submit import start, submitted_runs

    spec = _recipe(recipe, overrides)
    if dry_run:
        return _print_recipe(spec)
    head = find_head()
    run = create_run(spec, again, confirm=None if yes else _confirm, reserved=submitted_runs())
    submission = start(head, run)
    if as_json:
        print(json.dumps({"run": run.id, "folder": str(run.path), "submission": submission}))
    else:
        print(f"{run.id} submitted as {submission}; watch it with: vr jobs watch {run.path}", file=sys.stderr)
    if watch:
        _watch(run)
    return None


def train(
    recipe: RecipeName,
    overrides: Overrides = None,
    again: Again = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Train here and now: on the running cluster, or else on this machine alone.

    Ctrl-C writes a checkpoint and ends; `vr jobs resume` goes on. Example: vr train songs-pretrain data=DATA steps=100
    """
    from jobs.runs import create_run
    from jobs.submit import submitted_runs

    spec = _recipe(recipe, overrides)
    if dry_run:
        return _print_recipe(spec)
    return _train_here(create_run(spec, again, reserved=submitted_runs()), as_json)


@app.command("list")
def list_(
    out: Out = RUNS,
    newest: Annotated[int, typer.Option("--newest", min=1, help="List so many.")] = 30,
    all_: Annotated[bool, typer.Option("--all", help="List every run.")] = False,
    as_json: Json = False,
) -> None:
    """List the newest runs, also while no head runs.

    Example: vr jobs list --out runs --newest 5
    """
    from jobs.overview import overview

    head, note = _head_or_note()
    found = overview(out, head, None if all_ else newest)
    rows = found.rows
    if found.has_older:
        print(f"(the newest {len(rows)}; --all lists every run)", file=sys.stderr)
    if as_json:
        return print(json.dumps([row.plain() for row in rows]))
    from rich.console import Console
    from rich.table import Table

    if note:
        print(note, file=sys.stderr)
    if not rows:
        return print(f"no runs in {out.absolute()}", file=sys.stderr)
    table = Table("run", "state", "step", "loss", "attempt", "why", box=None)
    for row in rows:
        table.add_row(row.run, row.shown_state, f"{row.step}/{row.steps}", row.shown_loss, str(row.attempt), row.why)
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    return None


@app.command()
def show(name: RunName, out: Out = RUNS, as_json: Json = False) -> None:
    """Show one run: its state, where it ran, its checkpoints and its recipe.

    Example: vr jobs show songs-pretrain-1a2b3c4d-1
    """
    from jobs.overview import details, find_run

    run = find_run(name, out)
    head, note = _head_or_note()
    found = details(run, head)
    if as_json:
        return print(json.dumps(found))
    from vr_core.config import to_yaml

    if note:
        print(note, file=sys.stderr)
    for key, value in found.items():
        if key == "events":
            for event in value:
                at = time.strftime("%m-%d %H:%M:%S", time.localtime(event["time_s"]))
                print(f"event: {at} step {event['step']}: {event['said']}")
        elif key == "sync":
            print(f"sync: {_shown_choice(value)}")
        elif key == "not_worth":
            print(f"advice: {_shown_advice(value)}")
        elif key != "recipe":
            print(f"{key}: {value if isinstance(value, str) else json.dumps(value)}")
    print("recipe:\n" + "".join(f"  {text}\n" for text in to_yaml(run.recipe()).splitlines()), end="")
    return None


def _shown_choice(sync: dict[str, Any]) -> str:
    """What the run chose, what it had predicted, and what came of it."""
    from jobs.shares import choice_said

    took = "" if sync["step_s"] is None else f"; so far {sync['step_s']:.3f} s"
    return choice_said(sync["chosen"], sync["predicted_s"]) + took


def _shown_advice(told: dict[str, Any]) -> str:
    """What would be quicker."""
    return (
        f"without {', '.join(told['machines'])} a step would take {told['without_s']:.3f} s, with all "
        f"{told['with_s']:.3f} s (predicted); a recipe with nodes: {{min: 1}} leaves such machines out"
    )


@app.command()
def logs(
    name: RunName,
    out: Out = RUNS,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends.")] = False,
) -> None:
    """Print what a submitted run's newest job has printed.

    Example: vr jobs logs songs-pretrain-1a2b3c4d-1 --follow
    """
    import asyncio

    from cluster.node.head import find_head, state_folder
    from jobs.errors import UnknownRun
    from jobs.ledger import Ledger
    from jobs.overview import find_run
    from jobs.submit import follow_logs, job_logs

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


@app.command()
def stop(name: RunName, out: Out = RUNS) -> None:
    """Stop a run: it writes a checkpoint, and `vr jobs resume` goes on from there.

    Example: vr jobs stop songs-pretrain-1a2b3c4d-1
    """
    from rich.console import Console

    from jobs.control import stop_run
    from jobs.overview import find_run

    run = find_run(name, out)
    head, _ = _head_or_note()
    with Console(stderr=True).status(f"stopping {run.id} (it writes a checkpoint first)"):
        state = stop_run(run, head)
    print(f"{run.id} is {state.state} at step {state.step} of {state.steps}", file=sys.stderr)


@app.command()
def resume(
    name: RunName,
    out: Out = RUNS,
    here: Annotated[bool, typer.Option("--here", help="Train in this process, as `vr train` does.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show the run until it ends.")] = False,
) -> None:
    """Go on with a run from its last checkpoint.

    Example: vr jobs resume songs-pretrain-1a2b3c4d-1 --watch
    """
    from cluster.node.head import find_head, timings_here
    from jobs.driver import require_resumable
    from jobs.overview import find_run
    from jobs.submit import keep_source, start

    run = find_run(name, out)
    run.mend_state()
    if here:
        require_resumable(run, timings_here().driver_silent_s)
        keep_source(run)  # the keeper may go on with it, and reads what this version writes
        return _train_here(run, as_json=False)
    submission = start(find_head(), run)
    print(f"{run.id} goes on from step {run.last_step()} as {submission}", file=sys.stderr)
    if watch:
        _watch(run)
    return None


@app.command()
def watch(name: RunName, out: Out = RUNS) -> None:
    """Show a run's progress until it ends; Ctrl-C leaves it going.

    Example: vr jobs watch songs-pretrain-1a2b3c4d-1
    """
    from jobs.overview import find_run

    _watch(find_run(name, out))


def _recipe(name: str, overrides: list[str] | None) -> "Recipe":
    from jobs.shipped import read_recipe

    return read_recipe(name, overrides or [])


def _print_recipe(recipe: "Recipe") -> None:
    from vr_core.config import to_yaml

    print(to_yaml(recipe), end="")


def _confirm(recipe: "Recipe") -> None:
    """Show what would be submitted; where a terminal can answer, ask."""
    where = f"{recipe.workers.count} worker(s)"
    if recipe.nodes is not None:
        where = f"{recipe.nodes.min} to {recipe.nodes.max} machines"
    workers = f"{where}, device {recipe.workers.device}"
    print(f"{recipe.name}: {recipe.steps} steps of {recipe.batch.items} items on {workers}", file=sys.stderr)
    print(f"  data {recipe.data}\n  out  {recipe.out}", file=sys.stderr)
    if recipe.init is not None:
        print(f"  init {recipe.init}", file=sys.stderr)
    if sys.stdin.isatty():
        typer.confirm("Submit?", abort=True, err=True, default=True)


def _head_or_note() -> "tuple[Head | None, str]":
    """The running head, or a line that says why there is none."""
    from cluster.errors import NoHead
    from cluster.node.head import find_head

    try:
        return find_head(), ""
    except NoHead as error:
        return None, f"({error}; states are those of the run folders)"


def _train_here(run: "RunFolder", as_json: bool) -> None:
    """Carry the next attempt of `run` in this process, to the end.

    Raises:
        UserError, RunFailed: it failed.
        typer.Exit: it was stopped; the exit code is that of Ctrl-C.
    """
    from jobs.control import train_here
    from jobs.display import display
    from jobs.launch import raise_for

    with display(run) as shown:
        state = train_here(run, shown.show)
    raise_for(run, state)
    if as_json:
        from vr_core.config import plain

        print(json.dumps({"run": run.id, "folder": str(run.path), **plain(state)}))
    else:
        print(f"{run.id} is {state.state} at step {state.step} of {state.steps}: {run.path}", file=sys.stderr)
    if state.state == "stopped":
        raise typer.Exit(STOPPED_HERE)


def _watch(run: "RunFolder") -> None:
    """Show `run` until it ends.

    Raises:
        UserError, RunFailed: it failed.
        typer.Exit: it was stopped: it has not done what it was to do.
    """
    from jobs.control import follow
    from jobs.display import display
    from jobs.launch import raise_for

    with display(run) as shown:
        state = follow(run, shown.show)
    raise_for(run, state)
    print(f"{run.id} is {state.state} at step {state.step} of {state.steps}: {run.path}", file=sys.stderr)
    if state.state == "stopped":
        raise typer.Exit(1)
