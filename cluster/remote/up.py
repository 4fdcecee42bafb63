"""The acts of `vr cluster up` and `down INVENTORY` on the other PCs: look, copy, prepare, join, end; all at once."""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from cluster.errors import ClusterError, ClusterFailure
from cluster.facts import interface_of
from cluster.inventory import Inventory, NodeSpec
from cluster.node.head import state_folder
from cluster.node.ray_start import MARKER
from cluster.remote.shell import Result, Unreached, copy, login, run
from cluster.remote.up_plan import CODE, MARK, Found, Membership, NodePlan, Step, python_of
from cluster.source_tree import Sources
from vr_core.config import Spec, plain
from vr_core.small_files import read_text

_LOOK_S, _COPY_S, _ENVIRONMENT_S, _JOIN_S = 30.0, 600.0, 3600.0, 300.0
_SHOWN_LINES = 6
Answer = TypeVar("Answer")

LOOK = r"""
echo "code $(cat "$1/$2" 2>/dev/null)"
for record in "${XDG_STATE_HOME:-$HOME/.local/state}"/vr/joined-*.json; do
    [ -f "$record" ] || continue
    field() { sed -n "s/^$1: \"*\([^\",]*\)\"*,*\$/\1/p" "$record" | head -n 1; }
    python=
    pid=$(field '   "pid"')
    if tr '\0' '\n' 2>/dev/null <"/proc/${pid:-none}/environ" | grep -qx "$3=$(field ' "id"')"; then
        python=$(tr '\0' '\n' <"/proc/$pid/cmdline" | head -n 1)
    fi
    echo "joined $(field '  "head"') $python"
done
"""
"""For any shell of POSIX. A record is read line by line, with the indentation that `head.write_member` gives it; the
number in it may be another process's by now, which does not carry its id."""

_ENVIRONMENT = r"""
cd "$HOME/$1" || exit 1
PATH=$HOME/.local/bin:$HOME/.cargo/bin:$PATH
unset VIRTUAL_ENV
if ! command -v uv >/dev/null; then
    python3 -m pip install --user --quiet uv || {
        echo "uv is not there and pip cannot install it; type there: sudo apt install pipx && pipx install uv" >&2
        exit 1
    }
fi
UV_PROJECT_ENVIRONMENT=.venv uv sync --no-dev --no-progress --python "$2" && echo "$3" >"$4"
"""
"""Over ssh, PATH lacks the places where uv is put. The mark comes last: what was interrupted is done again."""


class Delivery(NamedTuple):
    """What the PCs are brought into."""

    inventory: Inventory
    codes: Mapping[str, str]
    """Name of the PC → its join code."""
    sources: Sources | None
    """None where every PC has an environment of its own."""
    python: str
    """Minor version that all PCs of a cluster share."""
    port_base: int | None = None
    """As of `vr cluster join --port`."""


State = Literal["joined", "updated", "unchanged", "off", "drained", "failed", "ended", "nothing there"]


class Outcome(Spec):
    """What came of one PC."""

    name: str
    address: str
    state: State
    seconds: float = 0.0
    why: str = ""
    log: tuple[str, ...] = ()
    """Where it failed: the last lines that were said."""


Tell = Callable[[str, str], None]
"""Takes a PC's name and what is going on there."""


def at_once(nodes: Sequence[NodeSpec], act: Callable[[NodeSpec, threading.Event], Answer]) -> list[Answer]:
    """`act` for all nodes at the same time; Ctrl-C ends the commands that are under way."""
    stop = threading.Event()
    with ThreadPoolExecutor(max_workers=max(len(nodes), 1)) as threads:
        futures = [threads.submit(act, node, stop) for node in nodes]
        try:
            return [future.result() for future in futures]
        except BaseException:
            stop.set()
            raise


