"""Processes that outlive the command that started them: started, recognised again, and ended with all they started."""

import functools
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from cluster.errors import ClusterFailure
from cluster.node.ray_start import MARKER
from vr_core.config import Spec


class ProcessRef(Spec):
    """One process, recognised by more than its number: a number is given to another process some day."""

    name: str
    pid: int
    start_ticks: int
    """Clock ticks from boot to its start; unlike a date it does not move when the clock is set."""
    boot_id: str
    log: Path


_POLL_S = 0.05

# Popen complains when it is collected before its process has ended, and these processes are meant to go on.
_started: list[subprocess.Popen[bytes]] = []


def spawn(name: str, argv: Sequence[str], environment: Mapping[str, str], log: Path, folder: Path) -> ProcessRef:
    """Start `argv` in a session of its own, so that no closing terminal ends it; its output goes to `log`."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            argv,
            env=dict(environment),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _started[:] = [*(started for started in _started if started.poll() is None), process]
    ticks = start_ticks_of(process.pid)
    if ticks is None:
        raise ClusterFailure(f"{name}: ended at once; see {log}")
    return ProcessRef(name=name, pid=process.pid, start_ticks=ticks, boot_id=boot_id(), log=log)


def alive(ref: ProcessRef) -> bool:
    """Whether the very process of `ref` still runs."""
    return ref.boot_id == boot_id() and start_ticks_of(ref.pid) == ref.start_ticks


def family(refs: Iterable[ProcessRef], member_id: str) -> list[psutil.Process]:
    """The processes of `refs` and all that they started, directly or not, without this process.

    A child is found by its parent and, where the parent is gone, by the marker that the environment hands down. Ray's
    agents write their names over their environment: for those the session tells, which `spawn` made.
    """
    found: dict[int, psutil.Process] = {}
    sessions = set()
    for ref in refs:
        # A session keeps its number from being given away; if a stranger has the number, the session is over.
        if ref.boot_id == boot_id() and start_ticks_of(ref.pid) in (ref.start_ticks, None):
            sessions.add(ref.pid)
        if alive(ref):
            process = psutil.Process(ref.pid)
            for member in (process, *process.children(recursive=True)):
                found[member.pid] = member
    marker = f"{MARKER}={member_id}".encode()
    for process in psutil.process_iter():
        try:
            environment = Path(f"/proc/{process.pid}/environ").read_bytes()
            overwritten = environment.startswith(b"\0") and os.getsid(process.pid) in sessions
        except OSError:
            continue  # ended meanwhile, or another user's
        if overwritten or marker in environment.split(b"\0"):
            found[process.pid] = process
    found.pop(os.getpid(), None)
    return [process for process in found.values() if start_ticks_of(process.pid) is not None]


def end(refs: Sequence[ProcessRef], member_id: str, grace_s: float = 20.0) -> None:
    """End the processes of `refs` in order, and then whatever they started that is left.

    SIGTERM to each of `refs` lets Ray end its own; what remains after `grace_s` gets SIGKILL.

    Raises:
        ClusterFailure: something survives even that.
    """
    members = family(refs, member_id)
    for ref in refs:
        if alive(ref):
            process = psutil.Process(ref.pid)
            _signal([process], signal.SIGTERM)
            _wait_gone([process], timeout_s=grace_s)
    members = _distinct([*members, *family(refs, member_id)])
    _signal(members, signal.SIGTERM)
    _wait_gone(members, timeout_s=3.0)
    members = _distinct([*members, *family(refs, member_id)])
    _signal(members, signal.SIGKILL)
    left = _wait_gone(members, timeout_s=10.0)
    if left:
        raise ClusterFailure(f"processes {', '.join(str(p.pid) for p in left)}: still there after SIGKILL; look at ps")


def end_session(grace_s: float = 3.0) -> None:
    """End the processes of this process's session but itself: what an ended child of it has left."""
    session = os.getsid(0)

    def others() -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) == session and process.pid != os.getpid():
                    found.append(process)
            except OSError:
                continue  # ended meanwhile
        return _distinct(found)

    _signal(others(), signal.SIGTERM)
    _wait_gone(others(), timeout_s=grace_s)
    _signal(others(), signal.SIGKILL)
    _wait_gone(others(), timeout_s=grace_s)


def _distinct(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    return [p for p in dict.fromkeys(processes) if p.is_running() and start_ticks_of(p.pid) is not None]


def _signal(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(number)  # psutil checks the start time first
        except psutil.NoSuchProcess:
            continue


def _wait_gone(processes: Sequence[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Those that are left when all have ended, or after `timeout_s`.

    A zombie has ended; only its parent can clear it away, and psutil would wait for that.
    """
    deadline = time.monotonic() + timeout_s
    while (left := _distinct(processes)) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return left


def start_ticks_of(pid: int) -> int | None:
    """Field 22 of /proc/<pid>/stat; None where there is no such process, or a zombie."""
    try:
        # The second field is the name in parentheses and may hold spaces and parentheses itself.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def boot_id() -> str:
    """Random id of this boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@functools.cache
def machine_id(etc: Path = Path("/etc"), cards: Path = Path("/sys/class/net")) -> str:
    """What this PC has in every boot and no other has: its installation's id and its network cards; "" where unknown.

    Not the host's name, and not the id alone: a disk that was copied to another PC brings both along.
    """
    try:
        installed = (etc / "machine-id").read_text().strip()
        # A card without a device is a bridge or a tunnel, whose address is another one after each boot.
        own = sorted((card / "address").read_text().strip() for card in cards.iterdir() if (card / "device").exists())
    except OSError:
        return ""
    return "/".join([installed, *own]) if installed and own else ""


class Now(NamedTuple):
    """A moment by this machine's clock from boot, which nobody sets; processes of one boot can compare theirs."""

    boot_id: str
    since_boot_s: float
    """Suspended hours included."""


def now() -> Now:
    """This moment."""
    return Now(boot_id(), time.clock_gettime(time.CLOCK_BOOTTIME))
