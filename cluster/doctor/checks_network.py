"""Ports and links between nodes. Pure."""

from collections.abc import Iterator

from cluster.doctor.finding import Finding, fine, problem
from cluster.doctor.report import ClusterReport, NodeReport
from cluster.probe.readings import Link

_GIGABIT_MBIT = 800.0
"""What is left of 1 Gbit/s for the data, with a margin: 940 on a quiet cable."""
_SHARE_OF_SPEED = 0.6
_MAX_RESENT = 0.01
_MAX_RTT_MS = 3.0
_UNEQUAL = 2.0
_WEIGHTS = 10e6


def ports(examination: ClusterReport) -> Iterator[Finding]:
    """No firewall between the nodes. Every listener was known to listen, so what does not open is kept out."""
    plan = examination.ports
    called = {port: name.replace("_", " ") for name, port in plan.singles(head=True).items()}
    called |= {plan.worker_low: "workers", plan.worker_high: "workers"}
    without_loss = {plan.metrics, plan.dashboard_metrics, plan.autoscaler_metrics}
    by_name = {node.name: node for node in examination.nodes}
    for (one, other), link in examination.links.items():
        closed = [port for port in link.ports if port.state != "open"]
        sides = (by_name[one], by_name[other])
        if link.rtt_ms is None:
            yield _shut_out(sides, link)
        elif closed:
            names = ", ".join(f"{p.port} ({called.get(p.port, '')}: {_how(p.state)})" for p in closed)
            mild = {port.port for port in closed} <= without_loss
            remedy = _admit(*sides, " ".join(str(port.port) for port in closed))
            needed = "open to the other nodes" + ("; only metrics are missing" if mild else "")
            yield problem("ports", "warns" if mild else "blocks", [other, one], f"on {other}: {names}", needed, remedy)
        else:
            yield fine(
                "ports", [one, other], f"{len(link.ports)} ports of {other} open to {one}", "open to the other nodes"
            )
    for pair, why in examination.links_why.items():
        yield problem(
            "ports", "blocks", pair, f"not measured: {why}", "every pair of nodes", "see the node's other lines"
        )


def _how(state: str) -> str:
    return "rejected" if state == "refused" else "no answer"


def _shut_out(sides: tuple[NodeReport, NodeReport], link: Link) -> Finding:
    one, other = sides
    opened = [port.port for port in link.ports if port.state == "open"]
    if opened:  # Ray's ports are let in, torch's are not
        measured = f"on {other.name}: {link.error}; open are {', '.join(map(str, opened))}"
        needed = "torch's connections (gloo, NCCL) use ports 32768 to 60999 between all nodes"
    else:
        measured = f"on {other.name}: {link.error}, nor any other port"
        needed = "open to the other nodes"
    return problem("ports", "blocks", [other.name, one.name], measured, needed, _admit(one, other, "1024:65535"))


def _admit(one: NodeReport, other: NodeReport, which: str) -> str:
    what = "everything" if ":" in which else which
    return (
        f"on {other.name}: sudo ufw allow from {one.spec.address} "
        f"(admits {what} from {one.name}), and the same on {one.name} for {other.spec.address}; "
        "or the nftables recipe in cluster/GUIDE.md"
    )


def links(examination: ClusterReport) -> Iterator[Finding]:
    """Rate both ways, losses, round trip."""
    by_name = {node.name: node for node in examination.nodes}
    for (one, other), link in examination.links.items():
        if link.there_mbit is None or link.back_mbit is None:
            if link.rtt_ms is not None:  # else `ports` has said it
                yield _broken_off(one, other, link)
            continue
        found = [*_link_problems(by_name[one], by_name[other], link)]
        yield from found
        if not found:
            yield fine("link", [one, other], describe(link), _needed_rate())


def _broken_off(one: str, other: str, link: Link) -> Finding:
    measured = f"{link.error} while much was sent"
    if link.full_packet is False:
        return problem("link", "blocks", [one, other], measured, "a rate", "large packets get lost: see mtu")
    remedy = "another cable and another port of the switch; then look at dmesg on both for the network card"
    return problem("link", "blocks", [one, other], measured, "a rate", remedy)


def describe(link: Link) -> str:
    """A link in a few words."""
    lost = max(link.there_resent or 0.0, link.back_resent or 0.0)
    parts = [f"{link.there_mbit or 0:.0f} Mbit/s there, {link.back_mbit or 0:.0f} back", f"{link.rtt_ms or 0:.2f} ms"]
    return ", ".join([*parts, f"{100 * lost:.2g} % sent again"])


