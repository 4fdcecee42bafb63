"""The acts: start a head, join one, stop what was started. What to start is decided in `cluster.plan`."""

import contextlib
import os
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from cluster.errors import ClusterError, ClusterFailure, NoHead, TokenError
from cluster.facts import link_mbit
from cluster.free_ports import choose_ports
from cluster.head import (
    AnyMember,
    Head,
    Joined,
    Member,
    all_joined,
    fetch,
    head_file,
    joined_file,
    read_head,
    read_joined,
    state_folder,
    write_member,
)
from cluster.plan import NodeStart, Ports, node_environment, ray_argv, temp_dir
from cluster.processes import ProcessRef, alive, end, family, spawn
from cluster.sources import commit_of, source_root
from cluster.supervision import Charge
from cluster.token import create_token, read_token, token_sha256, write_private
from cluster.versions import labels, own_versions
from vr_core.config import Spec

_START_TIMEOUT_S = 180.0
_POLL_S = 0.2
STARTED_LINE = "Ray runtime started."
"""What `ray start` says, once for each start, when the node is up."""


class Companion(Spec):
    """A process that runs beside the head, as long as it runs."""

    name: str
    argv: tuple[str, ...]


def running_head(node: NodeStart) -> Head | None:
    """The live head that was started from an equal `node`; None where none lives.

    Raises:
        ClusterError: a head with other settings runs.
    """
    return _running(read_head(), node)


def running_node(node: NodeStart) -> Joined | None:
    """The live joined node that was started from an equal `node`; None where none of this name lives.

    Raises:
        ClusterError: one with the same name and other settings runs.
    """
    return _running(read_joined(node.name), node)


def has_token(member: Member, sha256: str) -> bool:
    """Whether the member was started with the token of that hash."""
    try:
        return token_sha256(read_token(member.token_file)) == sha256
    except TokenError:
        return False


def _running(member: AnyMember | None, node: NodeStart) -> AnyMember | None:
    if member is None or not alive(member.ray):
        return None
    if member.node.head is not None and has_left(member):
        return None  # a head that is not up comes back by itself, with its state
    if member.node != node:
        theirs, ours = member.node.model_dump(), node.model_dump()
        differing = ", ".join(key.removesuffix("_base") for key in ours if ours[key] != theirs[key])
        what = "head" if node.head is None else "node"
        raise ClusterError(
            f"the {what} {member.node.name} already runs here with another {differing}; "
            "end it with `vr cluster down` first"
        )
    return member


def start_head(node: NodeStart, companions: Sequence[Companion] = ()) -> tuple[Head, bool]:
    """Start the head `node` and the companions; where it runs already, only companions that have ended are started.

    Returns:
        The head, and whether anything was started.

    Raises:
        ClusterError: a head with other settings runs, or a port is taken.
        ClusterFailure: Ray or a companion does not start; nothing is left running.
    """
    with _locked():
        head = running_head(node)
        if head is None:
            _clear(read_head(), head_file())
            return _start_head(node, None, companions), True
        running = head
        _await(running, lambda: _answers(running))
        complete = _with_companions(head, companions)
        return complete, complete != head


def restart_head(meanwhile: Callable[[], None], companions: Sequence[Companion] = ()) -> Head:
    """End the head of this machine, call `meanwhile`, and start it again as it was, on the same ports.

    Raises:
        NoHead: none was started here.
        ClusterFailure: Ray or a companion does not start; nothing is left running.
    """
    with _locked():
        head = read_head()
        if head is None:
            raise NoHead("no Ray head runs here; start one with `vr cluster head`")
        end(head.processes[::-1], head.id)
        meanwhile()
        return _start_head_again(head, companions)


def resume(companions: Callable[[Head], Sequence[Companion]]) -> list[str]:
    """Start the head and nodes that are recorded and do not run, as after a boot; a node looks for its head by itself.

    Returns:
        Names of what was started.

    Raises:
        ClusterFailure: the head does not start; it stays recorded.
    """
    with _locked():
        started = []
        head = read_head()
        if head is not None and not alive(head.ray):
            end(head.processes[::-1], head.id)
            _start_head_again(head, companions(head))
            started.append(head.node.name)
        for joined in all_joined():
            if not alive(joined.ray):
                end(joined.processes, joined.id)
                record = joined_file(joined.node.name)
                _start_ray(joined.node, joined.ports, joined.token_file, record, Joined, after_boot=True)
                started.append(joined.node.name)
        return started


def pause() -> None:
    """End every head and node that was started here, and keep the records, from which `resume` starts them again."""
    with _locked():
        head = read_head()
        for member in [*all_joined(), *([head] if head else [])]:
            end(member.processes[::-1], member.id)


