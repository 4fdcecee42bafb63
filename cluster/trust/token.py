"""The cluster's one secret, in a file that only its owner reads; never in arguments, logs or process lists."""

import errno
import grp
import hashlib
import os
import pwd
import re
import secrets
import shlex
import stat
from pathlib import Path

from cluster.errors import TokenError

_TOKEN = re.compile(r"[A-Za-z0-9_.~+/=-]{16,4096}")


def read_token(path: Path) -> str:
    """The token in the file `path`.

    Raises:
        TokenError: no such file, others may read it or put another in its place, or it holds something else.
    """
    try:
        # Neither a link, which another account may have laid, nor a pipe, at which one would wait.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(handle, "rb") as file:
            found = os.fstat(handle)
            text = file.read(8192).decode("utf-8-sig", errors="replace").strip() if stat.S_ISREG(found.st_mode) else ""
    except OSError as error:
        reason = "it is a link" if error.errno == errno.ELOOP else error.strerror
        raise TokenError(
            f"{path}: token file cannot be read ({reason}); copy it from the head, where `vr cluster status` names it"
        ) from None
    if found.st_uid != os.getuid():
        raise TokenError(f"{path}: token file of another account (uid {found.st_uid}); make a copy of your own")
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        close = f"chmod 600 {shlex.quote(str(path))}"
        raise TokenError(f"{path}: token file is open to others (mode {mode:04o}); type: {close}")
    if open_to := open_parent(path):
        raise TokenError(f"{path}: another account could put its own file there, since {open_to}")
    if not _TOKEN.fullmatch(text):
        raise TokenError(f"{path}: holds no cluster token (one line of at least 16 letters and digits)")
    return text


def open_parent(path: Path) -> str | None:
    """Which folder above `path` lets another account replace what is in it, and how to close it; None: none does.

    A folder with the sticky bit, such as /tmp, lets everybody replace his own files alone. A folder that the owner's
    private group may write is the owner's: many systems make home folders so.
    """
    for folder in dict.fromkeys((*path.absolute().parents, *path.resolve().parents)):  # of a link also what it leads to
        found = folder.stat()
        if found.st_uid not in (0, os.getuid()):
            return f"{folder} belongs to uid {found.st_uid}; keep it in a folder of your own"
        shared = found.st_mode & stat.S_IWOTH or (found.st_mode & stat.S_IWGRP and not _is_private(found))
        if shared and not found.st_mode & stat.S_ISVTX:
            close = f"chmod go-w {shlex.quote(str(folder))}"
            return f"{folder} can be written by others (mode {stat.S_IMODE(found.st_mode):04o}); {close}"
    return None


def _is_private(folder: os.stat_result) -> bool:
    """Whether the group of `folder` is its owner's own: his first one, with nobody else in it."""
    try:
        owner, group = pwd.getpwuid(folder.st_uid), grp.getgrgid(folder.st_gid)
    except KeyError:
        return False
    return owner.pw_gid == group.gr_gid and not set(group.gr_mem) - {owner.pw_name}


def token_sha256(token: str) -> str:
    """A name for the token that does not give it away: of 256 random bits nobody finds the original."""
    return hashlib.sha256(token.encode()).hexdigest()


def create_token(path: Path) -> None:
    """Write a new random token of 256 bits to `path`, mode 600, unless there is a token file already.

    Raises:
        TokenError: the file that is there cannot be used.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        write_private(path, secrets.token_hex(32) + "\n", replace=False)
    except FileExistsError:
        read_token(path)


def replace_token(path: Path) -> None:
    """Write another random token of 256 bits to `path`, mode 600; who holds the old one is not told."""
    write_private(path, secrets.token_hex(32) + "\n")


def write_private(path: Path, text: str, *, replace: bool = True) -> None:
    """Write `text` to `path` with mode 600, whole or not at all; FileExistsError when it is there and may not go."""
    draft = path.with_name(f".{secrets.token_hex(4)}.{path.name}")  # a name that `vr_core.files.clear_drafts` knows
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
