"""`vr tune` and `vr trials`: search over a recipe's own keys, and look at the trials."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.commands.jobs.options import RUNS, Out, Overrides
from jobs.commands.terminal import Json, console, show_table
from vr_core.errors import command

if TYPE_CHECKING:
    from rich.table import Table

    from jobs.recipe import Recipe
    from jobs.search.folder import Search, TrialRow

REFRESH_S = 1.0


def tune(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE",
            help="A recipe file, or the name of one that comes with vr.",
            show_default="with --resume: that of the search",
        ),
    ] = None,
    overrides: Overrides = None,
    trials: Annotated[
        int | None,
        typer.Option("--trials", min=1, help="Number of trials.", show_default="tune.trials of the recipe"),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            "--resume", metavar="SEARCH", help="Go on with a search: its name or folder.", show_default="a new search"
        ),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Repeat a search that was made before; without it that is refused.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved recipe and the trials, and do nothing.")
    ] = False,
    out: Out = RUNS,
    as_json: Json = False,
) -> None:
    """Search for good values of a recipe's keys.

    It runs here and now, on the running cluster or else on this machine alone. The recipe's `tune` section says which
    keys; bad trials are stopped early. Ctrl-C ends the search, --resume goes on.

    Example: vr tune tune-smoke data=DATA --trials 6
    """
    from jobs.queue.kept import recipe_of
    from jobs.recipes.shipped import read_recipe
    from jobs.runs.creation import require_data_set, require_writable, resolve_paths
    from jobs.search.folder import create_search, refuse_search, resolve_search
    from jobs.search.space import plan_trials
    from vr_core.errors import ConfigError

    arguments = [*(overrides or []), *([] if trials is None else [f"tune.trials={trials}"])]
    if resume is not None:
        search = resolve_search(resume, out)
        if arguments or again or (recipe is not None and read_recipe(recipe, []).name != search.recipe().name):
            raise ConfigError(
                f"--resume goes on with {search.id} as it was; leave other values, --trials, --again away"
            )
        spec = recipe_of(search.run, search.recipe, partial(print, file=sys.stderr))
        return _carry(lambda: search, spec, as_json)
    if recipe is None:
        raise ConfigError("expected a recipe, or --resume SEARCH; for example: vr tune tune-smoke data=DATA")
    spec = read_recipe(recipe, arguments)
    if dry_run:
        return _print_plan(spec, as_json)
    print(f"{len(plan_trials(spec))} trials of {spec.name}", file=sys.stderr)
    spec = resolve_paths(spec)
    refuse_search(spec, again)
    require_data_set(spec)
    require_writable(spec.out)
    return _carry(lambda: create_search(spec, again), spec, as_json)


def trials(
    name: Annotated[str, typer.Argument(metavar="SEARCH", help="A search's name or folder.")],
    out: Out = RUNS,
    watch: Annotated[bool, typer.Option("--watch", help="Show them until the search ends; Ctrl-C leaves it going.")] = (
        False
    ),
    as_json: Json = False,
) -> None:
    """Show the trials of a search.

    It works while the search runs, and after the cluster has ended.

    Example: vr trials tune-smoke-1a2b3c4d-1 --watch
    """
    from jobs.search.folder import resolve_search

    search = resolve_search(name, out)
    if watch:
        _watch(search)
    if as_json:
        return print(json.dumps(_plain(search)))

    if not watch:
        show_table(_table(search, search.rows()))
    _print_end(search)
    return None


def _print_plan(recipe: "Recipe", as_json: bool) -> None:
    from jobs.search.space import plan_trials, shown_values
    from vr_core.config import plain, to_yaml

    plans = plan_trials(recipe)
    if as_json:
        chosen = [{"id": plan.id, "values": plan.values} for plan in plans]
        return print(json.dumps({"recipe": plain(recipe), "trials": chosen}))
    print(to_yaml(recipe), end="")
    for plan in plans:
        print(f"# trial {plan.id}: {shown_values(plan.values)}")
    return None


def _carry(search_of: "Callable[[], Search]", recipe: "Recipe", as_json: bool) -> None:
    from jobs.execution.ray_session import connected
    from jobs.queue.kept import keep_recipe
    from jobs.search.tune import run_search

    with connected() as head:
        search = search_of()  # not before: where Ray does not start, none is left behind
        keep_recipe(search.run, recipe)
        print(f"search {search.id}: {search.path}", file=sys.stderr)
        try:
            with _shown(search) as show:
                run_search(search, recipe, head, show)
        except KeyboardInterrupt:
            print(f"go on with: {command('tune', '--resume', search.path)}", file=sys.stderr)
            raise
    if as_json:
        return print(json.dumps(_plain(search)))
    return _print_end(search)


def _watch(search: "Search") -> None:
    import time

    from cluster.node.head import timings_here
    from jobs.runs.liveness import Listener

    silent_s, driver = timings_here().driver_silent_s, Listener()
    with _shown(search) as show:
        while driver.look(search.run, search.run.state(), silent_s) != "dead":
            show(search.rows())
            time.sleep(REFRESH_S)
        show(search.rows())


def _print_end(search: "Search") -> None:
    """The best recipe and what to type next, or how to go on."""
    from jobs.runs.liveness import look_for_driver
    from jobs.search.folder import best
    from jobs.search.space import shown_values

    state = search.run.state()
    row = best(search.rows())
    if state.state == "finished" and row is not None:
        print(f"best: trial {row.id}, {shown_values(row.values)}, score {row.score:.6g}", file=sys.stderr)
        print(f"next: {command('submit', search.best_file)}", file=sys.stderr)
    elif look_for_driver(search.run, state).known == "dead":
        print(f"{search.id} is not finished; go on with: {command('tune', '--resume', search.path)}", file=sys.stderr)


def _plain(search: "Search") -> dict[str, object]:
    from jobs.search.folder import best
    from vr_core.config import plain

    rows = search.rows()
    row = best(rows)
    return {
        "search": search.id,
        "folder": str(search.path),
        "state": search.run.state().state,
        "best": None if row is None else row.id,
        "best_recipe": str(search.best_file) if search.best_file.is_file() else None,
        "trials": [plain(row) for row in rows],
    }


@contextmanager
def _shown(search: "Search") -> "Iterator[Callable[[list[TrialRow]], None]]":
    """Shows the trials on stderr: a live table on a terminal, a line for each change of state elsewhere."""
    from rich.live import Live

    from jobs.search.folder import shown_trial

    stderr = console()
    if stderr.is_terminal:
        # It reads the folders by itself, so that steps move between two reports.
        with Live(
            get_renderable=lambda: _table(search, search.rows()), console=stderr, refresh_per_second=1 / REFRESH_S
        ):
            yield lambda rows: None
        return
    reported: dict[str, str] = {}

    def tell(rows: "list[TrialRow]") -> None:
        for row in rows:
            if reported.get(row.id, "pending") != row.state:
                reported[row.id] = row.state
                print(shown_trial(row) + (f" ({row.why})" if row.why else ""), file=sys.stderr, flush=True)

    yield tell


def _table(search: "Search", rows: "list[TrialRow]") -> "Table":
    from rich.table import Table
    from rich.text import Text

    from jobs.search.folder import best

    keys = list(rows[0].values) if rows else []
    leader = best(rows)
    table = Table("trial", *keys, "step", "score", "state", "why", box=None, title=search.id, title_justify="left")
    for row in rows:
        values = [str(row.values[key]) for key in keys]
        score = "" if row.score is None else f"{row.score:.4g}"
        cells = [row.id, *values, f"{row.step}/{row.steps}", score, row.state, row.why]
        table.add_row(*(Text(cell) for cell in cells), style="bold" if leader and row.id == leader.id else "")
    return table
