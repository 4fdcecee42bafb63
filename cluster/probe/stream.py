"""What both ends of the doctor's conversations say over a connection: lines of JSON, and as many zeros as will go."""

from __future__ import annotations

import json
import socket
import struct
import time
from typing import Any

CHUNK_BYTES = 64 * 1024
CONNECT_S = 2.0
"""A LAN answers in a millisecond; who has not answered by then is kept out by a firewall or is off."""
SILENCE_S = 10.0
"""A connection on which nothing moves for so long is broken."""
_MORE, _LAST = b"\0", b"\1"


def give(connection: socket.socket, seconds: float) -> float | None:
    """Send for `seconds`, then say that it is over. Returns the share of segments that had to be sent again."""
    chunk = _MORE + bytes(CHUNK_BYTES - 1)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        connection.sendall(chunk)
    connection.sendall(_LAST + bytes(CHUNK_BYTES - 1))
    resent = resent_share(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256))
    send_line(connection, {"resent": resent})
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
    return {"bytes_per_s": total / seconds, "resent": json.loads(read_line(connection))["resent"]}


def resent_share(info: bytes) -> float | None:
    """Share of TCP segments sent again, from the kernel's `struct tcp_info`; None where the kernel is too old to say.

    `tcpi_total_retrans` is the 24th 32-bit number after 8 single bytes; `tcpi_segs_out` follows four 64-bit numbers.
    """
    if len(info) < 140:
        return None
    (again,) = struct.unpack_from("=I", info, 8 + 23 * 4)
    (out,) = struct.unpack_from("=I", info, 8 + 24 * 4 + 4 * 8)
    return float(again / max(out, 1))


def send_line(connection: socket.socket, value: object) -> None:
    """`value` as one line of JSON."""
    connection.sendall(json.dumps(value).encode() + b"\n")


def read_line(connection: socket.socket) -> bytes:
    """One line of at most 4 KiB. Raises OSError where it ends before."""
    # One byte at a time: what follows the line belongs to others.
    line = b""
    while not line.endswith(b"\n"):
        byte = connection.recv(1)
        if not byte or len(line) > 4096:
            raise OSError("closed early")
        line += byte
    return line


def exactly(connection: socket.socket, length: int) -> bytes:
    """So many bytes. Raises OSError where there are fewer."""
    data = b""
    while len(data) < length:
        piece = connection.recv(length - len(data))
        if not piece:
            raise OSError("closed early")
        data += piece
    return data
