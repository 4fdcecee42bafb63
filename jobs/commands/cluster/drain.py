"""`vr cluster drain` and `undrain`: take a PC back for a while, and give it again."""

import datetime
import time
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.errors import ClusterError, ClusterFailure
from jobs.commands.terminal import Yes, agree, console
from vr_core.errors import command

if TYPE_CHECKING:
    from cluster.node.head import Head
    from jobs.queue.node_power import Seen

_POLL_S = 0.5


def drain(
    node: Annotated[str, typer.Argument(metavar="NODE", help="Its name, as `vr cluster status` shows it.")],
    for_: Annotated[
        str | None,
        typer.Option(
            "--for",
            metavar="DURATION",
            help="Bring it back after this time, such as 90s, 30m, 3h or 2d.",
            show_default="until `vr cluster undrain`",
        ),
    ] = None,
    until_: Annotated[
        str | None,
        typer.Option(
            "--until",
            metavar="HH:MM",
            help="Bring it back at this time of day.",
            show_default="until `vr cluster undrain`",
        ),
    ] = None,
    back: Annotated[bool, typer.Option("--back", help="Bring it back now: the same as undrain.")] = False,
    yes: Yes = False,
) -> None:
    """Take a PC out of the cluster for a while.

    Its running work writes a checkpoint and moves on, and the PC leaves the cluster. Run it on the head.

    Example: vr cluster drain study --until 23:00
    """
    from cluster.hours import duration_s
    from cluster.node.drain import change_drained, drain_for, put, shown_time, until
    from cluster.node.head import find_head
    from cluster.node.processes import now as boot_now
    from jobs.queue.node_power import drained_node

    if back:
        undrain(node)
        return
    now = datetime.datetime.now()
    until_s = until(now, for_, until_)
    head = find_head()
    _require_keeper(head)
    seen = _seen(head, node)
    if seen is None and not _is_described(node):
        raise ClusterError(f"{node}: not a node of this cluster; `vr cluster status` shows them")
    is_head = seen is not None and seen.is_head
    ends = shown_time(until_s, now.timestamp()) if until_s is not None else f"with: {command('cluster undrain', node)}"
    what = "its workers leave, Ray stays (it is the head)" if is_head else "it leaves the cluster"
    console().print(f"drains  {node}: {what}; what runs on it writes a checkpoint and goes on elsewhere, or waits")
    within_s = head.timings.leave_within_s
    console().print(f"within  {within_s:g} s; what runs on it then is ended")
    console().print(f"back    {ends}", highlight=False)
    agree(f"Drain {node}?", yes)
    now_s = time.time()
    record = drained_node(node, seen, "user", now_s, until_s, head.timings)
    if for_ is not None:
        drain_for(record, duration_s(for_), boot_now())
    else:
        change_drained(lambda others: put(others, record))
    with console().status(f"{node}: waiting for its work to leave (Ctrl-C: it goes on without you)"):
        end_s = time.monotonic() + within_s + 60
        while not _has_left(head, node):
            if time.monotonic() > end_s:
                raise ClusterFailure(f"{node}: still there; see keeper.log in {head.ray.log.parent}")
            time.sleep(_POLL_S)
    console().print(f"{node} holds no workers now." if is_head else f"{node} has left.", highlight=False)


def undrain(node: Annotated[str, typer.Argument(metavar="NODE", help="Name of the drained node.")]) -> None:
    """Bring a drained PC back now.

    It may come back outside of its owner hours too. Run this on the head.

    Example: vr cluster undrain study
    """
    from cluster.node.drain import by_name, change_drained, read_drained
    from cluster.node.drain import undrain as brought_back
    from cluster.node.head import find_head

    drained = by_name(read_drained())
    if node not in drained:
        raise ClusterError(f"{node}: not drained; drained are: {', '.join(drained) or 'none'}")
    _require_keeper(find_head())
    change_drained(lambda record: brought_back(record, node))
    console().print(f"{node} may come back; `vr cluster status` shows when it has.", highlight=False)


def _require_keeper(head: "Head") -> None:
    from cluster.node.processes import alive

    if not any(ref.name == "keeper" and alive(ref) for ref in head.processes):
        raise ClusterFailure("the keeper does not run, which drains nodes; start it with `vr cluster head`")


def _seen(head: "Head", name: str) -> "Seen | None":
    from jobs.queue.node_power import look

    return next((seen for seen in look(head) if seen.name == name), None)


def _is_described(name: str) -> bool:
    """Whether the head's inventory has it: a PC that is off can be drained too, and is then not woken."""
    from cluster.node.head import read_inventory

    inventory = read_inventory()
    return inventory is not None and any(spec.name == name for spec in inventory.nodes)


def _has_left(head: "Head", name: str) -> bool:
    seen = _seen(head, name)
    return seen is None or not seen.alive or seen.is_head and not seen.busy