def _start_head_again(head: Head, companions: Sequence[Companion]) -> Head:
    try:
        return _start_head(head.node, head.ports, companions)
    except BaseException:
        write_member(head_file(), head)  # what is to be started, for who tries again
        raise


def _start_head(node: NodeStart, ports: Ports | None, companions: Sequence[Companion]) -> Head:
    token_file = state_folder() / "token"
    create_token(token_file)
    head = _start_ray(node, ports or choose_ports(node), token_file, head_file(), Head)
    with _undone_on_failure(head, head_file()):
        _await(head, lambda: _answers(head))
        return _with_companions(head, companions)


def _with_companions(head: Head, companions: Sequence[Companion]) -> Head:
    """`head` with those companions started that do not run."""
    for companion in companions:
        old = next((ref for ref in head.processes if ref.name == companion.name), None)
        if old is None or not alive(old):
            head = _start_companion(head, companion)
    return head


def join(node: NodeStart, token: str) -> tuple[Joined, bool]:
    """Start `node` as a worker of the head `node.head`; the token is written into the state folder.

    Where it runs already nothing changes, unless it has another token (the head's was changed): then it starts anew.

    Returns:
        The node, and whether anything was started.

    Raises:
        TokenError: the head does not accept the token.
        ClusterError: a node of this name with other settings runs, or a port is taken.
        ClusterFailure: nothing answers at the head's address, or Ray does not start; nothing is left running.
    """
    if node.head is None:
        raise ValueError("join: node.head is not set")
    with _locked():
        record = joined_file(node.name)
        joined = running_node(node)
        if joined is not None and has_token(joined, token_sha256(token)):
            return joined, False
        _clear(read_joined(node.name), record)
        require_answer(node.head)
        own_token_file = record.with_suffix(".token")
        write_private(own_token_file, token + "\n")
        joined = _start_ray(node, choose_ports(node), own_token_file, record, Joined)
        with _undone_on_failure(joined, record):
            _await(joined, lambda: STARTED_LINE in _new_log(joined.ray))
        return joined, True


def stop() -> list[str]:
    """End every head and node that was started here, with all they started; other Ray clusters stay untouched.

    Returns:
        Names of what was ended; empty when nothing ran.
    """
    with _locked():
        ended = []
        joined = all_joined()
        for record, member in [*((joined_file(j.node.name), j) for j in joined), (head_file(), read_head())]:
            if member is not None:
                if family(member.processes, member.id):
                    ended.append(member.node.name)
                _clear(member, record)
                record.with_suffix(".token").unlink(missing_ok=True)
        return ended


def has_left(member: Member) -> bool:
    """Whether Ray was up and its raylet has ended, as after a drain; its supervisor may bring it back at any time."""
    if not alive(member.ray) or STARTED_LINE not in _new_log(member.ray):
        return False
    try:
        children = psutil.Process(member.ray.pid).children(recursive=True)
        return not any(c.name() == "raylet" and c.status() != psutil.STATUS_ZOMBIE for c in children)
    except psutil.NoSuchProcess:
        return False


def running_processes() -> dict[str, int]:
    """What `stop` would end: "head attic" or "node study" → number of processes."""
    head = read_head()
    members: list[tuple[str, Member]] = [("node", joined) for joined in all_joined()]
    if head is not None:
        members.insert(0, ("head", head))
    counts = {f"{what} {m.node.name}": len(family(m.processes, m.id)) for what, m in members}
    return {what: count for what, count in counts.items() if count}


def require_answer(address: str, timeout_s: float = 5.0) -> None:
    """Check that something accepts connections at `address:port`.

    Raises:
        ClusterFailure: it does not.
    """
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=timeout_s).close()
    except OSError as error:
        raise ClusterFailure(
            f"{address}: no Ray head answers there ({error.strerror or 'timed out'}); is it started with "
            f"`vr cluster head --address {host}`, and does its firewall let port {port} in?"
        ) from None


