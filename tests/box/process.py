"""The two kinds of processes that make a LAN in a box, run as a script: the first process of a host, and the watcher.

Standard library only, and nothing of ours: `python -I -S tests/box/process.py` starts in milliseconds.
"""

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

CLEANING_S = 120.0
"""The kernel needs a moment to end the processes of a cgroup; after this long the watcher gives up."""


def main(arguments: Sequence[str]) -> int:
    """`host JSON`: be the first process of a host. `watch JSON`: remove what a box leaves when it has ended."""
    kind, plan = arguments[0], json.loads(arguments[1])
    if kind == "host":
        boot(**plan)
    return watch([Path(folder) for folder in plan["folders"]], [Path(group) for group in plan["groups"]])


def boot(name: str, binds: Sequence[tuple[str, str]], keep: Sequence[str]) -> None:
    """Set up the mount and UTS namespaces that this process is alone in, say so, and reap until the end.

    Args:
        name: the host's name.
        binds: (folder or file of the box, what it covers on the host).
        keep: files that must stay where they are, also below something that is covered: Python, the tree under test.
    """
    socket.sethostname(name)
    for source, target in binds:
        for path in keep:
            if path.startswith(f"{target}/"):
                hole = Path(source, path.removeprefix(f"{target}/"))
                hole.mkdir(parents=True, exist_ok=True)
                _mount("--rbind", path, str(hole))
        if Path(target).exists():
            _mount("--rbind", source, target)
    for folder in ("/run", "/dev/shm"):
        _mount("-t", "tmpfs", "tmpfs", folder)
    Path("/run/sshd").mkdir(mode=0o755)
    # That of the machine shows the machine's network cards. A process looks for its own limits below it.
    limits = Path("/run/cgroup")
    limits.mkdir()
    _mount("--rbind", "/sys/fs/cgroup", str(limits))
    _mount("-t", "sysfs", "sysfs", "/sys")
    _mount("--rbind", str(limits), "/sys/fs/cgroup")
    # Connections of ended processes keep a network namespace alive while they say goodbye to nobody.
    Path("/proc/sys/net/ipv4/tcp_orphan_retries").write_text("1")
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    os.write(1, b"ready\n")
    for output in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    while True:
        # Whatever loses its parent becomes a child of the first process.
        signal.sigwaitinfo({signal.SIGCHLD})
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def watch(folders: Sequence[Path], groups: Sequence[Path]) -> int:
    """Wait for the end of the process that holds the box, however it comes; 0 once nothing is left of the box."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # A closed pipe is the regular end; a copy of its other end in a forked child would outlive a killed holder.
    with contextlib.suppress(ProcessLookupError):
        select.select([0, os.pidfd_open(os.getppid())], [], [])
    deadline = time.monotonic() + CLEANING_S
    while time.monotonic() < deadline:
        for group in groups:
            _empty(group)
        for folder in folders:
            for mounted in filter(os.path.ismount, folder.glob("*")):
                subprocess.run(["umount", "--lazy", mounted], check=False)
            shutil.rmtree(folder, ignore_errors=True)
        if not any(path.exists() for path in (*folders, *groups)):
            return 0
        time.sleep(0.05)
    return 1


def _empty(group: Path) -> None:
    """End what is left in a cgroup and those below, and remove them: folders whose files cannot be removed."""
    for inner in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
        _empty(inner)
    with contextlib.suppress(OSError):
        for pid in (group / "cgroup.procs").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
    with contextlib.suppress(OSError):
        group.rmdir()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
