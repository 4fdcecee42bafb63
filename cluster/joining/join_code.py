"""A join code as text: what a PC needs to find the join endpoint, to be sure of it, and to be let in once. Pure.

    address 4 bytes · port 2 · certificate's SHA-256, first 16 · secret 10 · check 3     = 35 bytes = 56 letters

in Crockford's base 32 (no I, L, O, U; any case), as eight groups of seven letters and a check letter each: of a code
that is typed off a screen, the group with the typo can be named.
"""

import hashlib
import ipaddress
from typing import NamedTuple

from cluster.errors import ClusterError

FINGERPRINT_BYTES = 16
"""Who wants to answer in the endpoint's place needs a second certificate with these 128 bits."""
SECRET_BYTES = 10
"""80 random bits, for half an hour, behind an endpoint that limits guesses."""

_LETTERS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_READ_AS = str.maketrans("OILU", "011V")
_GROUPS = 8
_GROUP_LETTERS = 7
_BODY_BYTES = 4 + 2 + FINGERPRINT_BYTES + SECRET_BYTES
_VERSION = b"vr join code 1"


class JoinCode(NamedTuple):
    """What a code says."""

    address: str
    """IPv4 address of the head in the LAN."""
    port: int
    """Of the join endpoint."""
    fingerprint: bytes
    """First 16 bytes of the SHA-256 of the endpoint's certificate (DER)."""
    secret: bytes
    """Good for one token, within half an hour."""

    @property
    def endpoint(self) -> str:
        """`address:port` of the join endpoint."""
        return f"{self.address}:{self.port}"


def looks_like_code(text: str) -> bool:
    """Whether `text` is meant as a join code, well typed or not; an address has dots."""
    return not {".", ":"} & set(text) and sum(map(str.isalnum, text)) > 2 * _GROUP_LETTERS


def format_code(code: JoinCode) -> str:
    """The code as it is printed: `5N0A0M2S-…`, eight groups."""
    address = ipaddress.IPv4Address(code.address).packed
    body = address + code.port.to_bytes(2, "big") + code.fingerprint + code.secret
    if len(body) != _BODY_BYTES:
        raise ValueError(f"join code: fingerprint or secret of the wrong length ({len(body)} bytes in all)")
    number = int.from_bytes(body + _check(body), "big")
    count = _GROUPS * _GROUP_LETTERS
    letters = "".join(_LETTERS[number >> 5 * (count - 1 - i) & 31] for i in range(count))
    groups = (letters[i : i + _GROUP_LETTERS] for i in range(0, count, _GROUP_LETTERS))
    return "-".join(group + _check_letter(i, group) for i, group in enumerate(groups))


def parse_code(text: str) -> JoinCode:
    """The code in `text`; case, blanks and hyphens do not matter, and O, I, L, U are read as 0, 1, 1, V.

    Raises:
        ClusterError: it has a typo; the group is named where only one is wrong. The secret is not repeated.
    """
    letters = "".join(c for c in text.upper() if not c.isspace() and c not in "-–—_").translate(_READ_AS)
    size = _GROUP_LETTERS + 1
    wrong = [c for c in letters if c not in _LETTERS]
    if wrong:
        raise ClusterError(f"the join code has a typo: {wrong[0]!r} is in no code; copy it again from the head")
    if len(letters) != _GROUPS * size:
        raise ClusterError(
            f"the join code has a typo: {len(letters)} letters and digits instead of {_GROUPS * size} "
            f"({_GROUPS} groups of {size}); copy it again from the head"
        )
    groups = [letters[i : i + size] for i in range(0, len(letters), size)]
    bad = [str(i + 1) for i, group in enumerate(groups) if group[-1] != _check_letter(i, group[:-1])]
    if bad:
        which = f"group {bad[0]}" if len(bad) == 1 else f"groups {', '.join(bad)}"
        raise ClusterError(f"the join code has a typo in {which} of {_GROUPS}; compare with what the head printed")
    number = 0
    for letter in "".join(group[:-1] for group in groups):
        number = number << 5 | _LETTERS.index(letter)
    packed = number.to_bytes(_BODY_BYTES + 3, "big")
    body = packed[:_BODY_BYTES]
    if packed[_BODY_BYTES:] != _check(body):
        raise ClusterError("the join code has a typo, or comes from another version of vr; copy it again from the head")
    return JoinCode(
        address=str(ipaddress.IPv4Address(body[:4])),
        port=int.from_bytes(body[4:6], "big"),
        fingerprint=body[6 : 6 + FINGERPRINT_BYTES],
        secret=body[6 + FINGERPRINT_BYTES :],
    )


def _check(body: bytes) -> bytes:
    return hashlib.sha256(_VERSION + body).digest()[:3]


def _check_letter(index: int, group: str) -> str:
    # The index, so that two groups in the wrong order are noticed.
    return _LETTERS[hashlib.sha256(f"{index} {group}".encode()).digest()[0] % 32]
