"""The command `vr`: registers the commands, and turns errors into one line and an exit code.

Nothing heavy is imported here or at the top of a command's module (`vr --help` stays under half a second): ray, torch
and the schemas are imported inside the commands. The help is plain text, not rich panels, for the same reason.
"""

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from jobs.commands import cluster, data, evaluate, jobs, plan, quickstart, separate, trace, tune
from vr_core.errors import VrError

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT, as shells have it."""

app = typer.Typer(
    name="vr",
    help="Train a vocal remover on the computers at home, and use it. `vr COMMAND --help` shows an example of each.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"vr {version('vr')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


app.command()(quickstart.quickstart)
app.command()(jobs.submit)
app.command()(jobs.train)
app.command()(tune.tune)
app.command()(tune.trials)
app.command()(plan.plan)
app.command()(trace.trace)
app.command("eval")(evaluate.evaluate)
app.command()(separate.separate)
app.add_typer(data.app, name="data")
app.add_typer(jobs.app, name="jobs")
app.add_typer(cluster.app, name="cluster")


def main(arguments: Sequence[str] | None = None, command: typer.Typer = app) -> None:
    """Run `vr`, or another `command`, with `arguments`, by default those of this process, and exit.

    Exit codes: 0 done, 1 a failure, 2 the user's mistake, 130 Ctrl-C. An exception that is not a `VrError` is a bug
    and shows its traceback.
    """
    # We are started by `uv run`: without this Ray would start every worker through uv again.
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    try:
        command(arguments, prog_name="vr")
    except VrError as error:
        print(f"vr: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(error.exit_code)
    except SystemExit as stop:
        # Typer turns KeyboardInterrupt into this exit without a word.
        if stop.code == INTERRUPTED:
            print("vr: interrupted", file=sys.stderr)
        raise


if __name__ == "__main__":
    main()