def _start_ray(
    node: NodeStart, ports: Ports, token_file: Path, record: Path, kind: type[AnyMember], *, after_boot: bool = False
) -> AnyMember:
    folder = temp_dir(Path(tempfile.gettempdir()), record)
    prepare_temp_dir(folder)
    member_id = secrets.token_hex(8)
    log = state_folder() / f"{record.stem}.log"
    log.unlink(missing_ok=True)
    store = state_folder() / "gcs" if node.head is None else None
    said = labels(own_versions(commit_of(source_root())[0]), link_mbit(node.interface))
    charge = Charge(
        name=node.name,
        argv=tuple(ray_argv(node, ports, folder, sys.executable, said)),
        log=log,
        temp_dir=folder,
        token_file=token_file,
        head=node.head,
        store=store,
        agent_port=ports.dashboard_agent_http if node.head is None else None,
        after_boot=after_boot,
    )
    ref = spawn(
        "ray",
        [sys.executable, "-m", "cluster.supervise", charge.model_dump_json()],
        node_environment(os.environ, node, ports, token_file, member_id, store),
        log,
        state_folder(),
    )
    member = kind(id=member_id, node=node, ports=ports, token_file=token_file, temp_dir=folder, processes=(ref,))
    # Before waiting: whatever happens to this command now, `vr cluster down` finds the processes.
    write_member(record, member)
    return member


def _start_companion(head: Head, companion: Companion) -> Head:
    """`head` with the started companion in its record, in place of an earlier one of its name."""
    base = node_environment(os.environ, head.node, head.ports, head.token_file, head.id)
    log = state_folder() / f"{companion.name}.log"
    ref = spawn(companion.name, companion.argv, base | head.environment(), log, state_folder())
    others = tuple(old for old in head.processes if old.name != companion.name)
    head = head.model_copy(update={"processes": (*others, ref)})
    write_member(head_file(), head)
    # One that cannot start (an import error, a bad argument) ends within the second.
    with contextlib.suppress(psutil.TimeoutExpired, psutil.NoSuchProcess):
        psutil.Process(ref.pid).wait(timeout=1.0)
    if not alive(ref):
        raise ClusterFailure(f"{companion.name}: ended at once: {_last_line(log)} (log: {log})")
    return head


def prepare_temp_dir(folder: Path) -> None:
    """Make Ray's folder in one of ours; of earlier sessions only the newest stays, since Ray never removes any."""
    closed = folder.parent
    closed.mkdir(mode=0o700, parents=True, exist_ok=True)
    if closed.lstat().st_uid != os.getuid():  # the temporary folder is everyone's
        raise ClusterError(f"{closed}: belongs to another user; set TMPDIR to a folder of your own")
    closed.chmod(0o700)
    folder.mkdir(exist_ok=True)
    # With it, a head that starts again takes a node of its own on the same machine for another head.
    (folder / "ray_current_cluster").unlink(missing_ok=True)
    sessions = sorted(path for path in folder.glob("session_2*") if path.is_dir() and not path.is_symlink())
    for session in sessions[:-1]:
        shutil.rmtree(session, ignore_errors=True)


def _await(member: Member, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    where = member.node.head or member.node.address
    while not ready():
        if "InvalidAuthToken" in _new_log(member.ray):
            raise TokenError(f"{where}: the head does not accept this token; `vr cluster head` prints a join code")
        if not alive(member.ray):
            raise ClusterFailure(f"{where}: Ray ended at start: {_last_line(member.ray.log)} (log: {member.ray.log})")
        if time.monotonic() > deadline:
            raise ClusterFailure(f"{where}: Ray not up after {_START_TIMEOUT_S:.0f} s; see {member.ray.log}")
        time.sleep(_POLL_S)


def _answers(head: Head) -> bool:
    """Whether the job API answers and Ray counts the head's own node among the living."""
    if STARTED_LINE not in _new_log(head.ray):
        return False
    try:
        nodes = fetch(head, "/api/v0/nodes")["data"]["result"]["result"]
    except ClusterFailure:
        return False
    return any(node["is_head_node"] and node["state"] == "ALIVE" for node in nodes)


def _new_log(ref: ProcessRef) -> str:
    return ref.log.read_text(errors="replace")


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no output"


def _clear(member: Member | None, record: Path) -> None:
    """End what is left of `member`, companions first: a keeper must not see its head die."""
    if member is not None:
        end(member.processes[::-1], member.id)
        record.unlink(missing_ok=True)


@contextlib.contextmanager
def _undone_on_failure(member: Member, record: Path) -> Iterator[None]:
    """Take back what was started when the body fails or is interrupted; the log stays."""
    try:
        yield
    except BaseException:
        _clear(_read_again(record) or member, record)
        record.with_suffix(".token").unlink(missing_ok=True)
        raise


def _read_again(record: Path) -> Member | None:
    """The record with companions that were added since."""
    return read_head() if record == head_file() else None


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    """One change at a time for this account on this machine."""
    try:
        with FileLock(state_folder() / "lock", timeout=_START_TIMEOUT_S):
            yield
    except Timeout:
        raise ClusterFailure("another `vr cluster` command is at work; try again when it has ended") from None
