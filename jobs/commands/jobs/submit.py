"""`vr submit` and `vr train`: start a run, on the cluster or here."""

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.commands.jobs.carried import train_run, watch_run
from jobs.commands.jobs.options import Again, DryRun, Overrides, RecipeName
from jobs.commands.terminal import Json, Yes
from vr_core.errors import command

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

    from jobs.recipe import Recipe
    from vr_core.specs.optim import GroupRow


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

    It shows what it will submit, and which layers are trained at which rate, and at a terminal it asks.

    Example: vr submit songs-pretrain data=DATA workers.count=2 --watch
    """
    from cluster.node.head import find_head
    from jobs.planning.groups import groups_apart
    from jobs.queue.submit import start, submitted_runs
    from jobs.recipes.shipped import read_recipe
    from jobs.runs.creation import create_run, require_data_set, resolve_paths

    spec = read_recipe(recipe, overrides or [])
    if dry_run:
        return _print_recipe(spec, as_json)
    head = find_head()
    resolved = resolve_paths(spec)
    require_data_set(resolved)
    groups = groups_apart(resolved)
    if not as_json:
        _print_groups(groups, sys.stderr, "  ")
    run = create_run(resolved, again, confirm=None if yes else _confirm, reserved=submitted_runs())
    submission = start(head, run, resolved)
    if as_json:
        told = {"run": run.id, "folder": str(run.path), "submission": submission}
        print(json.dumps({**told, "groups": [asdict(row) for row in groups]}))
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

    It runs on the running cluster, or else on this machine alone, and first shows which layers are trained at which
    rate. Ctrl-C writes a checkpoint and ends; `vr jobs resume`
    goes on.

    Example: vr train songs-pretrain data=DATA steps=100
    """
    from jobs.planning.groups import groups_apart
    from jobs.queue.submit import submitted_runs
    from jobs.recipes.shipped import read_recipe
    from jobs.runs.creation import create_run, refuse_repeat, require_data_set, require_writable, resolve_paths

    spec = read_recipe(recipe, overrides or [])
    if dry_run:
        return _print_recipe(spec, as_json)
    resolved = resolve_paths(spec)
    refuse_repeat(resolved, again)
    require_data_set(resolved)
    require_writable(resolved.out)
    groups = groups_apart(resolved)
    if not as_json:
        _print_groups(groups, sys.stderr, "")
    told = {"groups": [asdict(row) for row in groups]}
    return train_run(lambda: create_run(resolved, again, reserved=submitted_runs()), resolved, as_json, told)


def _print_recipe(recipe: "Recipe", as_json: bool) -> None:
    from jobs.planning.groups import groups_of
    from vr_core.config import plain, to_yaml

    groups = groups_of(recipe)
    if as_json:
        print(json.dumps({"recipe": plain(recipe), "groups": [asdict(row) for row in groups]}))
        return
    print(to_yaml(recipe), end="")
    _print_groups(groups, sys.stdout, "# ")  # so that what is printed stays a recipe


def _print_groups(groups: "Sequence[GroupRow]", file: "TextIO", before: str) -> None:
    """Which layers are trained at which rate, a line each, with `before` in front."""
    from jobs.planning.groups import lines_of

    for line in lines_of(groups):
        print(f"{before}{line}", file=file)


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
