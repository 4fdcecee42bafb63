"""`vr submit` and `vr train`: start a run, on the cluster or here."""

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.commands.jobs.carried import train_run, watch_run
from jobs.commands.jobs.options import Again, DryRun, Overrides, RecipeName
from jobs.commands.terminal import Json, Yes
from vr_core.errors import command

if TYPE_CHECKING:
    from jobs.recipe import Recipe


def submit(
    recipe: RecipeName,
    overrides: Overrides = None,
    again: Again = False,
    dry_run: DryRun = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show the run until it ends; Ctrl-C leaves it going.")] = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Submit a run to the cluster whose head runs here.

    It shows what it will submit and, at a terminal, asks.

    Example: vr submit songs-pretrain data=DATA workers.count=2 --watch
    """
    from cluster.node.head import find_head
    from jobs.queue.submit import start, submitted_runs
    from jobs.recipes.shipped import read_recipe
    from jobs.runs.creation import create_run, require_data_set, resolve_paths

    spec = read_recipe(recipe, overrides or [])
    if dry_run:
        return _print_recipe(spec)
    head = find_head()
    resolved = resolve_paths(spec)
    require_data_set(resolved)
    run = create_run(resolved, again, confirm=None if yes else _confirm, reserved=submitted_runs())
    submission = start(head, run, resolved)
    if as_json:
        print(json.dumps({"run": run.id, "folder": str(run.path), "submission": submission}))
    else:
        print(f"{run.id} submitted as {submission}; watch it with: {command('jobs watch', run.path)}", file=sys.stderr)
    if watch:
        watch_run(run)
    return None


def train(
    recipe: RecipeName,
    overrides: Overrides = None,
    again: Again = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Train here and now, without the queue.

    It runs on the running cluster, or else on this machine alone. Ctrl-C writes a checkpoint and ends; `vr jobs resume`
    goes on.

    Example: vr train songs-pretrain data=DATA steps=100
    """
    from jobs.queue.submit import submitted_runs
    from jobs.recipes.shipped import read_recipe
    from jobs.runs.creation import create_run, refuse_repeat, require_data_set, require_writable, resolve_paths

    spec = read_recipe(recipe, overrides or [])
    if dry_run:
        return _print_recipe(spec)
    resolved = resolve_paths(spec)
    refuse_repeat(resolved, again)
    require_data_set(resolved)
    require_writable(resolved.out)
    return train_run(lambda: create_run(resolved, again, reserved=submitted_runs()), resolved, as_json)


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
