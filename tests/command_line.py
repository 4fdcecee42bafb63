"""`vr` called in this process: words, exit code and both streams are the command's, without a process's 1 to 2 s.

A real process is for what only a process shows: that it ends, by what signal, and what a closed stream does to it.
"""

import contextlib
import io
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from jobs import cli


@dataclass(frozen=True)
class Said:
    """What a command printed, and its exit code."""

    stdout: str
    stderr: str
    code: int


def vr(*arguments: object, code: int | None = 0, stdin: str = "") -> Said:
    """Run `vr ARGUMENTS` as `jobs.cli.main` does, without a terminal.

    Args:
        arguments: words after `vr`.
        code: the exit code that it must have; None for any.
        stdin: what it can read.

    Raises:
        AssertionError: another exit code; says what was printed.
        Exception: a bug of the command, which in a process would be a traceback.
    """
    ended: object = None
    out, err = io.StringIO(), io.StringIO()
    with _stdin(stdin), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main([str(word) for word in arguments])
        except SystemExit as stop:
            ended = stop.code
    assert isinstance(ended, int), f"vr ended with {ended!r}, which is no exit code"
    said = Said(out.getvalue(), err.getvalue(), ended)
    assert code is None or said.code == code, said
    return said


def vr_apart(*arguments: object) -> Said:
    """Run `vr ARGUMENTS` in a process of its own: for what starts Ray, which keeps the first token that it reads.

    Raises:
        AssertionError: an exit code that is not 0; says what was printed.
    """
    words = [sys.executable, "-m", "jobs.cli", *map(str, arguments)]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    said = Said(done.stdout, done.stderr, done.returncode)
    assert said.code == 0, said
    return said


@contextlib.contextmanager
def _stdin(text: str) -> Iterator[None]:
    before, sys.stdin = sys.stdin, io.StringIO(text)
    try:
        yield
    finally:
        sys.stdin = before
