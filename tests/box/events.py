"""What happens to a run's PCs at home, each as one function, and what is then seen of it.

`EVENTS` is the table: the soak and the test take them by name, the benchmark `recovery` measures some.
"""

import contextlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.box.runs import EVERY_S, PATIENCE_S, Run, join, pace, timely
from tests.lan import SHARED, Host, Lan, await_true

Figures = dict[str, float]
STALL_S = 4.0


@dataclass
class Scene:
    """A run on some hosts, of which the first is the head."""

    lan: Lan
    run: Run
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    """Chooses whom it happens to."""
    cut: list[str] = field(default_factory=list)
    """Hosts without a cable."""
    drained: list[str] = field(default_factory=list)
    returned: str = ""
    """Host that came back by itself last."""
    slowed: str = ""
    """Host whose worker was made slower last."""

    @property
    def head(self) -> Host:
        """The PC with Ray's head and the keeper."""
        return self.lan[self.lan.names[0]]

    @property
    def newest(self) -> str:
        """The last start whose workers were all there, such as 1.2."""
        machines = json.loads((self.run.folder / "origin.json").read_text())["machines"]
        return str(list(machines)[-1])

    @property
    def attempt(self) -> int:
        """The newest."""
        return max(int(folder.name) for folder in (self.run.folder / "attempts").iterdir())

    def log(self) -> str:
        """What `vr jobs logs` prints of the newest attempt."""
        [file] = self.head.folder.glob(f"tmp/**/logs/job-driver-{self.run.name}.a{self.attempt}.log")
        return file.read_text()

    def workers(self) -> list[str]:
        """Hosts of the newest start."""
        return sorted(self.run.machines(self.newest))

    def someone(self, *, not_the_head: bool = False) -> str:
        """One of the workers' hosts."""
        return self.rng.choice([name for name in self.workers() if not (not_the_head and name == self.head.name)])

    def around(self, act: Callable[[], None], told: str, workers: int | None = None) -> Figures:
        """Seconds from `act` to each thing that follows it, and the steps that were computed again.

        Args:
            act: makes it happen.
            told: words of the event that the user reads.
            workers: of the start that follows; as many as before without it.
        """
        before = self.run.await_steps(1, time.time())[-1]
        count = workers or len(before["busy_s"])
        acted_s = time.time()
        act()
        noticed = self.run.await_event(told, acted_s)
        there = self.run.await_event("all workers are there", acted_s)

        def stepped() -> dict[str, Any] | None:
            steps = timely(self.run.lines("step"), there["time_s"])
            return next((step for step in steps if len(step["busy_s"]) == count), None)

        first = await_true(stepped, f"the next step of {count}", PATIENCE_S, EVERY_S)
        print(f"{told}: {first['time_s'] - acted_s:.1f} s", file=sys.stderr, flush=True)
        earlier_s = [s["time_s"] for s in timely(self.run.lines("step"), 0) if s["step"] < first["step"]]
        still_s = first["time_s"] - max(earlier_s, default=acted_s)  # none: there was no checkpoint yet
        return {
            "noticed_s": noticed["time_s"] - acted_s,
            "group_s": there["time_s"] - noticed["time_s"],
            "first_step_s": first["time_s"] - there["time_s"],
            "in_all_s": first["time_s"] - acted_s,
            "stood_still_s": still_s,
            "steps_again": max(0, max(before["step"], noticed["step"]) + 1 - first["step"]),
        }


def worker_killed(scene: Scene) -> Figures:
    """A worker's process ends: goes on by itself on the same PCs."""
    pid = scene.run.worker_pids(scene.newest)[scene.someone()]
    return scene.around(lambda: os.kill(pid, signal.SIGKILL), "died")


def cable_pulled(scene: Scene) -> Figures:
    """A PC falls silent: noticed, goes on with the rest."""
    name = scene.someone(not_the_head=True)
    scene.cut.append(name)
    return scene.around(scene.lan[name].cut, f"{name} is not responding", len(scene.workers()) - 1)


def pc_back(scene: Scene) -> Figures:
    """Its cable is in again, and somebody has it join again at once: with a checkpoint first."""
    name = scene.cut.pop()
    return scene.around(lambda: come_back(scene.lan, name), f"{name} joins", len(scene.workers()) + 1)


