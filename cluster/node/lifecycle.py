"""The acts: start a head, join one, stop what was started. What to start is decided in `cluster.node.ray_start`."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cluster.errors import ClusterError, NoHead, TokenError
from cluster.node.free_ports import choose_ports
from cluster.node.head import (
    AnyMember,
    Head,
    Joined,
    Member,
    all_joined,
    head_file,
    joined_file,
    read_head,
    read_joined,
    state_folder,
    unchanging,
    write_member,
)
from cluster.node.processes import alive, end, family
from cluster.node.ray_start import NodeStart, Ports
from cluster.node.start import (
    await_settled,
    await_up,
    has_left,
    require_answer,
    start_companion,
    start_ray,
)
from cluster.node.supervision import Companion
from cluster.timings import DEFAULT_TIMINGS, Timings
from cluster.trust.token import create_token, read_token, token_sha256, write_private
from vr_core.files import clear_drafts


def running_head(node: NodeStart, timings: Timings | None = None) -> Head | None:
    """The live head that was started from an equal `node`, and `timings` where they are given; None where none lives.

    Raises:
        ClusterError: a head with other settings runs.
    """
    return _running(read_head(), node, timings)


def running_node(node: NodeStart, timings: Timings | None = None) -> Joined | None:
    """The live joined node that was started from an equal `node`, and `timings` where they are given; None without one.

    Raises:
        ClusterError: one with the same name and other settings runs.
    """
    return _running(read_joined(node.name), node, timings)


def has_token(member: Member, sha256: str) -> bool:
    """Whether the member was started with the token of that hash."""
    try:
        return token_sha256(read_token(member.token_file)) == sha256
    except TokenError:
        return False


def _running(member: AnyMember | None, node: NodeStart, timings: Timings | None) -> AnyMember | None:
    if member is None or not alive(member.ray):
        return None
    if member.node.head is not None and has_left(member):
        return None  # a head that is not up comes back by itself, with its state
    theirs, ours = member.node.model_dump(), node.model_dump()
    if timings is not None:
        theirs["timings"], ours["timings"] = member.timings, timings
    if theirs != ours:
        differing = ", ".join(key.removesuffix("_base") for key in ours if ours[key] != theirs[key])
        what = "head" if node.head is None else "node"
        raise ClusterError(
            f"the {what} {member.node.name} already runs here with another {differing}; "
            "end it with `vr cluster down` first"
        )
    return member


def start_head(
    node: NodeStart, companions: Sequence[Companion] = (), timings: Timings | None = None
) -> tuple[Head, bool]:
    """Start the head `node` and the companions; where it runs already, only companions that have ended are started.

    Without `timings` a head keeps those of its record, whether it runs or has died; a first one gets the default ones.

    Returns:
        The head, and whether anything was started.

    Raises:
        ClusterError: a head with other settings runs, or a port is taken.
        ClusterFailure: Ray or a companion does not start; nothing is left running.
    """
    with unchanging():
        head = running_head(node, timings)
        if head is None:
            before = read_head()
            _clear(before, head_file())
            return _start_head(node, None, companions, timings or kept_timings(before)), True
        await_up(head)
        complete = _with_companions(head, companions)
        return complete, complete != head


def kept_timings(before: Member | None) -> Timings:
    """What a start without timings of its own gets: those of the record `before`."""
    return before.timings if before is not None else DEFAULT_TIMINGS


def restart_head(meanwhile: Callable[[], None], companions: Sequence[Companion] = ()) -> Head:
    """End the head of this machine, call `meanwhile`, and start it again as it was, on the same ports.

    Raises:
        NoHead: none was started here.
        ClusterFailure: Ray or a companion does not start; nothing is left running.
    """
    with unchanging():
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
    with unchanging():
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
                start_ray(joined.node, joined.ports, joined.token_file, record, Joined, joined.timings, after_boot=True)
                started.append(joined.node.name)
        return started


def pause() -> None:
    """End every head and node that was started here, and keep the records, from which `resume` starts them again."""
    with unchanging():
        head = read_head()
        for member in [*all_joined(), *([head] if head else [])]:
            end(member.processes[::-1], member.id)


def _start_head_again(head: Head, companions: Sequence[Companion]) -> Head:
    try:
        return _start_head(head.node, head.ports, companions, head.timings)
    except BaseException:
        write_member(head_file(), head)  # what is to be started, for who tries again
        raise


def _start_head(node: NodeStart, ports: Ports | None, companions: Sequence[Companion], timings: Timings) -> Head:
    clear_drafts(state_folder(), {"token", "inventory.json", head_file().name})
    token_file = state_folder() / "token"
    create_token(token_file)
    ports = ports or choose_ports(node)
    head = start_ray(node, ports, token_file, head_file(), Head, timings, companions=companions)
    with _undone_on_failure(head, head_file()):
        await_up(head)
        up_s = time.monotonic()
        head = _with_companions(head, companions)
        await_settled(head, up_s)
        return head


def _with_companions(head: Head, companions: Sequence[Companion]) -> Head:
    """`head` with those companions started that do not run."""
    for companion in companions:
        old = next((ref for ref in head.processes if ref.name == companion.name), None)
        if old is None or not alive(old):
            head = start_companion(head, companion)
    return head


def join(node: NodeStart, token: str, timings: Timings | None = None) -> tuple[Joined, bool]:
    """Start `node` as a worker of the head `node.head`; the token is written into the state folder.

    Without `timings` one that was here before keeps its own; the head's are not asked for.

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
    with unchanging():
        record = joined_file(node.name)
        joined = running_node(node, timings)
        if joined is not None and has_token(joined, token_sha256(token)):
            return joined, False
        before = read_joined(node.name)
        timings = timings or kept_timings(before)
        _clear(before, record)
        require_answer(node.head)
        own_token_file = record.with_suffix(".token")
        write_private(own_token_file, token + "\n")
        joined = start_ray(node, choose_ports(node), own_token_file, record, Joined, timings)
        with _undone_on_failure(joined, record):
            await_up(joined)
            await_settled(joined, time.monotonic())
        return joined, True


def stop() -> list[str]:
    """End every head and node that was started here, with all they started; other Ray clusters stay untouched.

    Returns:
        Names of what was ended; empty when nothing ran.
    """
    with unchanging():
        ended = []
        joined = all_joined()
        for record, member in [*((joined_file(j.node.name), j) for j in joined), (head_file(), read_head())]:
            if member is not None:
                if family(member.processes, member.id):
                    ended.append(member.node.name)
                _clear(member, record)
                record.with_suffix(".token").unlink(missing_ok=True)
        return ended


def running_processes() -> dict[str, int]:
    """What `stop` would end: "head attic" or "node study" → number of processes."""
    head = read_head()
    members: list[tuple[str, Member]] = [("node", joined) for joined in all_joined()]
    if head is not None:
        members.insert(0, ("head", head))
    counts = {f"{what} {m.node.name}": len(family(m.processes, m.id)) for what, m in members}
    return {what: count for what, count in counts.items() if count}


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
