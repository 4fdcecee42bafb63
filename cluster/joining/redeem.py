"""How a PC gets into a cluster: by a join code, traded with the head's endpoint, or by an address and a token file."""

import json
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from cluster.errors import ClusterError, ClusterFailure
from cluster.joining.admission import LINE_BYTES, Offer, Request
from cluster.joining.certificate import client_context, fingerprint
from cluster.joining.invitations import NEW_CODE
from cluster.joining.join_code import JoinCode, looks_like_code, parse_code
from cluster.node.ray_start import head_address
from cluster.trust.token import read_token, token_sha256
from cluster.versions import Versions

_TIMEOUT_S = 15.0


class Entry(NamedTuple):
    """A way in that was found good so far."""

    head: str
    """GCS address."""
    token_sha256: str | None
    """Of the token that `take` will give; None where it is not known yet."""
    take: Callable[[], str]
    """Gives the token; a code is used up by it."""


def entry(code_or_address: str, token_file: Path | None, versions: Versions) -> Entry:
    """The way in by a join code, or by the head's address and a copy of its token file.

    Raises:
        ClusterError, ClusterFailure: neither, a typo, or as `redeem`.
    """
    if not looks_like_code(code_or_address):
        head = head_address(code_or_address)
        if token_file is None:
            raise ClusterError(
                f"{code_or_address}: an address needs --token-file; {NEW_CODE}, which needs nothing else"
            )
        known = token_sha256(read_token(token_file)) if token_file.exists() else None
        return Entry(head, known, lambda: read_token(token_file))
    if token_file is not None:
        raise ClusterError("--token-file: a join code brings the token; leave it out")
    code = parse_code(code_or_address)
    offer = redeem(code, versions, take=False)

    def take() -> str:
        return redeem(code, versions, take=True).token or ""

    return Entry(offer.head, offer.token_sha256, take)


def redeem(code: JoinCode, versions: Versions, *, take: bool) -> Offer:
    """What `code` gives; with `take` the token too, and the code is used up.

    Raises:
        ClusterError: the head refuses (it says why), or another certificate than the code's answers: nothing secret is
            sent then.
        ClusterFailure: nothing answers, or nothing that can be understood.
    """
    request = Request(secret=code.secret.hex(), versions=versions, take=take)
    try:
        with (
            socket.create_connection((code.address, code.port), timeout=_TIMEOUT_S) as plain,
            client_context().wrap_socket(plain) as channel,
        ):
            certificate = channel.getpeercert(binary_form=True)
            if certificate is None or fingerprint(certificate) != code.fingerprint:
                raise ClusterError(
                    f"{code.endpoint}: answers with another certificate than the code's, and was told nothing: either "
                    f"the head has a new one since (after `vr cluster rotate`; {NEW_CODE}), or this is not the head"
                )
            channel.sendall(request.model_dump_json().encode() + b"\n")
            line = _read_line(channel)
    except ssl.SSLError as error:
        raise ClusterFailure(f"{code.endpoint}: no join endpoint ({error.reason or 'it does not speak TLS'})") from None
    except OSError as error:
        raise ClusterFailure(
            f"{code.endpoint}: no join endpoint answers ({error.strerror or 'timed out'}); is the head on, and does "
            f"its firewall let port {code.port} in? {NEW_CODE}"
        ) from None
    return _understood(line, code, take)


def _read_line(channel: ssl.SSLSocket) -> bytes:
    line = b""
    while not line.endswith(b"\n") and len(line) < LINE_BYTES:
        piece = channel.recv(4096)
        if not piece:
            break
        line += piece
    return line


def _understood(line: bytes, code: JoinCode, take: bool) -> Offer:
    try:
        said: Any = json.loads(line)
        if "refused" in said:
            raise ClusterError(f"{code.endpoint}: {said['refused']}")
        offer = Offer.model_validate_json(line)
        if take and offer.token is None:
            raise ValueError("no token")
    except (ValueError, TypeError):
        raise ClusterFailure(
            f"{code.endpoint}: the join endpoint's answer is not understood; both PCs need the same version of vr"
        ) from None
    return offer
