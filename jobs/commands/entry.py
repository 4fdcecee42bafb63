"""What every command runs in: standard streams that can be written, signals as Ctrl-C, errors in one line."""

import errno
import os
import sys
from collections.abc import Callable

from jobs.quickstart.signals import signals_as_interrupts
from vr_core.errors import VrError
from vr_core.small_files import printable

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT, as shells have it."""
_FAILURE = VrError.exit_code


def run(command: Callable[[], object]) -> int:
    """The exit code of `command`: 0 done, 1 a failure, 2 the user's mistake, 130 Ctrl-C, SIGTERM or SIGHUP.

    What the system refuses (a full disk, no right, a name too long) is a failure in one line, like a `VrError`. Any
    other exception is a bug and leaves with its traceback.
    """
    _open_streams()
    with signals_as_interrupts():
        return _flushed(_exit_code(command))


def _exit_code(command: Callable[[], object]) -> int:
    try:
        command()
    except SystemExit as stop:  # how Typer ends
        code = stop.code if isinstance(stop.code, int) else _FAILURE
        if code == INTERRUPTED:
            # Typer turns KeyboardInterrupt into this exit without a word.
            _say("interrupted")
        return code
    except KeyboardInterrupt:
        _say("interrupted")
        return INTERRUPTED
    except VrError as error:
        _say(str(error))
        return error.exit_code
    except BrokenPipeError:
        return _FAILURE  # who read has what it wanted
    except OSError as error:
        _say(_refused(error))
        return _FAILURE
    except MemoryError:
        _say("this PC has too little memory for that")
        return _FAILURE
    return 0


def _refused(error: OSError) -> str:
    if error.errno is None:
        return str(error) or type(error).__name__
    place = f"{error.filename}: " if error.filename is not None else ""
    remedy = {
        errno.ENOSPC: "; free some space", errno.EDQUOT: "; free some space",
        errno.EACCES: "; check whose it is, and its mode", errno.EPERM: "; check whose it is, and its mode",
        errno.EROFS: "; give a place that can be written", errno.ENAMETOOLONG: "; give a shorter one",
        errno.EIO: "; check its disk or network share", errno.ESTALE: "; check its disk or network share",
    }.get(error.errno, "")  # fmt: skip
    return f"{place}{os.strerror(error.errno)}{remedy}"


def _open_streams() -> None:
    r"""Give the process standard streams that take any text.

    One that was closed goes nowhere: else the next file that is opened would take its number and what is printed. What
    the stream's encoding has no letter for is written out, as in `\u97f3`: two songs stay two.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            os.dup2(nowhere := os.open(os.devnull, os.O_RDWR), number)
            if nowhere != number:
                os.close(nowhere)
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - stays open
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _flushed(code: int) -> int:
    """`code`, or a failure where what was printed could not be written."""
    try:
        sys.stdout.flush()
    except OSError as error:
        # What is left in the buffer would fail again at the end of the process.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            _say(f"standard output: {_refused(error)}")
        return code or _FAILURE
    return code


def _say(line: str) -> None:
    try:
        print(f"vr: {printable(' '.join(line.split()))}", file=sys.stderr, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