def exchange_s(mbit: float, weights: float = _WEIGHTS) -> float:
    """Seconds in which two nodes exchange 32-bit gradients of so many weights over a link of that rate."""
    return 4 * 8 * weights / (1e6 * mbit)


def _needed_rate() -> str:
    seconds = exchange_s(_GIGABIT_MBIT)
    return (
        f"{_GIGABIT_MBIT:.0f} Mbit/s: gradients of 10 million weights take {seconds:.1f} s a step there (`sync: plain`)"
    )


def _link_problems(one: NodeReport, other: NodeReport, link: Link) -> Iterator[Finding]:
    names = [one.name, other.name]
    there, back = link.there_mbit or 0.0, link.back_mbit or 0.0
    slower = min(there, back)
    speeds = [p.interface.speed_mbit for p in (one, other) if p.interface and p.interface.speed_mbit]
    wireless = [p.name for p in (one, other) if p.interface and p.interface.wireless]
    cable = f"a cable for {' and '.join(wireless)}" if wireless else "another cable and another port of the switch"
    if slower < _GIGABIT_MBIT:
        low = min(speeds, default=None)
        if low is not None and low < 1000:
            cable = f"the card agreed on {low} Mbit/s: a cable with eight wires (Cat 5e or better), a Gigabit switch"
        needed = f"{_needed_rate()}, {exchange_s(max(slower, 1e-3)):.1f} s here"
        remedy = f"{cable}; or recipes with sync: {{auto: [bf16, diloco]}}"
        yield problem("link", "warns", names, describe(link), needed, remedy)
    elif speeds and slower < _SHARE_OF_SPEED * min(speeds):
        needed = f"{_SHARE_OF_SPEED * min(speeds):.0f} Mbit/s on cards that agreed on {min(speeds)}"
        remedy = "stop other traffic and measure again; look at the CPU's load, and at the card's own driver"
        yield problem("link", "warns", names, describe(link), needed, remedy)
    elif not speeds and max(there, back) > _UNEQUAL * slower:
        # Cards that say a speed were judged by it above.
        needed = "about the same both ways"
        yield problem("link", "warns", names, describe(link), needed, f"{cable}; stop other traffic and measure again")
    lost = max(link.there_resent or 0.0, link.back_resent or 0.0)
    if lost > _MAX_RESENT:
        needed = f"below {100 * _MAX_RESENT:g} % sent again"
        yield problem(
            "link", "warns", names, describe(link), needed, f"{cable}; a full or faulty switch loses packets too"
        )
    if (link.rtt_ms or 0.0) > _MAX_RTT_MS:
        needed = f"below {_MAX_RTT_MS:g} ms in a LAN: every step waits for several round trips"
        remedy = "a cable instead of Wi-Fi or powerline; the LAN's address instead of a VPN's"
        yield problem("link", "warns", names, describe(link), needed, remedy)


def mtu(examination: ClusterReport) -> Iterator[Finding]:
    """One packet size on all nodes, and no device between them that swallows the large ones."""
    by_name = {node.name: node for node in examination.nodes}
    for (one, other), link in examination.links.items():
        # A packet's length has 16 bits, whatever the loopback card says.
        ends = {p.name: min(p.interface.mtu, 65535) for p in (by_name[one], by_name[other]) if p.interface}
        if link.rtt_ms is None or len(ends) < 2:
            continue
        measured = ", ".join(f"{name} {value}" for name, value in ends.items())
        measured += f"; path {link.path_mtu}" if link.path_mtu and link.path_mtu < min(ends.values()) else ""
        card = by_name[one].interface
        line = f"sudo ip link set {card.name if card else 'CARD'} mtu 1500"
        if link.full_packet is False and len(set(ends.values())) == 1 and not _path_known(link, ends):
            remedy = f"1500 on every node ({line}, and in the network settings), or a switch that passes jumbo frames"
            yield problem(
                "mtu", "blocks", [one, other], f"{measured}; a full packet got lost", "full packets pass", remedy
            )
        elif len(set(ends.values())) > 1:
            smallest = min(ends.values())
            remedy = f"one value on all nodes: sudo ip link set CARD mtu {smallest}, and in the network settings"
            yield problem("mtu", "warns", [one, other], measured, "the same packet size (MTU) on all nodes", remedy)
        else:
            yield fine("mtu", [one, other], measured, "the same packet size (MTU) on all nodes")


def _path_known(link: Link, ends: dict[str, int]) -> bool:
    """Whether the kernel has been told of a smaller size on the way (a VPN, a tunnel): it cuts by itself then."""
    return link.path_mtu is not None and link.path_mtu < min(ends.values())
