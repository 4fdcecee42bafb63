"""The command `vr`: registers the commands, and turns errors into one line and an exit code.

Nothing heavy is imported here or at the top of a command's module (`vr --help` stays under half a second): ray, torch
and the schemas are imported inside the commands. The help is plain text, not rich panels, for the same reason.
"""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
import typer.core

from cluster.installation import restart_through_link
from jobs.commands.cluster.doctor import doctor
from jobs.commands.cluster.down import down
from jobs.commands.cluster.drain import drain, undrain
from jobs.commands.cluster.firewall import firewall
from jobs.commands.cluster.head import head
from jobs.commands.cluster.join import join
from jobs.commands.cluster.rotate import rotate
from jobs.commands.cluster.service import service
from jobs.commands.cluster.status import status
from jobs.commands.cluster.up import up
from jobs.commands.data.change import add, prune, remove, verify
from jobs.commands.data.check import check
from jobs.commands.data.dedupe import dedupe
from jobs.commands.data.inspect import inspect
from jobs.commands.data.prepare import prepare
from jobs.commands.data.stage import stage
from jobs.commands.data.synth import synth
from jobs.commands.entry import run
from jobs.commands.evaluate import evaluate
from jobs.commands.jobs.list import list_
from jobs.commands.jobs.logs import logs
from jobs.commands.jobs.resume import resume
from jobs.commands.jobs.show import show
from jobs.commands.jobs.stop import stop
from jobs.commands.jobs.submit import submit, train
from jobs.commands.jobs.watch import watch
from jobs.commands.models import models
from jobs.commands.plan import plan
from jobs.commands.quickstart import quickstart
from jobs.commands.separate import separate
from jobs.commands.trace import trace
from jobs.commands.tune import trials, tune
from jobs.commands.version import show_version
from jobs.commands.weights.export import export
from jobs.commands.weights.import_ import import_
from vr_core.errors import UserError

ORDER_OF_USE = (
    "quickstart", "data", "cluster", "models", "plan", "submit", "train", "jobs", "trace", "eval", "separate", "import",
    "export", "tune", "trials",
)  # fmt: skip
"""Commands and groups as the help of `vr` lists them; Typer would list all groups last."""


class _InOrderOfUse(typer.core.TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(self.commands, key=ORDER_OF_USE.index)


app = typer.Typer(
    name="vr",
    cls=_InOrderOfUse,
    help="Train a vocal remover on the computers at home, and use it. `vr COMMAND --help` shows an example of each.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print what a bug report needs: versions, commit, graphics cards, operating system."
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="With --version: print one JSON value on stdout, in place of text.")
    ] = False,
) -> None:
    # No eager option: those are called one by one, so that --version would not see a --json that comes after it.
    if version:
        show_version(as_json)
        raise typer.Exit
    if as_json:
        raise UserError("--json: here it belongs to --version; a command's own --json comes after the command")
    if context.invoked_subcommand is None:
        context.fail("Missing command.")


def _group(name: str, about: str, *commands: Callable[..., None]) -> typer.Typer:
    """Commands that begin with the same word, in the order of their help."""
    group = typer.Typer(help=about, no_args_is_help=True)
    for command in commands:
        group.command(command.__name__.rstrip("_"))(command)
    app.add_typer(group, name=name)
    return group


for command in (quickstart, submit, train, tune, trials, models, plan, trace):
    app.command()(command)
app.command("eval")(evaluate)
app.command()(separate)
app.command("import")(import_)
app.command()(export)
data = _group(
    "data", "Make songs up, prepare data sets, look into them.",
    synth, prepare, inspect, dedupe, check, verify, stage, add, remove, prune,
)  # fmt: skip
_group("jobs", "List, show, watch, stop and resume runs.", list_, show, watch, logs, stop, resume)
_group(
    "cluster", "Start, join, inspect and end the Ray cluster.",
    head, join, up, status, doctor, firewall, service, drain, undrain, rotate, down,
)  # fmt: skip


def main(arguments: Sequence[str] | None = None, command: typer.Typer = app) -> None:
    """Run `vr`, or another `command`, with `arguments`, by default those of this process, and exit as `run` says."""
    if arguments is None:  # a process of ours, not a call in somebody else's
        restart_through_link()
    # We are started by `uv run`: without this Ray would start every worker through uv again.
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    sys.exit(run(lambda: command(arguments, prog_name="vr")))


if __name__ == "__main__":
    main()
