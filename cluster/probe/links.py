"""The end of a link that measures, in both directions; on the other node `cluster.probe.listener` answers."""

from __future__ import annotations

import contextlib
import json
import socket
import statistics
import struct
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.probe.readings import Link, Port
from cluster.probe.storage import write_renamed
from cluster.probe.stream import CONNECT_S, SILENCE_S, exactly, give, read_line, send_line, take

if TYPE_CHECKING:
    from collections.abc import Sequence

_PINGS = 21
_OLD = "old"
"""What a file holds before it is changed."""
# Of <linux/in.h>; Python's socket module has no names for them.
_IP_MTU_DISCOVER, _IP_PMTUDISC_DO, _IP_MTU = 10, 2, 14
_UDP_IP_HEADERS_BYTES = 28


def measure(
    address: str,
    word: str,
    ports: Sequence[int],
    measuring: Sequence[int],
    *,
    seconds: float,
    mtu: int,
    changing: str | None = None,
    stale_timeout_s: float = 10.0,
) -> Link:
    """The link to the node that listens at `address`.

    Args:
        address: Of the listening node.
        word: The doctor's word.
        ports: Each is tried.
        measuring: The listener has taken one of these.
        seconds: Time for each direction of the rate.
        mtu: Of this node's network card.
        changing: File in the doctor's folder on the shared one, where both nodes have that; made here. Another pair
            may measure at the same time, and then has another file.
        stale_timeout_s: Longest wait for the other node to see a change of it.
    """
    link = Link(tuple(try_ports(address, ports)))
    port = find_listener(address, word, measuring)
    if port is None:
        return replace(link, error=f"no connection to any of the ports {', '.join(map(str, measuring))}")
    try:
        with _ask(address, port, word, "ping") as connection:
            rtt_s, ahead_s = _ping(connection)
            path_mtu = connection.getsockopt(socket.IPPROTO_IP, _IP_MTU)
        link = replace(link, rtt_ms=1000 * rtt_s, clock_ahead_s=ahead_s, path_mtu=path_mtu)
        # Before what needs large packets: where these get lost, it is known already why the rest fails.
        link = replace(link, full_packet=_full_packet(address, port, word, mtu))
        with _ask(address, port, word, "take") as connection:
            resent = give(connection, seconds)
            link = replace(link, there_mbit=8e-6 * float(json.loads(read_line(connection))["bytes_per_s"]))
            link = replace(link, there_resent=resent)
        with _ask(address, port, word, "give", seconds=seconds) as connection:
            back = take(connection)
            link = replace(link, back_mbit=8e-6 * back["bytes_per_s"], back_resent=back["resent"])
        if changing is not None:
            stale_s, stale_error = _stale(address, port, word, Path(changing), stale_timeout_s)
            link = replace(link, stale_s=stale_s, stale_error=stale_error)
    except (OSError, ValueError, KeyError) as error:
        return replace(link, error=f"the connection broke off ({error})")
    return link


def try_ports(address: str, ports: Sequence[int]) -> list[Port]:
    """Each of `ports` at `address`: all at once, since one that is dropped answers never."""
    results: dict[int, str] = {}

    def one(port: int) -> None:
        try:
            socket.create_connection((address, port), timeout=CONNECT_S).close()
            results[port] = "open"
        except ConnectionRefusedError:
            results[port] = "refused"
        except OSError:
            results[port] = "silent"

    threads = [threading.Thread(target=one, args=(port,)) for port in ports]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [Port(port, results[port]) for port in ports]


def stop(address: str, word: str, measuring: Sequence[int]) -> None:
    """End the listener at `address`, where one listens."""
    port = find_listener(address, word, measuring)
    if port is not None:
        with contextlib.suppress(OSError):
            _ask(address, port, word, "stop").close()


def find_listener(address: str, word: str, measuring: Sequence[int]) -> int | None:
    """The port of `measuring` where somebody knows the word."""
    for port in measuring:
        with contextlib.suppress(OSError), _ask(address, port, word, "ping") as connection:
            connection.settimeout(CONNECT_S)
            connection.sendall(b"p")
            if len(connection.recv(8)) == 8:
                return port
    return None


def _ask(address: str, port: int, word: str, what: str, **more: object) -> socket.socket:
    connection = socket.create_connection((address, port), timeout=CONNECT_S)
    try:
        connection.settimeout(SILENCE_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        send_line(connection, {"word": word, "do": what, **more})
    except OSError:
        connection.close()
        raise
    return connection


def _ping(connection: socket.socket) -> tuple[float, float]:
    """Median round trip, and how far the other clock is ahead, by the quickest answer. Both in seconds."""
    trips = []
    for _ in range(_PINGS):
        start, wall = time.perf_counter(), time.time()
        connection.sendall(b"p")
        (theirs,) = struct.unpack("!d", exactly(connection, 8))
        trip = time.perf_counter() - start
        trips.append((trip, theirs - wall - trip / 2))
    return statistics.median(trip for trip, _ in trips), min(trips)[1]


def _full_packet(address: str, port: int, word: str, mtu: int) -> bool | None:
    """Whether a packet that fills the card's MTU gets through in one piece; None where not even a small one does."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DO)
        probe.settimeout(0.5)
        try:
            probe.connect((address, port))
            if not _echoed(probe, word.encode()):
                return None
            # The loopback card's MTU is more than a packet can be long.
            return _echoed(probe, word.encode().ljust(min(mtu, 65535) - _UDP_IP_HEADERS_BYTES, b"\0"))
        except OSError:
            return False  # the kernel knows a smaller path already


def _echoed(probe: socket.socket, packet: bytes) -> bool:
    for _ in range(3):  # one may be lost on a busy network
        try:
            probe.send(packet)
            probe.recv(65535)
            return True
        except socket.timeout:  # noqa: UP041 - not yet TimeoutError in Python 3.8
            continue
    return False


def _stale(address: str, port: int, word: str, path: Path, timeout_s: float) -> tuple[float | None, str | None]:
    """Seconds until the other node sees a file that this one has renamed over the one it had open before."""
    try:
        write_renamed(path, _OLD.encode())
        with _ask(address, port, word, "watch", file=path.name, old=_OLD, timeout_s=timeout_s) as connection:
            first = json.loads(read_line(connection))
            if first.get("old") != _OLD:
                return None, first.get("error") or "the other node sees another file"
            write_renamed(path, f"{word} {path.name}".encode())
            connection.sendall(b"r")
            connection.settimeout(timeout_s + 10.0)
            answer = json.loads(read_line(connection))
    except OSError as error:
        return None, str(error)
    if answer["error"]:
        return None, answer["error"]
    return answer["seen_s"], None if answer["seen_s"] is not None else f"not seen within {timeout_s:g} s"
