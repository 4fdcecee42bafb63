"""Wall and CPU seconds of each test module: a pytest plugin, part of every run of the suite.

A module's CPU is that of the test process and of all processes that its tests started, at any depth. They are known by
the mark in their environment and read twice a second, so that of each up to half a second at its end goes unseen.
Set-up of what a whole run shares counts for the module that asked for it first.
"""

import contextlib
import json
import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.started import MARK, marked

EVERY_S = 0.5
SHOWN = 10
_SENT = "module_costs"


class Meter(threading.Thread):
    """CPU seconds so far of this process and of all that carry its mark, ended ones included."""

    def __init__(self, mark: str) -> None:
        super().__init__(daemon=True, name="costs")
        self._mark = mark
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._ours: dict[tuple[int, float], bool] = {}
        self._cpu_s: dict[tuple[int, float], float] = {}

    def run(self) -> None:
        while not self._ended.wait(EVERY_S):
            # A pytest within a pytest empties sys.modules for a moment, in which psutil looks for itself.
            with contextlib.suppress(KeyError):
                self.read()

    def end(self) -> None:
        self._ended.set()
        self.join()

    def read(self) -> float:
        """CPU seconds until now."""
        with self._lock:
            for process in psutil.process_iter():
                with contextlib.suppress(psutil.Error):
                    name = process.pid, process.create_time()
                    if name not in self._ours:
                        self._ours[name] = marked(process, self._mark)
                    if self._ours[name]:
                        times = process.cpu_times()
                        self._cpu_s[name] = times.user + times.system
            return sum(self._cpu_s.values()) + time.process_time()


class Costs:
    """Adds up per module in each test process; the process that reports gets all sums and shows them."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._modules: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self._cpu_s = meter.read()
        meter.start()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
        start_s = time.monotonic()
        module = self._modules[item.nodeid.partition("::")[0]]
        try:
            return (yield)
        finally:
            module[0] += time.monotonic() - start_s
            # Reading all processes takes some milliseconds, and there are modules of a hundred short tests.
            if nextitem is None or nextitem.path != item.path:
                cpu_s = self._meter.read()
                module[1] += cpu_s - self._cpu_s
                self._cpu_s = cpu_s

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self._meter.end()
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput[_SENT] = dict(self._modules)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: object) -> None:
        for module, (wall_s, cpu_s) in getattr(node, "workeroutput", {}).get(_SENT, {}).items():
            self._modules[module][0] += wall_s
            self._modules[module][1] += cpu_s

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
        rows = sorted(((w, c, m) for m, (w, c) in self._modules.items()), reverse=True)
        if config.option.costs is not None:
            table = [{"module": m, "wall_s": round(w, 2), "cpu_s": round(c, 2)} for w, c, m in rows]
            Path(config.option.costs).write_text(json.dumps(table, indent=1) + "\n")
        terminalreporter.section(f"the {min(SHOWN, len(rows))} longest of {len(rows)} modules")
        terminalreporter.line("wall s   CPU s  module")
        for wall_s, cpu_s, module in rows[:SHOWN]:
            terminalreporter.line(f"{wall_s:6.1f}  {cpu_s:6.1f}  {module}")
        all_wall_s, all_cpu_s = sum(row[0] for row in rows), sum(row[1] for row in rows)
        terminalreporter.line(f"{all_wall_s:6.1f}  {all_cpu_s:6.1f}  all, in as many processes as the run had")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--costs", metavar="FILE", help="write wall and CPU seconds of every test module there, as JSON")


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Costs(Meter(os.environ[MARK])), "costs-of-modules")