def cable_back(scene: Scene) -> Figures:
    """Its cable is in again: it hears that it was given up and ends its Ray, and its supervisor starts another."""
    name = scene.returned = scene.cut.pop()
    return scene.around(scene.lan[name].mend, f"{name} joins", len(scene.workers()) + 1)


def pc_drained(scene: Scene) -> Figures:
    """`vr cluster drain`: leaves it with a checkpoint, no step is computed twice."""
    name = scene.someone(not_the_head=True)
    scene.drained.append(name)

    def drain() -> None:
        scene.head.vr("cluster", "drain", name, "--for", "2h", "--yes")

    return scene.around(drain, f"{name} is drained", len(scene.workers()) - 1)


def pc_undrained(scene: Scene) -> Figures:
    """`vr cluster undrain`: joins again."""
    name = scene.drained.pop()

    def undrain() -> None:
        scene.head.vr("cluster", "undrain", name)

    return scene.around(undrain, f"{name} joins", len(scene.workers()) + 1)


def driver_killed(scene: Scene) -> Figures:
    """The supervisor's process ends: the keeper submits the run anew."""
    return scene.around(lambda: kill_driver(scene.run), f"start {scene.attempt + 1}.1: ")


def heads_ray_killed(scene: Scene) -> Figures:
    """All of Ray on the head ends: it is started again, and the run submitted anew."""
    return scene.around(lambda: kill_ray(scene.head), f"start {scene.attempt + 1}.1: ")


def storage_away(scene: Scene) -> Figures:
    """No PC sees the shared folder until a checkpoint fails for that, and then all do: nothing is lost."""

    def away() -> None:
        for host in scene.lan.on:
            host.run(["mount", "-t", "tmpfs", "tmpfs", SHARED])

    def back() -> None:
        for host in scene.lan.on:
            host.run(["umount", "--lazy", SHARED])

    return share_gone(scene, away, back)


def share_gone(scene: Scene, begin: Callable[[], None], end: Callable[[], None]) -> Figures:
    """From `begin` to `end` nothing can be written to the shared folder; it ends when a checkpoint has failed."""
    before = scene.run.await_steps(1, time.time())[-1]
    away_s, said = time.time(), len(scene.log())
    begin()
    try:
        await_true(
            lambda: "training goes on" in scene.log()[said:], "a checkpoint that cannot be written", PATIENCE_S, EVERY_S
        )
    finally:
        end()
    back_s = time.time()
    first = scene.run.await_steps(1, back_s)[0]
    await_true(
        lambda: "the storage is back" in scene.log()[said:], "the checkpoint that was put off", PATIENCE_S, EVERY_S
    )
    steps = [line["step"] for line in timely(scene.run.lines("step"), away_s)]
    return {
        "away_s": back_s - away_s,
        "first_step_s": first["time_s"] - back_s,
        "steps_again": max(0, before["step"] + 1 - min(steps)),
    }


def share_away_on_one(scene: Scene) -> Figures:
    """A worker dies and its PC does not see the shared folder for a while: the run starts until it is mounted again."""
    name = scene.someone(not_the_head=True)
    pid = scene.run.worker_pids(scene.newest)[name]

    def away() -> None:
        died_s = time.time()
        scene.lan[name].run(["mount", "-t", "tmpfs", "tmpfs", SHARED])
        os.kill(pid, signal.SIGKILL)
        scene.run.await_event("is not there any more", died_s)
        scene.lan[name].run(["umount", "--lazy", SHARED])

    return scene.around(away, "is not there any more")


def checkpoint_damaged(scene: Scene) -> Figures:
    """The newest checkpoint is cut short, and a worker dies: goes on from the one before."""

    def damage_and_kill() -> None:
        # What a stopped process has written is what the next start finds.
        pids = list(scene.run.worker_pids(scene.newest).values())
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        newest = sorted((scene.run.folder / "checkpoints").glob("step-*"))[-1]
        with (newest / "training.pt").open("r+b") as file:
            file.truncate(100)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    return scene.around(damage_and_kill, "died")


