"""The one LAN in a box with a cluster in it that a whole run of the tests shares.

Modules borrow it one after the other (`standing_lan`) and give it back as they found it. How it is then is compared
with how it was: a dirty box is closed, the module that left it so fails by name, and the next one gets another. A
module marked `breaks` gives nothing back.
"""

import contextlib
import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from jobs.queue.table import Ledger
from tests.box.runs import start_cluster
from tests.lan import Host, Lan, require
from tests.quick_timings import write_quick

HEAD, NODES = "attic", ("study", "den")
BARE, OFF = "cellar", "loft"
"""A PC that is on and in no cluster, and one whose plug is pulled."""
STATE = ".local/state/vr"
SETTLING_S = 60.0
"""Processes of a job that has just ended are on their way out so long at the most."""

Traces = dict[str, Counter[str]]
"""Kind of trace → what there is of it, each with the host's name where it is a host's."""


def set_up() -> Lan:
    """The box with its cluster."""
    require()
    lan = Lan(HEAD, *NODES, OFF, BARE).__enter__()
    try:
        lan[OFF].kill()
        [timings] = {write_quick(lan[name].home).name for name in (HEAD, *NODES)}
        start_cluster(lan[HEAD], *(lan[name] for name in NODES), timings=timings)
    except BaseException:
        lan.__exit__()
        raise
    return lan


class Standing:
    """The box, made when it is first borrowed, and anew after a borrower that spoilt it."""

    def __init__(self, make: Callable[[], Lan], look: Callable[[Lan], Traces], settling_s: float = SETTLING_S) -> None:
        """`make` gives an open box; `look` gives what must be the same before and after, `settling_s` later at last."""
        self._make, self._look, self._settling_s = make, look, settling_s
        self._lan: Lan | None = None
        self._found: Traces = {}

    @contextlib.contextmanager
    def lent(self, borrower: str, *, breaks: bool = False) -> Iterator[Lan]:
        """The box for one module, with an empty shared folder.

        Raises:
            pytest.fail.Exception: the borrower did not give it back as it was; says what is different.
        """
        if self._lan is None:
            self._lan = self._make()
            self._found = self._look(self._lan)
        lan = self._lan
        yield lan
        if breaks:
            return self.close()
        if left := self._left():
            self.close()
            pytest.fail(f"{borrower} leaves the standing box other than it found it:\n  " + "\n  ".join(left), False)
        for path in lan.shared.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return None

    def close(self) -> None:
        """End the box, if there is one."""
        if self._lan is not None:
            self._lan.__exit__()
            self._lan = None

    def _left(self) -> list[str]:
        """What is other than it was, once that is nothing or stays."""
        assert self._lan is not None
        deadline = time.monotonic() + self._settling_s
        while (left := differences(self._found, self._look(self._lan))) and time.monotonic() < deadline:
            time.sleep(0.5)
        return left


def differences(before: Traces, after: Traces) -> list[str]:
    """Lines that say what has come and what has gone."""
    lines = []
    for kind in before | after:
        had, has = before.get(kind, Counter()), after.get(kind, Counter())
        lines += [f"{kind}: {what} is new" for what in sorted((has - had).elements())]
        lines += [f"{kind}: {what} is gone" for what in sorted((had - has).elements())]
    return lines


def traces(lan: Lan) -> Traces:
    """All of a box and its cluster that a borrower may not change."""
    found = {"runs": Counter(row.run for row in Ledger(lan[HEAD].home / STATE).rows(only_open=True))}
    if lan[HEAD].is_on:
        done = lan[HEAD].run([sys.executable, "-m", "jobs.cli", "cluster", "status", "--json"], code=None)
        if done.returncode == 0:
            rows = json.loads(done.stdout)["nodes"]
            found["nodes"] = Counter(" ".join([row["name"], row["state"], *row["runs"]]) for row in rows)
        else:
            found["nodes"] = Counter(["none: no head answers"])
    return found | traces_of_hosts(lan)


def traces_of_hosts(lan: Lan) -> Traces:
    """All of a box that a borrower may not change."""
    found: dict[str, list[str]] = {"on": [], "limits": [], "mounts": [], "processes": [], "home": []}
    for host in lan.hosts.values():
        found["home"] += [f"{host.name}: {path.name}" for path in host.home.iterdir() if path.name[0] != "."]
        if host.is_on:
            found["on"].append(host.name)
            found["limits"] += [f"{host.name}: {limit}" for limit in lan.groups.limits(host.name)]
            found["mounts"] += [f"{host.name}: {mount}" for mount in mounts(host)]
            found["processes"] += [f"{host.name}: {process}" for process in processes(host)]
    found["cables"] = cables(lan)
    return {kind: Counter(entries) for kind, entries in found.items()}


def mounts(host: Host) -> list[str]:
    """Where something is mounted on the host."""
    return [line.split()[4] for line in Path(f"/proc/{host.pid}/mountinfo").read_text().splitlines()]


def cables(lan: Lan) -> list[str]:
    """Ports of the switch that are in use, each with the queue of its cable."""
    up = [line.split()[0].partition("@")[0] for line in lan.switch("-br", "link", "show", "up").splitlines()]
    return [f"{port} {lan.queue(port)}" for port in up if port.startswith("port")]


def processes(host: Host) -> set[str]:
    """What runs on the host beside Ray, which starts and ends its own as it needs them: programs, or what Python runs.

    Which workers a run has is among what the head tells of its nodes.
    """
    found = set()
    for pid in host.pids():
        with contextlib.suppress(psutil.Error):
            words = psutil.Process(pid).cmdline()
            if not words or words[0].startswith("ray") or any("/ray/" in word for word in words):
                continue
            name = Path(words[0].split()[0]).name
            if name.startswith("python"):
                scripts = [Path(word).name for word in words if word.endswith(".py")]
                name = f"python {words[words.index('-m') + 1] if '-m' in words else ''.join(scripts[:1])}"
            found.add(name)
    return found
