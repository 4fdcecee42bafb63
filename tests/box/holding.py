"""Who holds a LAN in a box: the namespaces of hosts and switch, and the watcher, which clears up after them."""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from tests.box.cgroups import Groups, enter

PROCESS = [sys.executable, "-I", "-S", str(Path(__file__).with_name("process.py"))]
_PR_SET_PDEATHSIG = 1


def hold(
    namespaces: Sequence[str], argv: Sequence[str], entrances: Sequence[Path], environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """`argv`, which says `ready`, as the first process of new namespaces.

    What this gives ends with the calling thread, however that ends; and with it, `argv` and all in its namespaces.

    Raises:
        AssertionError: it said something else.
    """
    caller = os.getpid()

    def before() -> None:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != caller:
            os._exit(1)  # it ended before it could be asked to be told
        enter(entrances)

    holder = subprocess.Popen(
        ["unshare", *namespaces, "--pid", "--fork", "--kill-child", "--", *argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,  # what `unshare` says of a killed child goes nowhere, what a boot says is read here
        env=dict(environment),
        preexec_fn=before,
        start_new_session=True,
    )
    assert holder.stdout is not None
    with holder.stdout as output:
        said = output.readline()
        assert said == b"ready\n", f"did not start: {(said + output.read()).decode()}"
    return holder


def held(holder: subprocess.Popen[bytes]) -> int:
    """The first process of the namespaces, as this machine numbers it."""
    # `unshare --fork` has one child, the first process of the new process namespace.
    return int(Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()[0])


def pids_beside(pid: int) -> list[int]:
    """All processes in the process namespace of `pid`, as this machine numbers them; the first one first."""
    namespace, found = os.readlink(f"/proc/{pid}/ns/pid"), []
    for other in psutil.pids():
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{other}/ns/pid") == namespace:
                found.append(other)
    return found


def watch(folder: Path, groups: Groups) -> subprocess.Popen[bytes]:
    """The process that removes folders and cgroups when this one has closed the pipe to it, or has died."""
    plan = {"folders": [str(folder)], "groups": [str(group) for group in groups.folders]}
    return subprocess.Popen(
        [*PROCESS, "watch", json.dumps(plan)], stdin=subprocess.PIPE, start_new_session=True, cwd="/"
    )
