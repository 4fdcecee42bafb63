"""One head and one more node on loopback for every module of the group `head`: started once, looked over after each.

The head belongs to the account of the test process, so that what runs in this process is on the head; the node has an
account of its own. A module that leaves them other than it found them fails, and the next one gets a new cluster. A
pytest plugin.
"""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from cluster.errors import ClusterFailure
from cluster.inventory import Inventory, NodeSpec
from cluster.node.drain import Record, read_drained
from cluster.node.head import Head, Joined, fetch, read_inventory
from cluster.node.processes import alive
from cluster.trust.token import write_private
from jobs.queue import node_power as machines
from jobs.queue.submit import LIVE_JOB
from jobs.queue.table import Ledger
from tests.cluster.pcs import Pc, members
from tests.quick_timings import write_quick
from tests.started import started_here
from vr_core.config import to_yaml

ATTIC = NodeSpec(name="attic", address="127.0.0.2", role="head", gpus=(), cpus=2)
CELLAR = NodeSpec(name="cellar", address="127.0.0.3", gpus=(), cpus=2, labels={"room": "cellar"})
PCS = Inventory(nodes=(ATTIC, CELLAR))

SETTLED_S = 60.0
"""What a module has ended may still be on its way out: a job's processes, a node that comes back."""
MEMORIES = (
    ".*", "*.log", "*.lock", "lock", "*.sqlite*", "drained.json", "drained-for.json", "links.json", "speeds",
    "checkpoints", "runs",
)  # fmt: skip
"""Drafts, and files of an account that say what was; what is still open or drained is looked up in them."""


class Loopback:
    """The two PCs, and what each module is to leave as it found it."""

    def __init__(self, folder: Path, timings: Path | None = None) -> None:
        """Start nothing yet.

        Args:
            folder: Of the node's account.
            timings: What `--timings` of `vr cluster head` and `join` reads; None: the waits that users have.
        """
        self.attic = Pc(Path(os.environ["XDG_STATE_HOME"]))
        self.cellar = Pc(folder / "cellar")
        self.inventory = folder / "home.yaml"
        self.inventory.write_text(to_yaml(PCS))
        self._timings = () if timings is None else ("--timings", str(timings))
        self._token = ""
        self._found: dict[str, object] = {}
        self._running: set[int] = set()

    @property
    def head(self) -> Head:
        record: Head = self.attic.record(Head, "head.json")
        return record

    @property
    def node(self) -> Joined:
        record: Joined = self.cellar.record(Joined, "joined-cellar.json")
        return record

    def ready(self) -> None:
        """Have the cluster run, a new one where there is none or where it has another token than at first."""
        if not self._is_up() or self.attic.token != self._token:
            self.end()
            self._start()
        self.changed()
        self._running = {process.pid for process in self._strangers()}

    def changed(self) -> None:
        """What is now is as it should be: for tests that change the cluster itself, or take it down."""
        self._found = self._standing() if self._is_up() else {}

    def end(self) -> None:
        """End both, where they run."""
        self.cellar.typed("down", "--yes")
        self.attic.typed("down", "--yes")
        if self._token:
            # Ray keeps the first token that it reads for the life of a process: the next head has it again.
            write_private(self.attic.state / "token", self._token + "\n")

    def left(self) -> list[str]:
        """What is other than it was found, a line each, after what is on its way out has gone; taken down is clean."""
        end_s = time.monotonic() + SETTLED_S
        while left := self.differences():
            if time.monotonic() > end_s:
                return left
            time.sleep(0.5)
        return []

    def _start(self) -> None:
        said = _until_up(lambda: self.attic.vr("head", str(self.inventory), "--port", "0", "--yes", *self._timings))
        assert "The head runs." in said
        self._token = self._token or self.attic.token
        token = self.cellar.home / "vr-token"
        self.cellar.home.mkdir(exist_ok=True)
        write_private(token, self.attic.token + "\n")
        line = ("join", self.head.gcs_address, "--token-file", str(token), "--inventory", str(self.inventory))
        own = ("--address", CELLAR.address, "--port", "0", "--yes", *self._timings)
        said = _until_up(lambda: self.cellar.vr(*line, *own))
        assert "cellar has joined" in said
        token.unlink()

    def _is_up(self) -> bool:
        try:
            return alive(self.head.ray) and alive(self.node.ray)
        except FileNotFoundError:
            return False

    def _standing(self) -> dict[str, object]:
        """What no module may change."""
        head, node = self.head, self.node
        return {
            "the head's record": head.model_dump(exclude={"processes"}),
            "the head's Ray": head.ray,
            "the head's companions": sorted(ref.name for ref in head.processes if alive(ref)),
            "the node's record": node.model_dump(),
            "the token": (self.attic.token, self.cellar.token_of(node)),
            "the inventory": read_inventory(),
            "the files of attic": self.attic.files(MEMORIES),
            "the files of cellar": self.cellar.files(MEMORIES),
        }

    def differences(self) -> list[str]:
        """What is other than it was found now, a line each."""
        running = [process for process in self._strangers() if process.pid not in self._running]
        left = [f"running: {process.pid} {_line_of(process)}" for process in running]
        if not self._found:
            return left
        try:
            now = self._standing()
            left += [f"{what}: {now[what]}, was {was}" for what, was in self._found.items() if now[what] != was]
            head = self.head
            jobs = [job for job in fetch(head, "/api/jobs/") if job["status"] in LIVE_JOB]
            left += [f"a live job: {job['submission_id'] or job['job_id']}: {job['entrypoint']}" for job in jobs]
            seen = [node for node in machines.look(head) if node.alive]
            if {node.name for node in seen} != {ATTIC.name, CELLAR.name}:
                left.append(f"nodes: {sorted(node.name for node in seen)}")
            left += [f"busy: {node.name}" for node in seen if node.busy]
        except (ClusterFailure, FileNotFoundError) as error:
            return [str(error)]
        left += [f"open in the ledger: {row.run}" for row in Ledger(self.attic.state).rows(only_open=True)]
        if read_drained() != Record():
            left.append(f"drained: {read_drained()}")
        return left

    def _strangers(self) -> list[psutil.Process]:
        """What this test process has started and belongs to neither PC; processes that ranks are forked from stay."""
        up = (self.head, self.node) if self._is_up() else ()
        ours = {process.pid for member in up for process in members(member)}
        stay = ("multiprocessing.forkserver", "multiprocessing.resource_tracker")
        others = [process for process in started_here() if process.pid not in ours]
        return [process for process in others if not any(word in _line_of(process) for word in stay)]


def _line_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())[:200]
    except psutil.Error:
        return "ended"


def _until_up(act: Callable[[], str]) -> str:
    """Ray gives a node 30 s to register, whatever it is told; a busy machine needs another try."""
    for _ in range(3):
        try:
            return act()
        except AssertionError as error:
            print(f"another try after: {error}")
    return act()


@pytest.fixture(scope="session")
def session_loopback(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    """The cluster of the whole run; a module uses it as `loopback`."""
    folder = tmp_path_factory.mktemp("loopback")
    cluster = Loopback(folder, write_quick(folder))
    yield cluster
    cluster.end()


@pytest.fixture(scope="module")
def loopback(session_loopback: Loopback, request: pytest.FixtureRequest) -> Iterator[Loopback]:
    """The cluster, for one module, which is named where it leaves it other than it found it."""
    session_loopback.ready()
    yield session_loopback
    if left := session_loopback.left():
        session_loopback.end()
        pytest.fail(f"{request.node.nodeid} leaves its cluster other than it found it:\n  " + "\n  ".join(left))
