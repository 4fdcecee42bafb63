"""The way between two nodes: one listens for a while, the other measures in both directions.

The listener answers only who knows the doctor's one-time word, sends and takes nothing but zeros and numbers, and ends
by itself. A conversation is one line of JSON from the client, then what the line asks for.
"""

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
from typing import TYPE_CHECKING, Any

from cluster.probe.readings import Link, Port
from cluster.probe.storage import CHANGING, await_content, write_renamed

if TYPE_CHECKING:
    from collections.abc import Sequence

CHUNK_BYTES = 64 * 1024
CONNECT_S = 2.0
"""A LAN answers in a millisecond; who has not answered by then is kept out by a firewall or is off."""
_SILENCE_S = 10.0
"""A connection on which nothing moves for so long is broken."""
_PINGS = 21
_MORE, _LAST = b"\0", b"\1"
# Of <linux/in.h>; Python's socket module has no names for them.
_IP_MTU_DISCOVER, _IP_PMTUDISC_DO, _IP_MTU = 10, 2, 14
_UDP_IP_HEADERS_BYTES = 28


class Listener:
    """Everything that a node listens on while the others measure; what is taken already (Ray runs) is left alone."""

    def __init__(self, address: str, word: str, ports: Sequence[int], measuring: Sequence[int], share: str | None):
        """Bind all of `ports` that are free, and the first free one of `measuring` for TCP and UDP.

        Raises:
            OSError: none of `measuring` is free.
        """
        self._word = word
        self._share = share
        self._ended = threading.Event()
        self._tcp: list[socket.socket] = []
        for port in ports:
            with contextlib.suppress(OSError):
                self._tcp.append(_bound(socket.SOCK_STREAM, address, port))
        for port in measuring:
            with contextlib.suppress(OSError):
                tcp = _bound(socket.SOCK_STREAM, address, port)
                try:
                    self._udp = _bound(socket.SOCK_DGRAM, address, port)
                except OSError:
                    tcp.close()
                    continue
                self._tcp.append(tcp)
                self.port = port
                return
        for server in self._tcp:
            server.close()
        raise OSError(f"none of the ports {list(measuring)} is free")

    def serve(self, seconds: float) -> None:
        """Answer until a client with the word says stop, at most for `seconds`."""
        threads = [threading.Thread(target=self._accept, args=(server,), daemon=True) for server in self._tcp]
        threads.append(threading.Thread(target=self._echo, daemon=True))
        for thread in threads:
            thread.start()
        self._ended.wait(seconds)
        self._ended.set()
        for server in self._tcp:
            server.shutdown(socket.SHUT_RDWR)  # a thread that waits in accept keeps a closed socket open
        for thread in threads:
            thread.join()
        for server in (*self._tcp, self._udp):
            server.close()

    def _accept(self, server: socket.socket) -> None:
        while not self._ended.is_set():
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            connection.settimeout(CONNECT_S)
            request = json.loads(_line(connection))
            if request["word"] != self._word:
                return
            connection.settimeout(_SILENCE_S)
            self._answer(connection, request)

    def _answer(self, connection: socket.socket, request: dict[str, Any]) -> None:
        what = request["do"]
        if what == "ping":
            while connection.recv(1):
                connection.sendall(struct.pack("!d", time.time()))
        elif what == "take":
            _send_line(connection, take(connection))
        elif what == "give":
            give(connection, min(float(request["seconds"]), 10.0))
        elif what == "watch" and self._share:
            path = Path(self._share) / CHANGING
            try:
                _send_line(connection, {"old": path.read_bytes().decode()})
                # The client has renamed the file before it sends this byte.
                connection.recv(1)
                seen = await_content(path, request["old"].encode(), float(request["timeout_s"]))
                _send_line(connection, {"seen_s": seen, "error": None})
            except OSError as error:
                _send_line(connection, {"seen_s": None, "error": f"{error.filename}: {error.strerror}"})
        elif what == "stop":
            self._ended.set()

    def _echo(self) -> None:
        word = self._word.encode()
        self._udp.settimeout(0.2)
        while not self._ended.is_set():
            with contextlib.suppress(OSError):
                packet, sender = self._udp.recvfrom(65535)
                if packet.startswith(word):
                    self._udp.sendto(word, sender)


def _bound(kind: int, address: str, port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET, kind)
    try:
        if kind == socket.SOCK_STREAM:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((address, port))
        if kind == socket.SOCK_STREAM:
            bound.listen(16)
    except OSError:
        bound.close()
        raise
    return bound