def look_at(node: NodeSpec, stop: threading.Event) -> Found:
    """What is ready on the PC, and what vr started there; changes nothing."""
    try:
        result = run(node, ["sh", "-c", LOOK, "sh", str(CODE), MARK, MARKER], timeout_s=_LOOK_S, stop=stop)
    except Unreached as error:
        if error.kind == "off":
            return Found(off=str(error))
        return Found(refused=f"{error}; make this work without a question: {ssh_line(node)}")
    return parse_look(result.stdout)


def look_at_all(nodes: Sequence[NodeSpec]) -> dict[str, Found]:
    """`look_at` for all of them at once, by name."""
    return dict(zip([node.name for node in nodes], at_once(nodes, look_at), strict=True))


def ssh_line(node: NodeSpec) -> str:
    """The command with which a user tries what we do."""
    return " ".join(["ssh", *node.ssh, login(node), "true"])


def parse_look(text: str) -> Found:
    """The answer of a PC; lines that a login shell adds are passed over."""
    code, memberships = None, []
    for line in text.splitlines():
        match line.split(" ", 2):
            case ["code", digest] if digest:
                code = digest
            case ["joined", head, python]:
                memberships.append(Membership(head, python or None))
    return Found(code=code, memberships=tuple(memberships))


def bring_up(plan: NodePlan, delivery: Delivery, tell: Tell, stop: threading.Event) -> Outcome:
    """Carry out the steps of one PC; whatever goes wrong there is its outcome and hinders no other."""
    node = plan.node
    if plan.state in ("off", "drained"):
        return Outcome(name=node.name, address=node.address, state=plan.state, why=plan.why)
    if plan.state == "refused":
        return Outcome(name=node.name, address=node.address, state="failed", why=f"ssh: {plan.why}")
    state: State = "joined"
    if plan.state == "in the cluster":
        state = "updated" if plan.changes else "unchanged"
    acts = [(str(step), lambda do=_STEPS[step]: do(node, delivery, stop)) for step in plan.steps if step in _STEPS]
    outcome = _one_by_one(node, acts, tell, state)
    if outcome.state != "failed" and Step.SERVICE in plan.steps:
        tell(node.name, str(Step.SERVICE))
        return outcome.model_copy(update={"why": _stay(node, stop)})
    return outcome


def _one_by_one(node: NodeSpec, acts: Sequence[tuple[str, Callable[[], Result]]], tell: Tell, state: State) -> Outcome:
    """Carry out the named `acts` until one fails; `state` is what the PC comes to when none does."""
    log, seconds = _new_log(node), 0.0
    for what, act in acts:
        tell(node.name, what)
        try:
            result = act()
        except Unreached as error:
            return _failed(node, seconds, f"{what}: lost it ({error})", log)
        seconds += result.seconds
        _append(log, result)
        if result.code != 0:
            return _failed(node, seconds, f"{what}: exit code {result.code}", log)
    return Outcome(name=node.name, address=node.address, state=state, seconds=seconds)


def _copy(node: NodeSpec, delivery: Delivery, stop: threading.Event) -> Result:
    if delivery.sources is None:
        raise ValueError("no sources are staged")
    # Without the mark first: half a copy is none.
    made = run(
        node, ["sh", "-c", 'mkdir -p "$1" && rm -f "$1/$2"', "sh", str(CODE), MARK], timeout_s=_LOOK_S, stop=stop
    )
    if made.code != 0:
        return made
    keep = (".venv", MARK, "uv.lock")
    copied = copy(node, delivery.sources.folder, CODE, keep=keep, timeout_s=_COPY_S, stop=stop)
    if copied.code == 127 or "rsync: not found" in copied.stderr or "rsync: command not found" in copied.stderr:
        return copied._replace(stderr=f"{copied.stderr}\nrsync is not there; type there: sudo apt install rsync")
    return copied


def _prepare(node: NodeSpec, delivery: Delivery, stop: threading.Event) -> Result:
    digest = delivery.sources.digest if delivery.sources else ""
    script = ["sh", "-c", _ENVIRONMENT, "sh", str(CODE), delivery.python, digest, MARK]
    return run(node, script, timeout_s=_ENVIRONMENT_S, stop=stop)