def worker_slower(scene: Scene) -> Figures:
    """One worker has a twentieth of a core from now on: it gets fewer items."""
    pids = scene.run.worker_pids(scene.newest)
    began_s = time.time()
    before = scene.run.await_steps(1, began_s)[-1]["shares"]
    # Shares stand in the order of the start's list of machines. Who has one item cannot have fewer: with nine of four
    # alike, 3, 3, 2 and 1 are done no later than 3, 2, 2 and 2.
    shares = dict(zip(scene.run.machines(scene.newest), before, strict=True))
    name = scene.slowed = scene.rng.choice([name for name in scene.workers() if shares[name] > 1])
    pace(scene.lan, {name: 0.05}, pids)

    def recut() -> dict[str, Any] | None:
        return next((s for s in timely(scene.run.lines("step"), began_s) if s["shares"] != before), None)

    after = await_true(recut, f"other shares than {shares}, with {name} slower", PATIENCE_S, EVERY_S)
    scene.lan[name].cpu(1.0, [pids[name]])
    return {
        "recut_s": after["time_s"] - began_s,
        "share_before": float(shares[name]),
        "share_after": float(after["shares"][list(shares).index(name)]),
    }


def worker_hangs(scene: Scene) -> Figures:
    """One worker does nothing from now on, and keeps its connections: ended with the others, as the recipe says."""
    pid = scene.run.worker_pids(scene.newest)[scene.someone()]
    return scene.around(lambda: os.kill(pid, signal.SIGSTOP), "no step for")


def worker_stalls(scene: Scene) -> Figures:
    """One worker does nothing for some seconds: all wait, and go on."""
    pid = scene.run.worker_pids(scene.newest)[scene.someone()]
    os.kill(pid, signal.SIGSTOP)
    time.sleep(STALL_S)  # the event itself
    os.kill(pid, signal.SIGCONT)
    went_on_s = time.time()
    return {"first_step_s": scene.run.await_steps(1, went_on_s)[0]["time_s"] - went_on_s}


EVENTS: dict[str, Callable[[Scene], Figures]] = {
    "worker killed": worker_killed,
    "cable pulled": cable_pulled,
    "cable back": cable_back,
    "PC back": pc_back,
    "PC drained": pc_drained,
    "PC undrained": pc_undrained,
    "driver killed": driver_killed,
    "head's Ray killed": heads_ray_killed,
    "storage away": storage_away,
    "share away on one PC": share_away_on_one,
    "checkpoint damaged": checkpoint_damaged,
    "worker slower": worker_slower,
    "worker stalls": worker_stalls,
    "worker hangs": worker_hangs,
}


def possible(scene: Scene) -> list[str]:
    """Events that can happen now, in the table's order."""
    impossible = set()
    if not scene.cut:
        impossible |= {"cable back", "PC back"}
    if not scene.drained:
        impossible.add("PC undrained")
    if len(scene.workers()) < 3:
        impossible |= {"cable pulled", "PC drained"}
    return [name for name in EVENTS if name not in impossible]


def come_back(lan: Lan, name: str) -> None:
    """The cable is in again, and the PC joins: Ray keeps a node dead that it once called dead."""
    lan[name].mend()
    lan[name].vr("cluster", "down", "--yes")
    join(lan[lan.names[0]], lan[name])


def kill_driver(run: Run) -> None:
    """SIGKILL for the supervisor of the run's newest attempt."""
    attempt = max(int(folder.name) for folder in (run.folder / "attempts").iterdir())
    inner = json.loads((run.folder / "attempts" / str(attempt) / "driver.json").read_text())["pid"]
    [pid] = [pid for pid in run.lan[run.lan.names[0]].pids() if run.inner_pid(pid) == inner]
    os.kill(pid, signal.SIGKILL)


def kill_controller(host: Host) -> None:
    """What started a run's workers, on its head; neither the driver nor what Ray Train keeps for this can act on it."""
    titles = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in host.pids()}
    for part, act in (
        ("jobs.execution.launch", "suspend"),
        ("::PlacementGroupCleaner", "kill"),
        ("::TrainController", "kill"),
    ):
        concerned = [psutil.Process(pid) for pid, title in titles.items() if part.encode() in title]
        assert concerned, part
        for process in concerned:
            getattr(process, act)()


def kill_ray(host: Host) -> int:
    """All of Ray on `host`, as when it runs out of memory; what keeps it running stays. How many processes."""
    [supervisor] = [
        pid for pid in host.pids() if b"cluster.node.supervise" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    killed = [pid for pid in host.pids() if _session_of(pid) == supervisor != pid]
    for pid in killed:
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).kill()
    return len(killed)


def _session_of(pid: int) -> int | None:
    """None of one that has just ended."""
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None
