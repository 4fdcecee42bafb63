"""Nodes that are taken back for a while: the head's record of them, and every decision about it. Pure but for the file.

A drained node holds no workers of ours. The record is `drained.json` in the head's state folder; supervisors read it,
the keeper acts on it: it lets Ray drain the node, so that its processes end, and forgets the node when its time has
come. A copy lies in the head's GCS (`cluster.node.gcs`), where the node itself asks whether it may come back.
"""

import datetime
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal

from filelock import FileLock

from cluster.errors import ClusterError
from cluster.hours import duration_s
from cluster.inventory import NodeName
from cluster.node.head import state_folder
from cluster.node.processes import Now
from cluster.trust.token import write_private
from vr_core.config import Spec, plain, validate
from vr_core.errors import ConfigError, command
from vr_core.files import clear_drafts
from vr_core.small_files import read_json

_CLOCK = "%H:%M"
DrainedBy = Literal["user", "hours"]


class Drained(Spec):
    """One node that holds no workers, and what it would offer."""

    name: NodeName
    by: DrainedBy
    """hours: it is outside of its owner hours, and comes back with them."""
    since_s: float
    """Unix time by the head's clock, as all times here."""
    until_s: float | None = None
    """When it comes back by itself; None: not before `vr cluster undrain`, or the owner hours, say so."""
    leaves_s: float
    """What still runs on it then is ended; the keeper counts that time itself, since the clock may be set."""
    is_head: bool = False
    """The head's own PC: its workers leave, Ray stays."""
    labels: dict[str, str] = {}
    cpus: float = 0.0
    gpus: float = 0.0

    @property
    def why(self) -> str:
        """`study is drained until 23:00`."""
        if self.until_s is not None:
            return f"{self.name} is drained until {shown_time(self.until_s, self.since_s)}"
        if self.by == "hours":
            return f"{self.name} is drained until its owner hours begin"
        return f"{self.name} is drained until `{command('cluster undrain', self.name)}`"


class Record(Spec):
    """`drained.json`."""

    nodes: tuple[Drained, ...] = ()
    lent: tuple[NodeName, ...] = ()
    """Nodes that the user brought back outside of their owner hours; until these begin they are left alone."""


class Span(Spec):
    """A node that was drained for a duration, which is counted from boot: the clock may be set meanwhile."""

    name: NodeName
    since_s: float
    """Of its record; a later drain of the same node is another one."""
    boot_id: str
    """Of the head's PC. After another boot only `until_s` of the record is left."""
    over_s: float
    """Seconds from boot."""


class Spans(Spec):
    """`drained-for.json`: apart, since drivers of earlier versions read the record and refuse what they do not know."""

    nodes: tuple[Span, ...] = ()


def reckoned(record: Record, spans: Iterable[Span], at: Now, now_s: float) -> Record:
    """`record` with the ends of durations as the clock, which says `now_s`, will show them; `at` is the same moment."""
    over_s = {(span.name, span.since_s): span.over_s for span in spans if span.boot_id == at.boot_id}
    ends = {key: now_s + end_s - at.since_boot_s for key, end_s in over_s.items()}
    nodes = (n.model_copy(update={"until_s": ends.get((n.name, n.since_s), n.until_s)}) for n in record.nodes)
    return record.model_copy(update={"nodes": tuple(nodes)})


def shown_time(moment_s: float, now_s: float) -> str:
    """Local time of day; with the date where that is another day than today."""
    moment, now = (datetime.datetime.fromtimestamp(s) for s in (moment_s, now_s))
    return moment.strftime(_CLOCK if moment.date() == now.date() else f"%Y-%m-%d {_CLOCK}")


def until(now: datetime.datetime, for_: str | None, until_: str | None) -> float | None:
    """Unix time that `--for 3h` or `--until 23:00` (its next time) means; None where neither is given.

    `now` is local time without a zone, so that a time of day is the wall's on its date.

    Raises:
        ClusterError: both are given, or one is malformed.
    """
    if for_ is not None and until_ is not None:
        raise ClusterError("--for and --until: choose one")
    if for_ is not None:
        try:
            return now.timestamp() + duration_s(for_)
        except ValueError as error:
            raise ClusterError(f"--for {error}") from None
    if until_ is None:
        return None
    try:
        clock = datetime.datetime.strptime(until_, _CLOCK).time()
    except ValueError:
        raise ClusterError(f"--until {until_!r} should be a time of day such as 23:00") from None
    moment = datetime.datetime.combine(now.date(), clock, tzinfo=now.tzinfo)
    return (moment if moment > now else moment + datetime.timedelta(days=1)).timestamp()


