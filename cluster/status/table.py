"""The cluster's nodes for a terminal."""

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from cluster.doctor.finding import size
from cluster.status.nodes import CardRow, NodeRow

_STYLES = {"alive": "green", "leaving": "yellow", "drained": "yellow", "dead": "bold red", "missing": "red"}


def table(rows: Sequence[NodeRow], now_s: float) -> Table:
    """One row for each node; `now_s` is Unix time."""
    result = Table(box=None, pad_edge=False)
    for name in ("node", "state", "GPUs", "in use", "used by", "PC"):
        # A long reason must not push the cards off the screen.
        result.add_column(name, max_width=36 if name == "state" else None)
    head = next((row for row in rows if row.head), None)
    for row in rows:
        result.add_row(
            escape(f"{row.name} (head)" if row.head else row.name) + f"\n{row.address}",
            _state(row, now_s),
            escape("\n".join(map(card_line, row.cards))) or "none",
            f"{row.gpus_used:g} of {row.gpus:g} GPUs\n{row.cpus_used:g} of {row.cpus:g} CPUs" if row.alive else "",
            escape("\n".join(row.runs)),
            "\n".join([*map(escape, pc_lines(row)), *_software(row, head)]),
        )
    return result


def _state(row: NodeRow, now_s: float) -> str:
    since = "" if row.since_s is None else f" for {ago(now_s - row.since_s)}"
    own = " ".join(f"{key}={value}" for key, value in sorted(row.labels.items()) if not key.startswith("vr/"))
    lines = [f"[{_STYLES[row.state]}]{row.state}[/]{since}", escape(row.why), escape(own)]
    return "\n".join(line for line in lines if line)


def card_line(card: CardRow) -> str:
    """`GeForce-RTX-3090-Ti 24 GiB, 61 % full, 320 W, 67 °C`, as far as it is known."""
    parts = [f"{card.model} {card.memory_gib} GiB"]
    if card.used_mib is not None and card.memory_gib:
        parts.append(f"{100 * card.used_mib / 1024 / card.memory_gib:.0f} % full")
    if card.busy_percent is not None:
        parts.append(f"{card.busy_percent} % busy")
    if card.power_w is not None:
        parts.append(f"{card.power_w:.0f} W")
    if card.temperature_c is not None:
        parts.append(f"{card.temperature_c} °C")
    return ", ".join(parts) + (f" ← {' '.join(card.runs)}" if card.runs else "")


def pc_lines(row: NodeRow) -> list[str]:
    """Processor, memory, disk, network and link, as far as they are known."""
    lines = []
    if row.cpu_percent is not None:
        lines.append(f"CPU {row.cpu_percent:.0f} %")
    if row.memory_bytes and row.memory_used_bytes is not None:
        lines.append(f"memory {size(row.memory_used_bytes)} of {size(row.memory_bytes)}")
    if row.disk_free_bytes is not None:
        lines.append(f"disk {size(row.disk_free_bytes)} free")
    if row.sent_bytes_per_s is not None and row.received_bytes_per_s is not None:
        lines.append(f"network {size(row.sent_bytes_per_s)}/s out, {size(row.received_bytes_per_s)}/s in")
    if row.link_mbit is not None:
        lines.append(f"link {row.link_mbit} Mbit/s")
    return lines


def _software(row: NodeRow, head: NodeRow | None) -> list[str]:
    """What its Ray was started from, conspicuous where it is another version than the head's."""
    if row.version is None:
        return []
    reported = f"vr {row.version}{f' ({row.commit[:8]})' if row.commit else ''}, Python {row.python}"
    if head is not None and differs(row, head):
        return [f"[bold red]{escape(reported)}, other than the head's[/]"]
    return [escape(reported)]


def differs(row: NodeRow, head: NodeRow) -> bool:
    """Whether a node runs other code than the head, or another Python than one of other patch level."""
    commits = row.commit is not None and head.commit is not None and row.commit != head.commit
    return commits or row.version != head.version or _minor(row.python) != _minor(head.python)


def _minor(python: str | None) -> str:
    return (python or "").rpartition(".")[0]


def ago(seconds: float) -> str:
    """A duration in its largest unit: "3 min"."""
    for unit, scale in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * scale:
            return f"{seconds / scale:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
