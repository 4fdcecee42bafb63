"""The join endpoint: a small process beside a head with a LAN address that trades a join code for the token, once.

`vr cluster head` starts it (`python -m cluster.joining.admission`). Over TLS a client sends one line of JSON, a
`Request`, and gets one line back, an `Offer` or a `No`. Nothing that comes from outside is logged but the address.
"""

import asyncio
import contextlib
import functools
import logging
import resource
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import psutil
from pydantic import ValidationError

from cluster.errors import ClusterFailure
from cluster.joining.certificate import certificate_file, ensure_certificate, server_context
from cluster.joining.invitations import NEW_CODE, Refusal, decide, locked, read_invitations, used, write_invitations
from cluster.node.head import Head, read_head
from cluster.node.processes import alive, now
from cluster.node.ray_start import NodeStart
from cluster.node.start import require_answer
from cluster.node.supervision import Companion
from cluster.trust.token import read_token, token_sha256
from cluster.versions import Versions
from vr_core.config import Spec
from vr_core.errors import VrError

ADMISSION = Companion(name="admission", argv=(sys.executable, "-m", "cluster.joining.admission"))
"""As `cluster.node.lifecycle.start_head` starts it; for a head with a LAN address only."""


def companions_of(node: NodeStart, others: Sequence[Companion]) -> list[Companion]:
    """`others` and, where a PC can join the head `node`, the join endpoint."""
    return [*others] if node.loopback_only else [*others, ADMISSION]


LINE_BYTES = 16_384
"""Longest line, either way; a token has at most 4 KiB."""
EXCHANGE_S = 5.0
"""Each of the two steps, TLS and the lines, may take so long; a client that says nothing is cut off then."""
MAX_WRONG = 10
"""Unknown secrets from one address within `WRONG_S`; then that address waits."""
WRONG_S = 600.0
_MAX_ADDRESSES = 1024
_PLACES, _OF_ONE_ADDRESS = 256, 16
"""Connections at a time, of all and of one address."""
_BACKLOG = 128
"""Connections that the kernel keeps until they are accepted."""

log = logging.getLogger("admission")


class Request(Spec):
    """What a PC says."""

    secret: str
    """Of the code, in hex."""
    versions: Versions
    take: bool
    """Trade the code for the token now; otherwise only say what it would give."""


class Offer(Spec):
    """What a good code gives."""

    head: str
    """GCS address of the head."""
    token_sha256: str
    """By it a PC that has joined before sees whether its token is still the cluster's."""
    token: str | None = None
    """Only when the code was traded."""


class No(Spec):
    """Why not, in a line for the user."""

    refused: str


class Guesses:
    """Wrong secrets of the last `WRONG_S` seconds by address, for no more than `_MAX_ADDRESSES` of them."""

    def __init__(self) -> None:
        self._times_s: dict[str, list[float]] = {}

    def __len__(self) -> int:
        """How many addresses are remembered."""
        return len(self._times_s)

    def blocked(self, address: str, now_s: float) -> bool:
        """Whether `address` has guessed too often lately."""
        recent = [t for t in self._times_s.get(address, ()) if now_s - t < WRONG_S]
        return len(recent) >= MAX_WRONG

    def count(self, address: str, now_s: float) -> None:
        """Remember a wrong guess."""
        times_s = self._times_s.pop(address, [])
        self._times_s[address] = [*times_s, now_s][-MAX_WRONG:]
        while len(self._times_s) > _MAX_ADDRESSES:
            del self._times_s[next(iter(self._times_s))]


def answer(line: bytes, peer: str, head: Head, guesses: Guesses, now_s: float) -> Offer | No:
    """The answer to one line of a client at `peer`; a code is used up on disk before the token leaves."""
    if guesses.blocked(peer, now_s):
        return No(refused=f"too many wrong codes from this address; wait {WRONG_S / 60:.0f} minutes")
    try:
        request = Request.model_validate_json(line)
        secret = bytes.fromhex(request.secret)
    except (ValidationError, ValueError):
        guesses.count(peer, now_s)
        return No(refused="not understood; both PCs need the same version of vr")
    with locked():
        known = read_invitations()
        found = decide(known, secret, request.versions, now())
        if isinstance(found, Refusal):
            if found.is_guess:
                guesses.count(peer, now_s)
            log.info("%s: refused: %s", peer, found.line)
            return No(refused=found.line)
        if not alive(head.ray):
            return No(refused=f"the head has died; {NEW_CODE} and starts it again")
        token = read_token(head.token_file)
        if request.take:
            write_invitations(used(known, found, peer))
            log.info("%s: has traded a code for the token", peer)
    return Offer(head=head.gcs_address, token_sha256=token_sha256(token), token=token if request.take else None)


Talk = TypeVar("Talk", bound=Hashable)