def put(record: Record, drained: Drained) -> Record:
    """`record` with `drained`, in place of an earlier one of its name; of one that has left, what it offered stays."""
    before = by_name(record).get(drained.name)
    if before is not None and not drained.cpus:
        offer = {key: getattr(before, key) for key in ("labels", "cpus", "gpus", "is_head")}
        drained = drained.model_copy(update=offer)
    others = tuple(node for node in record.nodes if node.name != drained.name)
    lent = tuple(name for name in record.lent if name != drained.name)
    return Record(nodes=(*others, drained), lent=lent)


def drop(record: Record, names: Iterable[str]) -> Record:
    """`record` without `names`, as drained and as lent."""
    gone = set(names)
    return Record(
        nodes=tuple(node for node in record.nodes if node.name not in gone),
        lent=tuple(name for name in record.lent if name not in gone),
    )


def undrain(record: Record, name: str) -> Record:
    """`record` once the user has brought `name` back: one that its owner hours keep away is lent until they begin."""
    by_hours = any(node.name == name and node.by == "hours" for node in record.nodes)
    rest = drop(record, [name])
    return rest.model_copy(update={"lent": (*rest.lent, name)}) if by_hours else rest


def is_over(drained: Drained, now_s: float) -> bool:
    """Whether the time has come at which the node is to be back."""
    return drained.until_s is not None and now_s >= drained.until_s


def may_start(name: str, drained: Iterable[str] | None) -> bool:
    """Whether the node `name` may (again) start Ray: the rule for whatever restarts a node's Ray when that has ended.

    Args:
        name: Of the node.
        drained: Names that the head has drained now (`cluster.node.gcs.ask`); None: the head does not answer, and then
            Ray could not join it either.
    """
    return drained is not None and name not in drained


def drained_file() -> Path:
    """Where the head keeps its record."""
    return state_folder() / "drained.json"


def read_drained() -> Record:
    """The nodes that are drained now.

    Raises:
        ClusterError: the file is damaged.
    """
    path = drained_file()
    try:
        return validate(Record, read_json(path), str(path))
    except FileNotFoundError:
        return Record()
    except (OSError, ValueError, ConfigError) as error:
        raise ClusterError(f"{path}: unreadable ({error}); delete it: then no node is drained") from None


def _spans_file() -> Path:
    return drained_file().with_name("drained-for.json")


def read_spans() -> tuple[Span, ...]:
    """The durations of nodes that were drained for one.

    Raises:
        ClusterError: the file is damaged.
    """
    path = _spans_file()
    try:
        return validate(Spans, read_json(path), str(path)).nodes
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, ConfigError) as error:
        raise ClusterError(f"{path}: unreadable ({error}); delete it: then the clock tells when nodes return") from None


def drain_for(drained: Drained, seconds: float, at: Now) -> None:
    """Note `drained`, which comes back `seconds` after the moment `at`."""
    span = Span(name=drained.name, since_s=drained.since_s, boot_id=at.boot_id, over_s=at.since_boot_s + seconds)
    with FileLock(_spans_file().with_suffix(".lock"), timeout=30):
        clear_drafts(state_folder(), {_spans_file().name})
        known = {node.name: node.since_s for node in read_drained().nodes}
        others = (s for s in read_spans() if known.get(s.name) == s.since_s and s.name != span.name)
        write_private(_spans_file(), json.dumps(plain(Spans(nodes=(*others, span))), indent=1) + "\n")
    change_drained(lambda record: put(record, drained))


def change_drained(change: Callable[[Record], Record]) -> Record:
    """Replace the record by `change` of it, one change at a time; returns the new one."""
    with FileLock(drained_file().with_suffix(".lock"), timeout=30):
        clear_drafts(state_folder(), {drained_file().name})
        before = read_drained()
        after = change(before)
        if after != before:
            write_private(drained_file(), json.dumps(plain(after), indent=1) + "\n")
        return after


def by_name(record: Record) -> Mapping[str, Drained]:
    """Name → drained node, for whoever shows nodes."""
    return {node.name: node for node in record.nodes}
