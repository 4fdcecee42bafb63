import os
import subprocess
import sys

import pytest
import typer

from jobs import cli
from tests.command_line import vr
from vr_core.errors import ConfigError, Failure


def test_help_is_printed_and_a_wrong_name_names_the_nearest():
    assert "Usage: vr [OPTIONS] COMMAND" in vr("--help").stdout
    assert "--version" in vr("--versoin", code=2).stderr
    assert "Missing command" in vr("--", code=2).stderr


def test_a_process_ends_with_the_code_of_the_command_and_says_its_line():
    argv = [sys.executable, "-m", "jobs.cli", "train", "no-such-recipe"]
    done, here = subprocess.run(argv, capture_output=True, text=True), vr(*argv[3:], code=2)
    assert (done.stdout, done.stderr, done.returncode) == (here.stdout, here.stderr, here.code)
    assert len(done.stderr.splitlines()) == 1


def test_a_reader_that_goes_away_ends_it_without_a_traceback():
    read, write = os.pipe()
    os.close(read)
    argv = [sys.executable, "-m", "jobs.cli", "submit", "songs-pretrain", "--dry-run"]
    with os.fdopen(write, "wb") as stdout:
        done = subprocess.run(argv, stdout=stdout, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "")


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

    monkeypatch.delenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV")
    with pytest.raises(SystemExit) as stopped:
        cli.main([], app)
    assert stopped.value.code == code
    assert capsys.readouterr() == ("", line)
    assert os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] == "0"


def test_a_bug_shows_its_traceback():
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def failing() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cli.main([], app)
