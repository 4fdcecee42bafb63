"""Ray of one head or node, and a head's companions: started, awaited, asked. When: `cluster.node.lifecycle`."""

import contextlib
import os
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from cluster.errors import ClusterFailure, ForeignListener, TokenError
from cluster.facts import link_mbit
from cluster.installation import make_closed, require_plain_installation
from cluster.node.head import START_TIMEOUT_S, AnyMember, Head, Member, fetch, head_file, state_folder, write_member
from cluster.node.processes import ProcessRef, alive, spawn
from cluster.node.ray_start import NodeStart, Ports, node_environment, ray_argv, temp_dir
from cluster.node.supervision import Companion, RayProcessSpec
from cluster.source_tree import commit_of, source_root
from cluster.timings import Timings
from cluster.versions import labels, own_versions
from vr_core.errors import command

_POLL_S = 0.2
STARTED_LINE = "Ray runtime started."
"""What `ray start` says, once for each start, when the node is up."""
SETTLED_AFTER_S = 2.5
"""`ray start` looks once a second whether a part of it has ended, and then ends all."""


def start_ray(
    node: NodeStart,
    ports: Ports,
    token_file: Path,
    record: Path,
    kind: type[AnyMember],
    timings: Timings,
    *,
    after_boot: bool = False,
    companions: Sequence[Companion] = (),
) -> AnyMember:
    """Start the supervisor of `node`'s Ray, and record it; `await_up` waits until Ray is up.

    Args:
        node: What to start.
        ports: Of its services.
        token_file: Where its token is.
        record: The file that will hold the member.
        kind: Of member.
        timings: What it is to wait for, and how long.
        after_boot: The head may not be there yet; the supervisor goes on trying.
        companions: Of a head; the supervisor starts those again that have ended. Their first start is the caller's.

    Raises:
        ClusterError: Ray cannot start from where Python is installed, or with this temporary folder.
    """
    require_plain_installation()
    folder = temp_dir(Path(tempfile.gettempdir()), record)
    prepare_temp_dir(folder)
    member_id = secrets.token_hex(8)
    log = state_folder() / f"{record.stem}.log"
    log.unlink(missing_ok=True)
    store = state_folder() / "gcs" if node.head is None else None
    said = labels(own_versions(commit_of(source_root())[0]), link_mbit(node.interface))
    process_spec = RayProcessSpec(
        name=node.name,
        argv=tuple(ray_argv(node, ports, folder, sys.executable, said)),
        again_argv=() if node.head is None else tuple(ray_argv(node, ports, folder, sys.executable, said, again=True)),
        log=log,
        temp_dir=folder,
        token_file=token_file,
        head=node.head,
        store=store,
        agent_port=ports.dashboard_agent_http if node.head is None else None,
        dashboard_port=ports.dashboard if node.head is None else None,
        companions=tuple(companions),
        after_boot=after_boot,
        timings=timings,
    )
    ref = spawn(
        "ray",
        [sys.executable, "-m", "cluster.node.supervise", process_spec.model_dump_json(exclude_defaults=True)],
        node_environment(os.environ, node, ports, token_file, member_id, timings, store),
        log,
        state_folder(),
    )
    member = kind(
        id=member_id,
        node=node,
        ports=ports,
        token_file=token_file,
        temp_dir=folder,
        processes=(ref,),
        timings=timings,
    )
    # Before waiting: whatever happens to this command now, `vr cluster down` finds the processes.
    write_member(record, member)
    return member


