"""The cluster's one secret, in a file that only its owner reads; never in arguments, logs or process lists."""

import hashlib
import os
import re
import secrets
import stat
from pathlib import Path

from cluster.errors import TokenError

_TOKEN = re.compile(r"[A-Za-z0-9_.~+/=-]{16,4096}")


def read_token(path: Path) -> str:
    """The token in the file `path`.

    Raises:
        TokenError: no such file, others may read it, or it holds something else.
    """
    try:
        with path.open(encoding="ascii") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read(8192).strip()
    except UnicodeDecodeError:
        text, mode = "", 0
    except OSError as error:
        raise TokenError(
            f"{path}: token file cannot be read ({error.strerror}); copy it from the head, "
            "where `vr cluster status` names it"
        ) from None
    if mode & 0o077:
        raise TokenError(f"{path}: token file is open to others (mode {mode:04o}); type: chmod 600 {path}")
    if not _TOKEN.fullmatch(text):
        raise TokenError(f"{path}: holds no cluster token (one line of at least 16 letters and digits)")
    return text


def token_sha256(token: str) -> str:
    """A name for the token that does not give it away: of 256 random bits nobody finds the original."""
    return hashlib.sha256(token.encode()).hexdigest()


def create_token(path: Path) -> None:
    """Write a new random token of 256 bits to `path`, mode 600, unless there is a token file already.

    Raises:
        TokenError: the file that is there cannot be used.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_private(path, secrets.token_hex(32) + "\n", replace=False)
    except FileExistsError:
        read_token(path)


def replace_token(path: Path) -> None:
    """Write another random token of 256 bits to `path`, mode 600; who holds the old one is not told."""
    write_private(path, secrets.token_hex(32) + "\n")


def write_private(path: Path, text: str, *, replace: bool = True) -> None:
    """Write `text` to `path` with mode 600, whole or not at all; FileExistsError when it is there and may not go."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            draft.replace(path)
        else:
            os.link(draft, path)  # unlike a rename, refuses to replace
    finally:
        draft.unlink(missing_ok=True)
