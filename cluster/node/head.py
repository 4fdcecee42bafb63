"""The one way to find the running head, and the records of what was started on this machine."""

import contextlib
import http.client
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from cluster.errors import ClusterError, ClusterFailure, NoHead, OtherAtWork, TokenError
from cluster.inventory import Inventory
from cluster.node.processes import ProcessRef, alive
from cluster.node.ray_start import LOOPBACK, MARKER, NodeStart, Ports, client_environment
from cluster.probe.machine import state_place
from cluster.timings import DEFAULT_TIMINGS, Timings, changed
from cluster.trust.peer import opener
from cluster.trust.token import read_token, write_private
from vr_core.config import Spec, plain, validate
from vr_core.errors import VrError
from vr_core.small_files import read_json


class Member(Spec):
    """One node that was started here; its file in the state folder is the only record."""

    id: str
    """Random; every process of this start carries it in its environment."""
    node: NodeStart
    ports: Ports
    token_file: Path
    temp_dir: Path
    """Ray's session folders with its logs and sockets."""
    processes: tuple[ProcessRef, ...]
    """What keeps Ray running first, then what runs beside it."""
    timings: Timings = DEFAULT_TIMINGS
    """How long it waits for what; a head's also hold for the runs on its cluster."""

    @property
    def ray(self) -> ProcessRef:
        """The process that keeps `ray start` running (`cluster.node.supervise`)."""
        return self.processes[0]


class Joined(Member):
    """A worker node that was started here."""


class Head(Member):
    """The head that was started here."""

    @property
    def gcs_address(self) -> str:
        """`address:port` for `ray.init` and joining nodes."""
        return f"{self.node.address}:{self.ports.gcs}"

    @property
    def dashboard_url(self) -> str:
        """Web page and job API; reachable on the head machine itself."""
        return f"http://{LOOPBACK}:{self.ports.dashboard}"

    def environment(self) -> dict[str, str]:
        """Variables that a driver or job client needs, to be set before `ray` is imported; no secret among them."""
        return {
            **client_environment(self.node.address, self.token_file),
            "RAY_ADDRESS": self.gcs_address,
            "RAY_API_SERVER_ADDRESS": self.dashboard_url,
        }


AnyMember = TypeVar("AnyMember", bound=Member)


def state_folder() -> Path:
    """`$XDG_STATE_HOME/vr`, by default `~/.local/state/vr`, mode 700: one that is open to others is closed.

    Raises:
        ClusterError: it is another account's.
    """
    folder = state_place()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = folder.stat()
    if found.st_uid != os.getuid():
        raise ClusterError(
            f"{folder}: belongs to another account (uid {found.st_uid}); give a folder of your own: "
            "export XDG_STATE_HOME=FOLDER"
        )
    if found.st_mode & 0o077:
        with contextlib.suppress(OSError):
            folder.chmod(0o700)
        if folder.stat().st_mode & 0o077:
            raise ClusterError(
                f"{folder}: is open to others (mode {found.st_mode & 0o777:o}) and cannot be closed there; give a "
                "folder on a disk that knows owners: export XDG_STATE_HOME=FOLDER"
            )
        print(f"{folder}: was open to others (mode {found.st_mode & 0o777:o}), is 700 now", file=sys.stderr, flush=True)
    return folder


START_TIMEOUT_S = 180.0
"""For Ray to come up, and so for a command that waits for another one."""


@contextlib.contextmanager
def unchanging(timeout_s: float = START_TIMEOUT_S) -> Iterator[None]:
    """No other process of this account starts or ends a head or node here during the block; one that does is awaited.

    Raises:
        OtherAtWork: it takes longer than `timeout_s`.
    """
    lock = FileLock(state_folder() / "lock", timeout=timeout_s)
    try:
        lock.acquire()
    except Timeout:
        raise OtherAtWork("another `vr cluster` command is at work; try again when it has ended") from None
    try:
        yield
    finally:
        lock.release()


def head_file() -> Path:
    """Where the head's record is kept."""
    return state_folder() / "head.json"


def joined_file(name: str) -> Path:
    """Where the record of the joined node `name` is kept."""
    return state_folder() / f"joined-{name}.json"


def read_head() -> Head | None:
    """The head's record, whether or not it still runs."""
    return _read(Head, head_file())


def read_joined(name: str) -> Joined | None:
    """The record of the joined node `name`, whether or not it still runs."""
    return _read(Joined, joined_file(name))


