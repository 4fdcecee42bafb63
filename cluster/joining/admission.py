"""The join endpoint: a small process beside a head with a LAN address that trades a join code for the token, once.

`vr cluster head` starts it (`python -m cluster.joining.admission`). Over TLS a client sends one line of JSON, a
`Request`, and gets one line back, an `Offer` or a `No`. Nothing that comes from outside is logged but the address.
"""

import asyncio
import contextlib
import logging
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

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


async def serve(head: Head, certificate: Path, end: asyncio.Event) -> None:
    """Answer at the head's LAN address until `end` is set."""
    guesses = Guesses()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = str(writer.get_extra_info("peername")[0])
        try:
            async with asyncio.timeout(EXCHANGE_S):
                line = await reader.readline()
                said = answer(line, peer, head, guesses, time.monotonic())
                writer.write(said.model_dump_json().encode() + b"\n")
                await writer.drain()
        except VrError as error:
            log.warning("%s: %s", peer, error)
        except (OSError, ValueError, TimeoutError):
            pass  # cut off, too long a line, or silent
        finally:
            writer.close()
            with contextlib.suppress(OSError, TimeoutError):
                await writer.wait_closed()

    server = await asyncio.start_server(
        talk,
        head.node.address,
        head.ports.admission,
        ssl=server_context(certificate),
        ssl_handshake_timeout=EXCHANGE_S,
        ssl_shutdown_timeout=EXCHANGE_S,
        limit=LINE_BYTES,
    )
    log.info("admitting at %s:%s", head.node.address, head.ports.admission)
    async with server:
        await end.wait()


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
