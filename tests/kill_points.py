"""Every call at which a command may be killed: one warm process, a forked child for each, and what is left afterwards.

A child runs the command and kills itself (SIGKILL) before its n-th call that opens a file for writing, renames, links,
removes, makes a folder or syncs. Then another child runs the same command to its end. All files must be those of an
undisturbed one, bit for bit.

    python -m tests.kill_points SCENARIO FOLDER [EVERY]     prints {"points": N, "wrong": [[n, call, what], …]}

`tests/test_kill_points.py` lists the scenarios. No torch is used before a fork: its threads would be missing after it.
"""

import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_REMOVING = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate", "os.symlink")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass(frozen=True)
class Scenario:
    """A command, and the folder that it is given."""

    make: Callable[[Path], None]
    """What is there before."""
    act: Callable[[Path], None]
    """The command: the same again after a kill."""
    shown: Callable[[str, bytes], Any] = lambda name, content: content
    """What of a file is compared: without times and ids that differ by chance; None where it may be missing."""


def forked(work: Callable[[], None]) -> int | str:
    """Run `work` in a forked child: 0 where it came to its end, -9 where it was killed, else what it printed."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(read)
            work()
            code = 0
        except BaseException as error:
            os.write(write, f"{type(error).__name__}: {error}"[:500].encode())
        finally:
            os._exit(code)
    os.close(write)
    with open(read, "rb") as pipe:
        said = pipe.read().decode(errors="replace")
    _, status = os.waitpid(pid, 0)
    return said or os.waitstatus_to_exitcode(status)


def killed_at(point: int, folder: Path, notes: Path) -> None:
    """From here on this process dies before its call number `point` that changes something below `folder`."""
    seen = 0

    def count(call: str) -> None:
        nonlocal seen
        seen += 1
        if seen == point:
            with open(os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "w") as file:
                file.write(call)
            os.kill(os.getpid(), signal.SIGKILL)

    inside = False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal inside
        if inside:
            return
        inside = True
        try:
            if event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING:
                if str(arguments[0]).startswith((str(folder), "/proc/self/fd/")):
                    count(f"open {Path(str(arguments[0])).name}")
            elif event in _REMOVING:
                count(f"{event} {Path(str(arguments[0])).name}")
        finally:
            inside = False

    sync = os.fsync
    os.fsync = lambda handle: (count("fsync"), sync(handle))[1]
    sys.addaudithook(hook)


def contents(folder: Path, shown: Callable[[str, bytes], Any]) -> dict[str, Any]:
    """Every file below, by name."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not _is_lock(path))
    found = {(name := str(path.relative_to(folder))): shown(name, path.read_bytes()) for path in files}
    return {name: content for name, content in found.items() if content is not None}


def _is_lock(path: Path) -> bool:
    """Files of locks stay, empty."""
    return ".lock" in (path.name, path.suffix)


def run(scenario: Scenario, place: Path, every: int = 1) -> dict[str, Any]:
    """Kill at each point, or at every so many of them, and compare."""
    base, work, notes = place / "base", place / "work", place / "call"
    work.mkdir(parents=True)
    if (said := forked(lambda: scenario.make(work))) != 0:
        raise RuntimeError(f"make: {said}")
    shutil.copytree(work, base)

    def again() -> None:
        shutil.rmtree(work)
        shutil.copytree(base, work)

    if (said := forked(lambda: scenario.act(work))) != 0:
        raise RuntimeError(f"act: {said}")
    wanted = contents(work, scenario.shown)
    wrong: list[tuple[int, str, str]] = []
    points = 0
    for point in range(1, 10_000, every):
        again()
        ended = forked(lambda point=point: (killed_at(point, place, notes), scenario.act(work))[1])
        call = notes.read_text() if notes.exists() else ""
        if ended == 0:
            break
        points += 1
        if ended != -signal.SIGKILL:
            wrong.append((point, call, f"killed: {ended}"))
            continue
        ended = forked(lambda: scenario.act(work))
        found = contents(work, scenario.shown)
        if ended != 0:
            wrong.append((point, call, f"again: {ended}"))
        elif found != wanted:
            differ = sorted(n for n in {*found, *wanted} if found.get(n) != wanted.get(n))
            wrong.append((point, call, f"differs: {', '.join(differ)[:300]}"))
    return {"points": points, "wrong": wrong}


def main() -> None:
    """One scenario, as the module's docstring says."""
    from tests.kill_scenarios import SCENARIOS

    name, place, *every = sys.argv[1:]
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(place)
    print(json.dumps(run(SCENARIOS[name], Path(place), int(every[0]) if every else 1)))


if __name__ == "__main__":
    main()
