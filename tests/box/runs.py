"""Runs in a LAN in a box: a cluster of its hosts, a small data set, and what a run's folder says."""

import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from dataprep.audio.tracks import find_tracks
from dataprep.preparing.prepare import PrepareSettings, prepare
from dataprep.shards.splits import parse_split
from dataprep.synth.songs import write_songs
from jobs.recipe import Recipe
from jobs.runs.folder import RunFolder
from jobs.runs.metrics import read_metrics
from jobs.runs.state_writer import read_events
from tests.lan import SHARED, Host, Lan, await_true
from vr_core.config import to_yaml
from vr_core.specs.stft import StftSpec

PATIENCE_S = 600
_AHEAD_S = 3600
EVERY_S = 0.3
"""Between two looks at a run's folder, whose lines are all read each time."""


def start_cluster(head: Host, *nodes: Host, cpus: int = 1, timings: str | None = None) -> None:
    """A head, and at the same time all nodes of it, of so many CPUs each.

    `timings` names a file in the home folder of each: without it they wait as they do for users.
    """
    waits = () if timings is None else ("--timings", timings)
    head.vr("cluster", "head", "--address", head.address, "--num-cpus", "1", "--yes", *waits)
    with ThreadPoolExecutor() as threads:
        list(threads.map(lambda node: join(head, node, cpus, waits), nodes))


def join(head: Host, node: Host, cpus: int = 1, more: Sequence[str] = ()) -> None:
    """`node`, with a copy of the head's token, joins the cluster of `head`."""
    node.run(["scp", "-q", f"{head.address}:.local/state/vr/token", "token"])
    node.vr("cluster", "join", head.address, "--token-file", "token", "--num-cpus", str(cpus), "--yes", *more)


def share_data(lan: Lan, stft: StftSpec) -> Path:
    """Five invented songs of 3 s in the shared folder; where the hosts find the data set."""
    list(write_songs(lan.shared / "songs", songs=5, seconds=3.0))
    settings = PrepareSettings(stft=stft, workers=1)
    prepare(
        find_tracks([lan.shared / "songs"]).tracks, lan.shared / "data", settings,
        split=parse_split("valid=0.2,test=0.2"),
    )  # fmt: skip
    return Path(SHARED) / "data"


def submit(lan: Lan, head: Host, recipe: Recipe, *more: str) -> "Run":
    """A submitted run of `recipe`, whose `out` is in the shared folder."""
    file = lan.shared / f"{recipe.name}.yaml"
    file.write_text(to_yaml(recipe))
    run = head.vr_json("submit", f"{SHARED}/{file.name}", *more)["run"]
    return Run(lan, lan.shared / recipe.out.relative_to(SHARED) / run)


class Run:
    """What the run's folder says, as this machine sees it."""

    def __init__(self, lan: Lan, folder: Path) -> None:
        self.lan = lan
        self.folder = folder
        self.name = folder.name

    @property
    def state(self) -> dict[str, Any]:
        """`state.json`."""
        state: dict[str, Any] = json.loads((self.folder / "state.json").read_text())
        return state

    def machines(self, fit: str) -> dict[str, str]:
        """Node → host name of the workers of one start, such as 1.2: first attempt, second start."""
        return {machine["labels"]["vr/node"]: machine["host"] for machine in self._told(fit)}

    def await_started(self, fit: str) -> dict[str, str]:
        """`machines` of that start, once all of its workers are there."""

        def started() -> dict[str, str]:
            assert self.state["state"] in ("pending", "running"), self.state
            return self.machines(fit)

        try:
            machines: dict[str, str] = await_true(started, f"start {fit}", PATIENCE_S, EVERY_S)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.seen_on_head()}") from None
        return machines

    def seen_on_head(self) -> str:
        """For a test that fails: the run's state and newest events, who is there, the ends of the head's logs."""
        head = self.lan[self.lan.names[0]]
        said = [f"state: {self.state}", *(f"event: {event}" for event in self.events()[-12:])]
        status = head.run([sys.executable, "-m", "jobs.cli", "cluster", "status"], code=None, timeout_s=60)
        said.append(status.stdout + status.stderr)
        logs = sorted(head.home.glob(".local/state/vr/*.log"))
        logs += sorted(head.folder.glob(f"tmp/**/logs/job-driver-{self.name}.*.log"))
        return "\n".join(said + [f"--- {log.name}\n{log.read_text(errors='replace')[-1500:]}" for log in logs])

    def lines(self, kind: str) -> list[dict[str, Any]]:
        """Records of the run's metrics of one kind."""
        return [line for line in read_metrics(RunFolder(self.folder)) if line["kind"] == kind]

    def events(self) -> list[dict[str, Any]]:
        """What happened to the run, oldest first."""
        return read_events(RunFolder(self.folder))

    def await_steps(self, count: int, since_s: float = 0.0, timeout_s: float = PATIENCE_S) -> list[dict[str, Any]]:
        """The steps that ended after `since_s`, once there are so many of them."""

        def enough() -> list[dict[str, Any]]:
            assert self.state["state"] in ("pending", "running"), self.state
            steps = timely(self.lines("step"), since_s)
            return steps if len(steps) >= count else []

        steps: list[dict[str, Any]] = await_true(enough, f"{count} steps", timeout_s, EVERY_S)
        return steps

    def await_one_more_step(self) -> None:
        """Until the run has got further than it is now."""
        step = self.state["step"]
        assert step < self.state["steps"], "it has ended already"
        await_true(lambda: self.state["step"] > step, f"a step after {step}", PATIENCE_S, EVERY_S)

    def await_event(self, words: str, since_s: float = 0.0) -> dict[str, Any]:
        """The first event after `since_s` that has these words in it."""

        def found() -> dict[str, Any] | None:
            return next((event for event in timely(self.events(), since_s) if words in event["said"]), None)

        event: dict[str, Any] = await_true(found, f"the event: {words}", PATIENCE_S, EVERY_S)
        return event

    def worker_pids(self, fit: str) -> dict[str, int]:
        """Node → the process of its worker, as this machine numbers it."""
        pids = {}
        for machine in self._told(fit):
            host = self.lan[machine["host"]]
            [pids[machine["labels"]["vr/node"]]] = [pid for pid in host.pids() if self.inner_pid(pid) == machine["pid"]]
        return pids

    @staticmethod
    def inner_pid(pid: int) -> int | None:
        """How its own namespace numbers a process."""
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return None
        return int(next(line for line in status.splitlines() if line.startswith("NSpid")).split()[-1])

    def _told(self, fit: str) -> list[dict[str, Any]]:
        machines: list[dict[str, Any]] = json.loads((self.folder / "origin.json").read_text())["machines"].get(fit, [])
        return machines


def timely(lines: Sequence[dict[str, Any]], since_s: float) -> list[dict[str, Any]]:
    """Those of after `since_s`, without those of a PC whose clock was ahead."""
    return [line for line in lines if since_s < line["time_s"] < time.time() + _AHEAD_S]


def pace(lan: Lan, cores: dict[str, float], pids: dict[str, int]) -> None:
    """Give the workers of hosts so many cores, and not what else runs there."""
    for name, part in cores.items():
        if name in pids:
            lan[name].cpu(part, [pids[name]])


def items_per_s(steps: list[dict[str, Any]]) -> float:
    """Of some steps in a row, lines of metrics.jsonl."""
    return sum(sum(step["shares"]) for step in steps) / sum(step["step_s"] for step in steps)