def measure(
    address: str,
    word: str,
    ports: Sequence[int],
    measuring: Sequence[int],
    *,
    seconds: float,
    mtu: int,
    share: str | None = None,
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
        share: Folder of the doctor on the shared folder, where both nodes have one.
        stale_timeout_s: Longest wait for the other node to see a change in it.
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
            link = replace(link, there_mbit=8e-6 * float(json.loads(_line(connection))["bytes_per_s"]))
            link = replace(link, there_resent=resent)
        with _ask(address, port, word, "give", seconds=seconds) as connection:
            back = take(connection)
            link = replace(link, back_mbit=8e-6 * back["bytes_per_s"], back_resent=back["resent"])
        if share is not None:
            stale_s, stale_error = _stale(address, port, word, share, stale_timeout_s)
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
        connection.settimeout(_SILENCE_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _send_line(connection, {"word": word, "do": what, **more})
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
        (theirs,) = struct.unpack("!d", _exactly(connection, 8))
        trip = time.perf_counter() - start
        trips.append((trip, theirs - wall - trip / 2))
    return statistics.median(trip for trip, _ in trips), min(trips)[1]


def give(connection: socket.socket, seconds: float) -> float | None:
    """Send for `seconds`, then say that it is over. Returns the share of segments that had to be sent again."""
    chunk = _MORE + bytes(CHUNK_BYTES - 1)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        connection.sendall(chunk)
    connection.sendall(_LAST + bytes(CHUNK_BYTES - 1))
    resent = resent_share(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256))
    _send_line(connection, {"resent": resent})
    return resent


def take(connection: socket.socket) -> dict[str, Any]:
    """Receive until it is over: bytes a second as they arrived, and the share that the sender had to repeat."""
    buffer = memoryview(bytearray(CHUNK_BYTES))
    total = 0
    start = None
    while True:
        received = 0
        while received < CHUNK_BYTES:
            count = connection.recv_into(buffer[received:])
            if count == 0:
                raise OSError("closed early")
            received += count
        start = start or time.monotonic()  # after the first chunk, which waited for the connection
        if buffer[0] == _LAST[0]:
            break
        total += received
    seconds = max(time.monotonic() - start, 1e-9)
    return {"bytes_per_s": total / seconds, "resent": json.loads(_line(connection))["resent"]}


def resent_share(info: bytes) -> float | None:
    """Share of TCP segments sent again, from the kernel's `struct tcp_info`; None where the kernel is too old to say.

    `tcpi_total_retrans` is the 24th 32-bit number after 8 single bytes; `tcpi_segs_out` follows four 64-bit numbers.
    """
    if len(info) < 140:
        return None
    (again,) = struct.unpack_from("=I", info, 8 + 23 * 4)
    (out,) = struct.unpack_from("=I", info, 8 + 24 * 4 + 4 * 8)
    return float(again / max(out, 1))


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


def _stale(address: str, port: int, word: str, share: str, timeout_s: float) -> tuple[float | None, str | None]:
    """Seconds until the other node sees a file that this one has renamed over the one it had open before."""
    path = Path(share) / CHANGING
    new = f"{word} {time.time()}"
    try:
        old = path.read_bytes().decode()
        with _ask(address, port, word, "watch", old=old, timeout_s=timeout_s) as connection:
            first = json.loads(_line(connection))
            if first.get("old") != old:
                return None, first.get("error") or "the other node sees another file"
            write_renamed(path, new.encode())
            connection.sendall(b"r")
            connection.settimeout(timeout_s + 10.0)
            answer = json.loads(_line(connection))
    except OSError as error:
        return None, str(error)
    if answer["error"]:
        return None, answer["error"]
    return answer["seen_s"], None if answer["seen_s"] is not None else f"not seen within {timeout_s:g} s"


def _send_line(connection: socket.socket, value: object) -> None:
    connection.sendall(json.dumps(value).encode() + b"\n")


def _line(connection: socket.socket) -> bytes:
    # One byte at a time: what follows the line belongs to others.
    line = b""
    while not line.endswith(b"\n"):
        byte = connection.recv(1)
        if not byte or len(line) > 4096:
            raise OSError("closed early")
        line += byte
    return line


def _exactly(connection: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        piece = connection.recv(length - len(data))
        if not piece:
            raise OSError("closed early")
        data += piece
    return data
