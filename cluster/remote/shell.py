"""One command on one other PC, by the system's `ssh`: agent, configuration and jump hosts are as the user has them.

Whatever is secret goes through stdin: a command line is seen by everybody on both PCs.
"""

import re
import shlex
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from cluster.errors import ClusterError
from cluster.inventory import NodeSpec

# A question (a password, an unknown host) would wait for ever where nobody sees it; so would a PC that went off.
# The first value that ssh meets counts: these win over the inventory's and the user's.
_OPTIONS = (
    "-o",
    "BatchMode=yes",
    "-o",
    "ConnectTimeout=5",
    "-o",
    "ServerAliveInterval=5",
    "-o",
    "ServerAliveCountMax=4",
)
_POLL_S = 0.2
_OWN_ERROR = 255
"""Exit code of ssh itself; the commands that we send end with others."""
_SILENT = re.compile(r"ssh: connect to host (\S+) port (\d+): (?:Connection timed out|No route to host|Host is down)")
_LOST = re.compile(r"not responding|closed by remote host|Broken pipe|Connection reset")
_PLAIN_WORD = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")


class Result(NamedTuple):
    """A command that has ended."""

    code: int
    stdout: str
    stderr: str
    seconds: float


UnreachedKind = Literal["off", "silent", "refused"]
"""Why a PC is not reached.

off: nothing answers at its address, or it is not in this network; silent: no answer in time, or no more; refused:
something answers there, and ssh does not get in.
"""


class Unreached(Exception):
    """ssh did not get through to the PC, or lost it; the message is the reason, for people."""

    def __init__(self, reason: str, kind: UnreachedKind) -> None:
        super().__init__(reason)
        self.kind = kind


class Stopped(Exception):
    """The command was ended because the user does not want to wait for it."""


def login(node: NodeSpec) -> str:
    """`sam@192.168.1.11`, or the address alone where the inventory names no user."""
    return f"{node.user}@{node.address}" if node.user else node.address


def ssh_argv(node: NodeSpec, argv: Sequence[str]) -> list[str]:
    """The command that runs `argv` on `node`, quoted for the shell that sshd starts there."""
    return ["ssh", *_OPTIONS, *node.ssh, login(node), "--", shlex.join(argv)]


def rsync_argv(node: NodeSpec, source: Path, target: PurePosixPath, keep: Sequence[str]) -> list[str]:
    """The command that makes `target` (in the home folder there) equal to `source`, but for the names in `keep`."""
    through = " ".join(_rsync_quoted(word) for word in ("ssh", *_OPTIONS, *node.ssh))
    kept = [f"--exclude=/{name}" for name in keep]
    # Times tell too little of a copy: two versions of a file may have the same size and second.
    options = ["--archive", "--no-owner", "--no-group", "--checksum", "--delete", *kept, f"--rsh={through}"]
    return ["rsync", *options, "--", f"{source}/", f"{login(node)}:{target}/"]


def _rsync_quoted(word: str) -> str:
    # rsync splits at spaces itself and knows no backslash; a doubled single quote is one.
    return word if _PLAIN_WORD.fullmatch(word) else "'" + word.replace("'", "''") + "'"


def run(
    node: NodeSpec, argv: Sequence[str], *, stdin: str = "", timeout_s: float, stop: threading.Event | None = None
) -> Result:
    """Run `argv` on `node`, to its end, whatever its exit code.

    Raises:
        Unreached: ssh did not get through, or the PC did not answer in time.
        Stopped: `stop` was set.
    """
    return _to_its_end(ssh_argv(node, argv), stdin, timeout_s, stop or threading.Event())


def copy(
    node: NodeSpec,
    source: Path,
    target: PurePosixPath,
    *,
    keep: Sequence[str] = (),
    timeout_s: float,
    stop: threading.Event | None = None,
) -> Result:
    """Make the folder `target` on `node` equal to `source` (`rsync_argv`); the folder above it must be there.

    Raises:
        Unreached, Stopped: as `run`.
        ClusterError: there is no rsync on this machine.
    """
    return _to_its_end(rsync_argv(node, source, target, keep), "", timeout_s, stop or threading.Event())


def _to_its_end(argv: Sequence[str], stdin: str, timeout_s: float, stop: threading.Event) -> Result:
    start = time.monotonic()
    try:
        process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
        )
    except FileNotFoundError:
        raise ClusterError(f"{argv[0]}: not on this PC; type: sudo apt install openssh-client rsync") from None
    given: str | None = stdin
    while True:
        try:
            stdout, stderr = process.communicate(given, timeout=_POLL_S)
            break
        except subprocess.TimeoutExpired:
            given = None  # it is on its way
            seconds = time.monotonic() - start
            if stop.is_set() or seconds > timeout_s:
                process.kill()
                process.communicate()
                if stop.is_set():
                    raise Stopped from None
                raise Unreached(f"no answer in {seconds:.0f} s", "silent") from None
    if process.returncode == _OWN_ERROR:
        raise unreached(stderr)
    return Result(process.returncode, stdout, stderr, time.monotonic() - start)


def unreached(stderr: str) -> Unreached:
    """What ssh's own words mean: it says in no other way what it met, and only here are they read.

    A jump host's words come first and say more than what follows from them.
    """
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    silent = _SILENT.search(stderr)
    if silent:
        return Unreached(f"no answer at {silent[1]}:{silent[2]}", "off")
    own = [line for line in lines if line.startswith("ssh: ")]
    return Unreached([*own[:1], *lines[-1:], "ssh failed"][0], "silent" if _LOST.search(stderr) else "refused")
