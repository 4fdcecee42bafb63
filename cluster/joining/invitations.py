"""The codes that are out: made by `vr cluster head`, traded by the join endpoint, kept on disk as hashes.

They outlive a restart of the endpoint, and end with the boot of the head's PC: time is counted from boot (suspended
hours included), so that setting the clock back prolongs nothing.
"""

import contextlib
import hashlib
import hmac
import json
import secrets
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from cluster.errors import ClusterFailure
from cluster.joining.certificate import certificate_file, ensure_certificate
from cluster.joining.join_code import SECRET_BYTES, JoinCode, format_code, parse_code
from cluster.node.head import Head, state_folder
from cluster.node.processes import Now, now
from cluster.trust.token import write_private
from cluster.versions import Versions, difference
from vr_core.config import Spec, plain, validate
from vr_core.errors import ConfigError
from vr_core.files import clear_drafts
from vr_core.small_files import read_json

VALID_S = 30 * 60.0
_KEPT = 64
"""Invitations on record, the newest: a code that is used up or over should be told so, not be taken for a guess."""
NEW_CODE = "`vr cluster head` on the head prints a new code"


class Invitation(Spec):
    """One code that was printed."""

    secret_sha256: str
    boot_id: str
    until_s: float
    """Seconds from boot."""
    versions: Versions
    """Of the head, at that moment."""
    used_by: str | None = None
    """Address of the PC that traded it."""


class Invitations(Spec):
    """The file's content."""

    invitations: tuple[Invitation, ...] = ()


class Refusal(NamedTuple):
    """No, and the line that the other PC's user reads."""

    line: str
    is_guess: bool = False
    """The secret was none of ours."""


def decide(invitations: Sequence[Invitation], secret: bytes, versions: Versions, at: Now) -> Invitation | Refusal:
    """The invitation that `secret` may trade at that moment, or why not.

    Other versions than the head's are refused without using the code up: once they are put right, it works.
    """
    digest = _digest(secret)
    found = next((i for i in invitations if hmac.compare_digest(i.secret_sha256, digest)), None)
    if found is None:
        return Refusal(f"this head does not know the code; {NEW_CODE}", is_guess=True)
    if found.used_by is not None:
        return Refusal(
            f"the code was used already, by {found.used_by}; {NEW_CODE} (were you not that PC: `vr cluster rotate`)"
        )
    if found.boot_id != at.boot_id:
        return Refusal(f"the head's PC was started again since the code was made; {NEW_CODE}")
    if at.since_boot_s >= found.until_s:
        return Refusal(f"the code is over (codes are good for {VALID_S / 60:.0f} minutes); {NEW_CODE}")
    unlike = difference(found.versions, versions)
    return Refusal(f"{unlike}; the code stays good") if unlike else found


def used(invitations: Sequence[Invitation], invitation: Invitation, peer: str) -> tuple[Invitation, ...]:
    """`invitations` with that one used up by `peer`."""
    return tuple(
        i.model_copy(update={"used_by": peer}) if i.secret_sha256 == invitation.secret_sha256 else i
        for i in invitations
    )


def invite(head: Head, versions: Versions, valid_s: float = VALID_S) -> str:
    """A fresh code for one PC to join the running `head`.

    Raises:
        ValueError: the head has no LAN address, so that nothing can join it.
    """
    if head.node.loopback_only:
        raise ValueError("a head on 127.0.0.1 has no join endpoint")
    secret = secrets.token_bytes(SECRET_BYTES)
    at = now()
    new = Invitation(
        secret_sha256=_digest(secret), boot_id=at.boot_id, until_s=at.since_boot_s + valid_s, versions=versions
    )
    mark = ensure_certificate(certificate_file())
    with locked():
        write_invitations((*read_invitations(), new)[-_KEPT:])
    return format_code(JoinCode(head.node.address, head.ports.admission, mark, secret))


def withdraw(codes: Iterable[str]) -> None:
    """Void those of `codes` that nobody has used, before their time."""
    digests = {_digest(parse_code(code).secret) for code in codes}
    with locked():
        kept = tuple(i for i in read_invitations() if i.used_by is not None or i.secret_sha256 not in digests)
        write_invitations(kept)


def forget_all() -> None:
    """Void every code, and the certificate that they name."""
    with locked():
        invitations_file().unlink(missing_ok=True)
        certificate_file().unlink(missing_ok=True)


def invitations_file() -> Path:
    """Where the invitations are kept, mode 600."""
    return state_folder() / "invitations.json"


def read_invitations() -> tuple[Invitation, ...]:
    """Those on record; none where the file is missing or damaged, which only voids codes."""
    try:
        return validate(Invitations, read_json(invitations_file()), str(invitations_file())).invitations
    except (OSError, ValueError, ConfigError):
        return ()


def write_invitations(invitations: tuple[Invitation, ...]) -> None:
    """Keep them, whole or not at all."""
    write_private(invitations_file(), json.dumps(plain(Invitations(invitations=invitations)), indent=1) + "\n")


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """The endpoint and `vr cluster head` write one at a time."""
    try:
        with FileLock(state_folder() / "invitations.lock", timeout=10.0):
            clear_drafts(state_folder(), {invitations_file().name})
            yield
    except Timeout:
        raise ClusterFailure("another command is writing join codes; try again when it has ended") from None


def _digest(secret: bytes) -> str:
    # 80 random bits need no slow hash: they are in no dictionary.
    return hashlib.sha256(secret).hexdigest()