def start_companion(head: Head, companion: Companion) -> Head:
    """`head` with the started companion in its record, in place of an earlier one of its name."""
    base = node_environment(os.environ, head.node, head.ports, head.token_file, head.id, head.timings)
    log = state_folder() / f"{companion.name}.log"
    ref = spawn(companion.name, companion.argv, base | head.environment(), log, state_folder())
    others = tuple(old for old in head.processes if old.name != companion.name)
    head = head.model_copy(update={"processes": (*others, ref)})
    try:
        write_member(head_file(), head)
    except OSError:  # nobody would find it again
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(ref.pid).kill()
        raise
    # One that cannot start (an import error, a bad argument) ends within the second.
    with contextlib.suppress(psutil.TimeoutExpired, psutil.NoSuchProcess):
        psutil.Process(ref.pid).wait(timeout=1.0)
    if not alive(ref):
        raise ClusterFailure(f"{companion.name}: ended at once: {_last_line(log)} (log: {log})")
    return head


def prepare_temp_dir(folder: Path) -> None:
    """Make Ray's folder in one of ours; of earlier sessions only the newest stays, since Ray never removes any."""
    make_closed(folder.parent)  # the temporary folder is everyone's
    folder.mkdir(exist_ok=True)
    # With it, a head that starts again takes a node of its own on the same machine for another head.
    (folder / "ray_current_cluster").unlink(missing_ok=True)
    sessions = sorted(path for path in folder.glob("session_2*") if path.is_dir() and not path.is_symlink())
    for session in sessions[:-1]:
        shutil.rmtree(session, ignore_errors=True)


def await_up(member: Member) -> None:
    """Wait until Ray of the member is up: a head answers, a node has said that it started.

    Raises:
        TokenError: the head does not accept the node's token.
        ForeignListener: another account has the dashboard's port.
        ClusterFailure: Ray has ended, or is not up in time.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    where = member.node.head or member.node.address
    while not (_answers(member) if isinstance(member, Head) else STARTED_LINE in _new_log(member.ray)):
        if "InvalidAuthToken" in _new_log(member.ray):
            raise TokenError(f"{where}: the head does not accept this token; `vr cluster head` prints a join code")
        if not alive(member.ray):
            raise ClusterFailure(f"{where}: Ray ended at start: {_last_line(member.ray.log)} (log: {member.ray.log})")
        if time.monotonic() > deadline:
            raise ClusterFailure(f"{where}: Ray not up after {START_TIMEOUT_S:.0f} s; see {member.ray.log}")
        time.sleep(_POLL_S)


def await_settled(member: Member, up_s: float) -> None:
    """Wait until a Ray that came up at `up_s` (monotonic) has stayed up for `SETTLED_AFTER_S`.

    Raises:
        ClusterFailure: it has ended meanwhile.
    """
    while time.monotonic() < up_s + SETTLED_AFTER_S:
        if has_left(member) or not alive(member.ray):
            where = member.node.head or member.node.address
            raise ClusterFailure(
                f"{where}: Ray came up and ended at once: {_last_line(member.ray.log)} "
                f"(logs: {member.ray.log}, {member.temp_dir}/session_latest/logs)"
            )
        time.sleep(_POLL_S)


def _answers(head: Head) -> bool:
    """Whether the job API answers and Ray counts the head's own node among the living."""
    if STARTED_LINE not in _new_log(head.ray):
        return False
    try:
        nodes = fetch(head, "/api/v0/nodes")["data"]["result"]["result"]
    except ForeignListener:
        raise  # the dashboard cannot come up
    except ClusterFailure:
        return False
    return any(node["is_head_node"] and node["state"] == "ALIVE" for node in nodes)


def _new_log(ref: ProcessRef) -> str:
    return ref.log.read_text(errors="replace")


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no output"


def has_left(member: Member) -> bool:
    """Whether Ray was up and its raylet has ended, as after a drain; its supervisor may bring it back at any time."""
    if not alive(member.ray) or STARTED_LINE not in _new_log(member.ray):
        return False
    try:
        children = psutil.Process(member.ray.pid).children(recursive=True)
        return not any(c.name() == "raylet" and c.status() != psutil.STATUS_ZOMBIE for c in children)
    except psutil.NoSuchProcess:
        return False


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
            f"`{command('cluster head', '--address', host)}`, and does its firewall let port {port} in?"
        ) from None
