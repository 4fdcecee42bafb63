import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import typer

from jobs import cli
from vr_core.errors import ConfigError, Failure


def commands(command=None, path=("vr",)) -> Iterator[tuple[tuple[str, ...], typer.core.TyperCommand]]:
    """Every command that does something, with the words that call it."""
    command = command or typer.main.get_command(cli.app)
    if isinstance(command, typer.core.TyperGroup):
        for name, child in command.commands.items():
            yield from commands(child, (*path, name))
    else:
        yield path, command


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "jobs.cli", *arguments], capture_output=True, text=True)


def test_every_command_has_help_with_an_example():
    for path, command in commands():
        words = " ".join(path) + " "
        shown = " ".join(command.get_help(typer.Context(command, info_name=words.strip())).split())
        # Once in the usage line, and once more with values filled in.
        assert shown.count(words) >= 2, f"{words}: no example in {shown}"


def test_help_and_version_are_printed_and_a_wrong_name_names_the_nearest():
    assert "Usage: vr [OPTIONS] COMMAND" in run("--help").stdout
    version = run("--version")
    assert (version.returncode, version.stdout) == (0, "vr 0.1.0\n")
    wrong = run("--versoin")
    assert wrong.returncode == 2
    assert "--version" in wrong.stderr


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("a.yaml: lr: missing"), 2, "vr: a.yaml: lr: missing\n"),
        (Failure("the head\n  is gone"), 1, "vr: the head is gone\n"),
        (KeyboardInterrupt(), 130, "vr: interrupted\n"),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(monkeypatch, capsys, error, code, line):
    app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)

    @app.command()
    def failing() -> None:
        raise error

    monkeypatch.setattr(cli, "app", app)
    monkeypatch.setattr(sys, "argv", ["vr"])
    monkeypatch.delenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV")
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == code
    assert capsys.readouterr() == ("", line)
    assert os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] == "0"


def test_a_bug_shows_its_traceback(monkeypatch):
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def failing() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "app", app)
    monkeypatch.setattr(sys, "argv", ["vr"])
    with pytest.raises(ZeroDivisionError):
        cli.main()
