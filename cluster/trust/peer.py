"""Who answers at the other end of a connection within this PC: asked before anything secret is sent.

A port of this PC belongs to nobody. Where the dashboard is not up yet, or has just died, another account may listen in
its place and be sent the token. The kernel tells whose the other end of an established connection is: `/proc/net/tcp`
has a row for each end, with the account's number (proc(5)).

On another PC this cannot be seen. Ray's own gRPC connections cannot be looked at either: before one is made, a
connection to the same port is (`require_own_at`), which leaves a moment between the two.
"""

import http.client
import ipaddress
import os
import pwd
import socket
import time
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cluster.errors import ForeignListener

_TIMEOUT_S = 10.0
"""For the other end to accept: until then the kernel may not say whose it is."""
_POLL_S = 0.01
_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))

_LISTENS = "0A"
"""The state of a row that accepts connections (include/net/tcp_states.h of Linux)."""

Endpoint = tuple[str, int]
"""IPv4 address and port."""


def owner_of(rows: Iterable[str], end: Endpoint, other: Endpoint) -> int | None:
    """Account of the end of a connection that is at `end`, from the rows of the kernel's tables; None: not known yet.

    A row without an inode is of a connection that nobody has accepted yet: of those, kernels before 6.17 say that they
    are root's.

    Args:
        rows: lines of `/proc/net/tcp` and `/proc/net/tcp6`; headings do not matter.
        end: of whom is asked.
        other: its peer.
    """
    for row in rows:
        fields = row.split()
        if len(fields) > 9 and ":" in fields[1] and (_endpoint(fields[1]), _endpoint(fields[2])) == (end, other):
            return None if fields[9] == "0" else int(fields[7])
    return None


def require_own(connection: socket.socket) -> None:
    """Refuse a connection that another account of this PC answers; one to another PC passes.

    Raises:
        ForeignListener: it is another account's, or the kernel does not say whose.
    """
    here, there = _of(connection.getsockname()), _of(connection.getpeername())
    if not ipaddress.ip_address(there[0]).is_loopback and there[0] != here[0]:
        return
    until_s = time.monotonic() + _TIMEOUT_S
    while (found := owner_of(_rows(), there, here)) is None and time.monotonic() < until_s:
        time.sleep(_POLL_S)
    if found == os.getuid():
        return
    raise ForeignListener(
        f"port {there[1]} of this PC is held by {account(found)}, not by the cluster; nothing secret was sent. "
        "See who listens there (ss -tlp), end it, and where the token may have been sent before: vr cluster rotate"
    )


def listener_of(port: int, rows: Iterable[str] | None = None) -> int | None:
    """Account that listens at `port` of this PC, on whichever of its addresses; None where nobody does.

    Args:
        port: of this PC.
        rows: as of `owner_of`; None: what the kernel says now.
    """
    for row in _rows() if rows is None else rows:
        fields = row.split()
        found = _endpoint(fields[1]) if len(fields) > 7 and ":" in fields[1] else None
        if found is not None and found[1] == port and fields[3] == _LISTENS:
            return int(fields[7])
    return None


def _rows() -> list[str]:
    return [line for table in _TABLES if table.exists() for line in table.read_text(encoding="ascii").splitlines()]


def require_own_at(address: str) -> None:
    """As `require_own`, of a connection to `address:port` that is made for that alone; where none answers, nothing.

    Raises:
        ForeignListener: as `require_own`.
    """
    host, _, port = address.partition(":")
    if not port.isdecimal():
        return
    try:
        connection = socket.create_connection((host, int(port)), timeout=_TIMEOUT_S)
    except OSError:
        return
    with connection:
        require_own(connection)


class OwnConnection(http.client.HTTPConnection):
    """HTTP that sends nothing before it is known that this account answers."""

    def connect(self) -> None:
        """Connect, and look who answers.

        Raises:
            OSError: no connection.
            ForeignListener: as `require_own`.
        """
        super().connect()
        require_own(self.sock)


class _Handler(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(OwnConnection, request)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Nowhere: the token would be sent there too."""


def opener() -> urllib.request.OpenerDirector:
    """Opens `http://` addresses of this PC, neither through a proxy nor at where an answer points to."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}), _Handler(), _NoRedirect())


def account(uid: int | None) -> str:
    """Name and number of the account, for people."""
    if uid is None:
        return "an account that the kernel does not name"
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"


def _of(name: tuple[Any, ...]) -> Endpoint:
    return str(name[0]).removeprefix("::ffff:"), int(name[1])


def _endpoint(text: str) -> Endpoint | None:
    """`0100007F:1F90` as 127.0.0.1 and 8080: words of four bytes in the order of this PC's processor."""
    address, _, port = text.partition(":")
    try:
        raw = b"".join(bytes.fromhex(address[i : i + 8])[::-1] for i in range(0, len(address), 8))
        parsed = ipaddress.ip_address(raw)
        mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
        return str(mapped or parsed), int(port, 16)
    except ValueError:
        return None