def all_joined() -> list[Joined]:
    """The records of all nodes that joined a cluster from here."""
    records = (_read(Joined, path) for path in sorted(state_folder().glob("joined-*.json")))
    return [record for record in records if record is not None]


def this_member() -> Member | None:
    """What this process belongs to: the member that its environment names, else the one that runs on this machine."""
    members = [member for member in (read_head(), *all_joined()) if member is not None]
    named = [member for member in members if member.id == os.environ.get(MARKER)]
    running = named or [member for member in members if alive(member.ray)]
    return running[0] if running else None


def keep_inventory(inventory: Inventory | None) -> None:
    """Let the keeper know the PCs of the cluster that is started from here; None: it is started without a file."""
    path = state_folder() / "inventory.json"
    if inventory is None:
        path.unlink(missing_ok=True)
    else:
        write_private(path, json.dumps(plain(inventory), indent=1) + "\n")


def read_inventory() -> Inventory | None:
    """The inventory that the head was last started with.

    Raises:
        ClusterError: its copy is damaged.
    """
    path = state_folder() / "inventory.json"
    try:
        return validate(Inventory, read_json(path), str(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ClusterError(f"{path}: unreadable ({error}); run `vr cluster head INVENTORY` again") from None


def write_member(path: Path, member: Member) -> None:
    """Keep `member` in `path`, mode 600, whole or not at all.

    Waits that are as by default are left out: a run keeps the code that it was submitted with, and that reads this file
    in its workers and may know of none.
    """
    record, waits = plain(member), changed(member.timings)
    del record["timings"]
    write_private(path, json.dumps(record | ({"timings": waits} if waits else {}), indent=1) + "\n")


def _read(kind: type[AnyMember], path: Path) -> AnyMember | None:
    try:
        raw = read_json(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"{path}: unreadable record ({error}); end its Ray processes by hand and delete it"
        ) from None
    return validate(kind, raw, str(path))


def timings_here() -> Timings:
    """Those of the head that is recorded here; the default ones where none is, or its record cannot be read.

    A run keeps the code that it was submitted with, which may not understand the record of a newer head.
    """
    try:
        head = read_head()
    except VrError as error:
        print(f"the default waits are used: {error}", file=sys.stderr, flush=True)
        head = None
    return head.timings if head is not None else DEFAULT_TIMINGS


def find_head() -> Head:
    """The running head of this machine, checked to be alive.

    Raises:
        NoHead: none was started, it has died, or this PC is a worker of another's head.
        ClusterFailure: it runs but does not answer.
        TokenError: its token file cannot be used.
    """
    head = read_head()
    if head is None or not alive(head.ray):
        for joined in all_joined():
            if alive(joined.ray):
                raise NoHead(f"this PC is a worker of {joined.node.head}; run this on that head")
        if head is None:
            raise NoHead("no Ray head runs here; start one with `vr cluster head`")
        raise NoHead(f"the Ray head has died (log: {head.ray.log}); start it again with `vr cluster head`")
    fetch(head, "/api/version")
    return head


def find_head_or_none() -> Head | None:
    """As `find_head`; None where no head runs here."""
    try:
        return find_head()
    except NoHead:
        return None


ANSWER_BYTES = 1 << 28
"""More does not come from a dashboard of ours."""


def fetch(head: Head, path: str, timeout_s: float = 10.0) -> Any:
    """JSON answer of the dashboard's `path`.

    Raises:
        TokenError: the head does not accept the token.
        ForeignListener: another account answers at its port; it was sent nothing.
        ClusterFailure: no answer, or not JSON.
    """
    request = urllib.request.Request(
        head.dashboard_url + path, headers={"Authorization": f"Bearer {read_token(head.token_file)}"}
    )
    try:
        with opener().open(request, timeout=timeout_s) as answer:
            content = answer.read(ANSWER_BYTES + 1)
        if len(content) > ANSWER_BYTES:
            raise ValueError(f"more than {ANSWER_BYTES / 1e6:.0f} MB")
        return json.loads(content)
    except urllib.error.HTTPError as error:
        with error:
            if error.code in (401, 403):
                raise TokenError(f"{head.token_file}: the head does not accept this token; restart the head") from None
            raise ClusterFailure(f"{head.dashboard_url}{path}: HTTP {error.code}; see {head.ray.log}") from None
    except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
        reason = " ".join(str(getattr(error, "reason", None) or error).split())[:300]
        raise ClusterFailure(
            f"{head.dashboard_url}: the Ray dashboard does not answer ({reason}); see {head.ray.log}"
        ) from None