class Crowd(Generic[Talk]):
    """Who talks with the endpoint now. Whoever comes gets a place: the oldest gives up its own.

    An honest exchange takes some 50 ms, so only he loses his place who keeps it.
    """

    def __init__(self, places: int, of_one_address: int) -> None:
        """So many `places`, and so many of them for one address."""
        self._places = places
        self._of_one_address = of_one_address
        self._address_of: dict[Talk, str] = {}

    def __len__(self) -> int:
        """How many have a place."""
        return len(self._address_of)

    def enter(self, talk: Talk, address: str) -> Talk | None:
        """Give `talk` a place; returns who lost his for it."""
        alike = [other for other, its in self._address_of.items() if its == address]
        lost: Talk | None = None
        if len(alike) >= self._of_one_address:
            lost = alike[0]
        elif len(self) >= self._places:
            lost = next(iter(self._address_of))
        if lost is not None:
            self.leave(lost)
        self._address_of[talk] = address
        return lost

    def leave(self, talk: Talk) -> None:
        """Its place is free, if it still had one."""
        self._address_of.pop(talk, None)


async def serve(head: Head, certificate: Path, end: asyncio.Event) -> None:
    """Answer at the head's LAN address until `end` is set."""
    guesses, tls = Guesses(), server_context(certificate)
    # Half of what this process may open; the rest is for the files that an answer needs.
    crowd: Crowd[asyncio.Task[None]] = Crowd(
        min(_PLACES, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2), _OF_ONE_ADDRESS
    )
    loop = asyncio.get_running_loop()
    with socket.create_server((head.node.address, head.ports.admission), backlog=_BACKLOG) as listener:
        listener.setblocking(False)
        log.info("admitting at %s:%s", head.node.address, head.ports.admission)

        async def accept() -> None:
            while True:
                connection, (peer, _) = await loop.sock_accept(listener)
                talk = loop.create_task(_talk(connection, tls, functools.partial(said, peer), peer))
                talk.add_done_callback(crowd.leave)
                lost = crowd.enter(talk, peer)
                if lost is not None:
                    lost.cancel()

        def said(peer: str, line: bytes) -> Offer | No:
            return answer(line, peer, head, guesses, time.monotonic())

        accepting, ended = loop.create_task(accept()), loop.create_task(end.wait())
        await asyncio.wait((accepting, ended), return_when=asyncio.FIRST_COMPLETED)
        if accepting.done():
            accepting.result()  # what ends it ends this process, which is started again
        accepting.cancel()


async def _talk(connection: socket.socket, tls: ssl.SSLContext, said: Callable[[bytes], Offer | No], peer: str) -> None:
    """One line and its answer."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=LINE_BYTES)
    protocol = asyncio.StreamReaderProtocol(reader)
    transport: asyncio.BaseTransport | None = None
    try:
        async with asyncio.timeout(2 * EXCHANGE_S):
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol,
                connection,
                ssl=tls,
                ssl_handshake_timeout=EXCHANGE_S,
                ssl_shutdown_timeout=EXCHANGE_S,
            )
            writer = asyncio.StreamWriter(transport, protocol, reader, loop)
            async with asyncio.timeout(EXCHANGE_S):
                line = await reader.readline()
                writer.write(said(line).model_dump_json().encode() + b"\n")
                await writer.drain()
            writer.close()
            await writer.wait_closed()
    except VrError as error:
        log.warning("%s: %s", peer, error)
    except (OSError, ValueError, TimeoutError):
        pass  # cut off, too long a line, or silent
    finally:
        if isinstance(transport, asyncio.Transport):
            transport.abort()
        connection.close()


def await_endpoint(head: Head, timeout_s: float = 30.0) -> None:
    """Return once the endpoint beside `head` accepts connections.

    Raises:
        ClusterFailure: it has ended, or does not within `timeout_s`.
    """
    ref = next(ref for ref in head.processes if ref.name == ADMISSION.name)
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return require_answer(f"{head.node.address}:{head.ports.admission}")
        except ClusterFailure:
            if not alive(ref) or time.monotonic() > deadline:
                raise ClusterFailure(f"the join endpoint does not answer; see {ref.log}") from None
        with contextlib.suppress(psutil.TimeoutExpired, psutil.NoSuchProcess):
            psutil.Process(ref.pid).wait(timeout=0.1)


async def _main(head: Head) -> None:
    end = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end.set)
    ensure_certificate(certificate_file())
    await serve(head, certificate_file(), end)


def main() -> int:
    """Admit until SIGTERM."""
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(message)s")
    # Its errors are what strangers do: broken handshakes.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    head = read_head()
    if head is None or head.node.loopback_only:
        log.error("no head with a LAN address was started here")
        return 1
    asyncio.run(_main(head))
    return 0


if __name__ == "__main__":
    sys.exit(main())
