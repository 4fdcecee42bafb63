"""The end of a link that answers: what a node listens on while the others measure.

It answers only who knows the doctor's one-time word, sends and takes nothing but zeros and numbers, and ends by itself.
A conversation is one line of JSON from the client (`cluster.probe.links`), then what the line asks for.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.probe.storage import await_content
from cluster.probe.stream import CONNECT_S, SILENCE_S, give, read_line, send_line, take

if TYPE_CHECKING:
    from collections.abc import Sequence


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
            request = json.loads(read_line(connection))
            if request["word"] != self._word:
                return
            connection.settimeout(SILENCE_S)
            self._answer(connection, request)

    def _answer(self, connection: socket.socket, request: dict[str, Any]) -> None:
        what = request["do"]
        if what == "ping":
            while connection.recv(1):
                connection.sendall(struct.pack("!d", time.time()))
        elif what == "take":
            send_line(connection, take(connection))
        elif what == "give":
            give(connection, min(float(request["seconds"]), 10.0))
        elif what == "watch" and self._share:
            path = _file_in(self._share, request["file"])
            try:
                send_line(connection, {"old": path.read_bytes().decode()})
                # The client has renamed the file before it sends this byte.
                connection.recv(1)
                seen = await_content(path, request["old"].encode(), float(request["timeout_s"]))
                send_line(connection, {"seen_s": seen, "error": None})
            except OSError as error:
                send_line(connection, {"seen_s": None, "error": f"{error.filename}: {error.strerror}"})
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


def _file_in(folder: str, name: str) -> Path:
    """The file `name` of `folder`. Raises ValueError for a name that leads elsewhere or is hidden."""
    if not name or "/" in name or name.startswith("."):
        raise ValueError(f"{name!r} is no plain name")
    return Path(folder) / name


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
