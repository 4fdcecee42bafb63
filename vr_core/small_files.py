"""Small files that somebody else may have written, damaged or replaced: regular files only, of limited size and depth.

Whatever lies at a path is opened without waiting and looked at before it is read: a pipe or a device in the place of a
file would keep a reader for ever. A byte order mark, as editors on Windows write it, is passed over.
"""

import codecs
import hashlib
import json
import os
import re
import stat
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path
from typing import Any

from vr_core.errors import ConfigError, UserError

SMALL_BYTES = 1 << 26
"""More is no small file: the largest of ours is a manifest, some 2 kB for each song."""
_PIECE_BYTES = 1 << 20
DEPTH = 50
"""Levels of lists and mappings in each other."""


class DamagedFile(UserError, ValueError):
    """A file that is not what it should be: no regular file, too large, not text, not JSON."""


def printable(text: str) -> str:
    r"""`text` in one line, with what a terminal would obey instead of printing written out, as in `\x1b`.

    These are escape codes, and marks that are invisible or turn the direction of what follows.
    """
    return "".join(c if c.isprintable() else " " if c.isspace() else c.encode("unicode_escape").decode() for c in text)


def expanded(path: Path) -> Path:
    """`path` with the home folder in place of its `~`.

    Raises:
        ConfigError: there is no such user on this PC, or no file can be called so.
    """
    if "\0" in str(path):
        raise ConfigError(f"{str(path)!r}: no path holds a NUL; give another")
    try:
        return path.expanduser()
    except RuntimeError:
        raise ConfigError(
            f"{path}: there is no user {path.parts[0][1:]!r} on this PC; write the path from / on"
        ) from None


def open_regular(path: Path) -> BufferedReader:
    """The regular file `path`, open for reading; to be closed by whoever opens it.

    Raises:
        OSError: it is not there, or its storage failed.
        DamagedFile: it is something else.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:  # a NUL in the path
        raise DamagedFile(f"{str(path)!r}: {error}; give the path of a file") from None
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        what = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise DamagedFile(f"{path}: is {what}, not a file")
    return open(handle, "rb")


def sha256_of(path: Path, progress: Callable[[int], None] = lambda count: None) -> str:
    """Hex digest of the regular file `path`, of any size.

    Args:
        path: the file.
        progress: called with the bytes that have been read since.

    Raises:
        OSError, DamagedFile: as `open_regular`.
    """
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
            progress(len(piece))
    return digest.hexdigest()


def read_bytes(path: Path, most_bytes: int = SMALL_BYTES) -> bytes:
    """The content of the regular file `path`.

    Raises:
        OSError, DamagedFile: as `open_regular`; also where it is larger than `most_bytes`.
    """
    with open_regular(path) as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise DamagedFile(f"{path}: is larger than {most_bytes / 1e6:,.0f} MB; it is not a file that vr wrote")
    return content


def read_text(path: Path, most_bytes: int = SMALL_BYTES, *, lenient: bool = False) -> str:
    """The text in `path`: UTF-8, or what a byte order mark says, as editors on Windows write it.

    With `lenient`, as for logs, other bytes are replaced by a mark.

    Raises:
        OSError, DamagedFile: as `read_bytes`; also where it is not such text.
    """
    return _text(read_bytes(path, most_bytes), path, lenient=lenient)


_MARKS = ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
          (codecs.BOM_UTF16_BE, "utf-16"))  # fmt: skip
"""The longer ones first: one begins as another does."""


def _text(content: bytes, path: Path, *, lenient: bool = False) -> str:
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8-sig")
    try:
        return content.decode(encoding, errors="replace" if lenient else "strict")
    except UnicodeDecodeError as error:
        raise DamagedFile(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None


def read_json(path: Path, most_bytes: int = SMALL_BYTES) -> dict[str, Any]:
    """The mapping in the JSON file `path`.

    Raises:
        OSError, DamagedFile: as `read_text`; also where it is not JSON, not a mapping, deeper than `DEPTH`, or not what
            the digest that it carries of itself says.
    """
    content = read_bytes(path, most_bytes)
    value = parse_json(_text(content, path), str(path))
    if SEAL in value and not is_sealed(content):
        raise DamagedFile(f"{path}: damaged (it is not what its own digest says)")
    value.pop(SEAL, None)
    return value


SEAL = "seal"
"""Key of the digest that a file carries of itself: SHA-256 of all bytes before its value."""
_SEALED = re.compile(rb'(.*,\n "seal": ")([0-9a-f]{64})"\n}\n', re.DOTALL)


def sealed(text: bytes) -> bytes:
    """`text`, the indented JSON of a mapping that is not empty, with its seal as the last entry."""
    begin = text.removesuffix(b"\n}\n") + b',\n "seal": "'
    return begin + hashlib.sha256(begin).hexdigest().encode() + b'"\n}\n'


def is_sealed(content: bytes) -> bool:
    """Whether a file carries a digest of itself, and is what it says."""
    found = _SEALED.fullmatch(content)
    return found is not None and hashlib.sha256(found[1]).hexdigest().encode() == found[2]


def parse_json(text: str | bytes, origin: str) -> dict[str, Any]:
    """The mapping that `text` says as JSON.

    Raises:
        DamagedFile: as `read_json`; `origin` is where the text is from.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise DamagedFile(f"{origin}: damaged (more than {DEPTH} levels deep)") from None
    except ValueError as error:
        raise DamagedFile(f"{origin}: damaged (not JSON: {error})") from None
    if not isinstance(value, dict):
        raise DamagedFile(f"{origin}: damaged (not a JSON object)")
    require_shallow(value, origin)
    return value


def require_shallow(value: object, origin: str) -> None:
    """Refuse values of lists and mappings that are more than `DEPTH` levels deep: what reads them calls itself.

    Raises:
        DamagedFile: it is deeper.
    """
    level: list[object] = [value]
    for _ in range(DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise DamagedFile(f"{origin}: damaged (more than {DEPTH} levels deep)")
