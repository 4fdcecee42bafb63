"""What commands share at the terminal: where they write, how they ask, options that mean the same everywhere."""

import sys
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vr_core.errors import UserError
from vr_core.small_files import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Json = Annotated[bool, typer.Option("--json", help="Print one JSON value on stdout, in place of text.")]
Device = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute; auto: a GPU where there is one.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before anything starts, changes or ends.")]


class NoConsent(UserError):
    """Nobody was there to agree."""


def console() -> "Console":
    """Stderr: stdout is for what another program may read."""
    from rich.console import Console

    return Console(stderr=True, width=None if sys.stderr.isatty() else _UNBROKEN)


def results(*, markup: bool = False) -> "Console":
    """Stdout, for tables and lines: where no terminal shows them, nothing is cut and no line is broken."""
    from rich.console import Console

    return Console(markup=markup, width=None if sys.stdout.isatty() else _UNBROKEN)


def show_table(table: "Table", *, markup: bool = False) -> None:
    """Print a table on stdout, where a program may read it: then nothing is cut, nor wrapped within its cell."""
    if not sys.stdout.isatty():
        for column in table.columns:
            column.max_width, column.no_wrap = None, True
    results(markup=markup).print(table)


_UNBROKEN = 1_000_000
"""Columns of what is no terminal."""


def say(line: str, *, err: bool = False) -> None:
    """Print a line of which parts may have been written by somebody else: nothing in it is obeyed."""
    # The streams by name: while a progress bar is drawn, they lead above it.
    typer.echo(printable(line), file=sys.stderr if err else sys.stdout)


def agree(question: str, yes: bool) -> None:
    """Return when the user agrees.

    Raises:
        NoConsent: there is no terminal to ask at.
        typer.Abort: the answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise NoConsent("nothing was changed: no terminal to ask at; add --yes to agree beforehand")
    typer.confirm(printable(question), abort=True, err=True)
