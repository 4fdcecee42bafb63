"""Asking a node's probe: which command, what goes in, what comes out. How it reaches the node is the runner's."""

import base64
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from pydantic import TypeAdapter, ValidationError

import cluster.probe
from cluster.installation import installed_executable
from cluster.inventory import NodeSpec
from cluster.remote import shell
from cluster.remote.shell import Unreached, UnreachedKind
from cluster.remote.up_plan import python_of

Reading = TypeVar("Reading")


class Ran(NamedTuple):
    """A command that has ended."""

    code: int
    stdout: str
    stderr: str


class Runner(Protocol):
    """Runs one command on one node, to its end."""

    def __call__(self, node: NodeSpec, argv: Sequence[str], stdin: str, timeout_s: float) -> Ran:
        """Run `argv` there.

        Raises:
            Unreached: the node is not reached.
            OSError, TimeoutExpired: the command cannot be started, or does not end in time.
        """


UnansweredKind = UnreachedKind | Literal["failed"]
"""Why a probe gave no answer: its node is not reached, or it failed there."""


class Unanswered(Exception):
    """A node's probe gave no answer; the message is the reason, for people."""

    def __init__(self, reason: str, kind: UnansweredKind) -> None:
        super().__init__(reason)
        self.kind = kind


def run_here(node: NodeSpec, argv: Sequence[str], stdin: str, timeout_s: float) -> Ran:
    """The runner of this very machine, whatever node it is."""
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=timeout_s)
    return Ran(done.returncode, done.stdout, done.stderr)


def python_here(node: NodeSpec) -> list[str]:
    """The Python of this process."""
    return [sys.executable]


def run_by_ssh(node: NodeSpec, argv: Sequence[str], stdin: str, timeout_s: float) -> Ran:
    """The runner for another machine, by the system's `ssh`."""
    code, stdout, stderr, _ = shell.run(node, argv, stdin=stdin, timeout_s=timeout_s)
    return Ran(code, stdout, stderr)


def python_there(node: NodeSpec, ours: str | None = None) -> list[str]:
    """The Python that `vr cluster up` starts Ray with; else one at the place of `ours`; else the system's.

    A link that this PC has made to its own is on no other.
    """
    found = 'p=$0; q=$1; shift; [ -x "$p" ] || p=$q; [ -x "$p" ] || p=python3; exec "$p" "$@"'
    return ["sh", "-c", found, python_of(node), ours or installed_executable()]


def ask(
    run: Runner,
    python: Callable[[NodeSpec], Sequence[str]],
    node: NodeSpec,
    request: Mapping[str, Any],
    timeout_s: float,
) -> Any:
    """The probe's answer to `request` on `node`, JSON-ready.

    The probe itself travels with the request, so it works on a PC where nothing of ours is installed, and it is always
    the asking machine's version.

    Raises:
        Unanswered: the node is not reached, has no such Python, or the request could not be carried out there.
    """
    try:
        ran = run(node, [*python(node), "-"], program(request), timeout_s)
    except Unreached as error:
        raise Unanswered(str(error), error.kind) from None
    except subprocess.TimeoutExpired:
        raise Unanswered(f"no answer in {timeout_s:.0f} s", "silent") from None
    except OSError as error:
        raise Unanswered(error.strerror or str(error), "failed") from None
    if ran.code != 0:
        lines = [line.strip() for line in ran.stderr.splitlines() if line.strip()]
        raise Unanswered((lines or [f"exit code {ran.code}"])[-1][:300], "failed")
    try:
        # What a login shell prints on its own stands before the answer.
        return json.loads(ran.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        raise Unanswered(f"not an answer: {ran.stdout[-200:]!r}", "failed") from None


def read_as(kind: type[Reading], answer: Any) -> Reading:
    """A probe's answer as the class that it says it is.

    Raises:
        Unanswered: it is something else.
    """
    try:
        return TypeAdapter(kind).validate_python(answer)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise Unanswered(f"an answer with a wrong {where} ({first['msg']})", "failed") from None


def program(request: Mapping[str, Any]) -> str:
    """A Python program that carries the probe package with it and answers `request`."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cluster/__init__.py", "")
        for path in sorted(Path(cluster.probe.__path__[0]).glob("*.py")):
            archive.write(path, f"cluster/probe/{path.name}")
    encoded = base64.b64encode(packed.getvalue()).decode()
    return _PROGRAM.format(encoded=encoded, request=json.dumps(json.dumps(request)))


# Python imports from an archive only where that is a file. It is gone before the probe measures anything.
_PROGRAM = """
import base64, io, os, sys, tempfile
file, path = tempfile.mkstemp(prefix="vr-probe-", suffix=".zip")
try:
    with os.fdopen(file, "wb") as archive:
        archive.write(base64.b64decode("{encoded}"))
    sys.path.insert(0, path)
    from cluster.probe.__main__ import main
finally:
    os.unlink(path)
sys.stdin = io.StringIO({request})
sys.exit(main())
"""