def _join(node: NodeSpec, delivery: Delivery, stop: threading.Event) -> Result:
    argv = [*_vr(python_of(node)), "join", "-", "--inventory", "-", "--address", node.address, "--yes"]
    if delivery.port_base is not None:
        argv += ["--port", str(delivery.port_base)]
    # The code opens the cluster once and for half an hour only; it goes the way of secrets all the same.
    given = f"{delivery.codes[node.name]}\n{json.dumps(plain(delivery.inventory))}\n"
    return run(node, argv, stdin=given, timeout_s=_JOIN_S, stop=stop)


def _stay(node: NodeSpec, stop: threading.Event) -> str:
    """Have systemd start the PC's node after each boot; what is in the way, or nothing: it has joined in any case."""
    script = ["sh", "-c", '[ -d /run/systemd/system ] || exit 0; exec "$@"', "sh", *_vr(python_of(node))]
    try:
        result = run(node, [*script, "service", "--yes"], timeout_s=_LOOK_S, stop=stop)
    except Unreached as error:
        return f"does not come back after a boot: {error}"
    last = [line.strip() for line in result.stderr.splitlines() if line.strip()][-1:]
    if result.code != 0:
        return f"does not come back after a boot: {' '.join(last)}"
    return result.stdout.strip()


_STEPS = {Step.COPY: _copy, Step.ENVIRONMENT: _prepare, Step.JOIN: _join}


def end(node: NodeSpec, found: Found, pythons: Sequence[str], tell: Tell, stop: threading.Event) -> Outcome:
    """End what runs on that PC on the interpreters `pythons` (`up_plan.endings`)."""
    if found.off is not None:
        return Outcome(name=node.name, address=node.address, state="off", why=found.off)
    if found.refused is not None:
        return Outcome(name=node.name, address=node.address, state="failed", why=f"ssh: {found.refused}")
    if not pythons:
        return Outcome(name=node.name, address=node.address, state="nothing there")
    acts = [
        ("end", lambda python=python: run(node, [*_vr(python), "down", "--yes"], timeout_s=_JOIN_S, stop=stop))
        for python in pythons
    ]
    return _one_by_one(node, acts, tell, "ended")


def _vr(python: str) -> list[str]:
    return [python, "-m", "jobs.cli", "cluster"]


def log_file(name: str) -> Path:
    """Where what the PC `name` said last is kept."""
    return state_folder() / f"remote-{name}.log"


def _new_log(node: NodeSpec) -> Path:
    path = log_file(node.name)
    path.write_text("", encoding="utf-8")
    return path


def _append(log: Path, result: Result) -> None:
    with log.open("a", encoding="utf-8") as file:
        file.write(result.stdout + result.stderr)


def _failed(node: NodeSpec, seconds: float, why: str, log: Path) -> Outcome:
    lines = [line.rstrip() for line in read_text(log, lenient=True).splitlines() if line.strip()]
    last = tuple(line[:300] for line in lines[-_SHOWN_LINES:])
    return Outcome(name=node.name, address=node.address, state="failed", seconds=seconds, why=why, log=last)


def require_all(outcomes: Sequence[Outcome]) -> None:
    """Raise where a PC that is on failed.

    Raises:
        ClusterFailure: names them.
    """
    failed = [outcome.name for outcome in outcomes if outcome.state == "failed"]
    if failed:
        on = [outcome for outcome in outcomes if outcome.state != "off"]
        raise ClusterFailure(f"failed on {', '.join(failed)}, {len(failed)} of the {len(on)} other PCs that are on")


def require_head_here(inventory: Inventory, interfaces: Mapping[str, tuple[str, ...]]) -> None:
    """Raise where the inventory's head is not this machine.

    Raises:
        ClusterError: names the PC that it is.
    """
    head = inventory.head
    try:
        interface_of(head.address, interfaces)
    except ClusterError:
        raise ClusterError(f"{head.name}, the head, is another PC ({head.address}): run this command there") from None
