"""Names of files: in which order people read them, and which ids they give."""

import re
import unicodedata
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

LONGEST_ID_BYTES = 200
"""Of the 255 that a file name has: an id gets `.instrumental.flac`, a draft's prefix and a number beside it."""
_LONGEST_ID = 100


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key by which `song2` comes before `song10`; equal only for equal names."""
    parts = [part for part in re.split(r"(\d+)", name.casefold()) if part]
    key = tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts)
    return (*key, (2, 0, name))


def path_key(parts: Sequence[str]) -> list[tuple[tuple[int, int, str], ...]]:
    """Natural order of paths, the last part without its suffix first: `song` comes before `song 2`."""
    return [natural_key(part) for part in (*parts[:-1], Path(parts[-1]).stem, parts[-1])]


def id_parts(source: Path, path: Path) -> tuple[str, ...]:
    """Folders of a file below its source, and its name without the suffix."""
    relative = path.relative_to(source) if path != source else Path(path.name)
    return (*relative.parts[:-1], path.stem)


def safe_id(parts: Sequence[str]) -> str:
    """`safe_name`, at most a hundred characters and 200 bytes of it."""
    return _cut(safe_name(parts)) or "song"


def safe_name(parts: Sequence[str]) -> str:
    """Path parts as one name without separators, spaces or shell wildcards, of any length.

    Letters of any script stay, with their marks: the vowels of Hindi, Tamil, Thai and Bengali are marks.
    """
    text = ""
    for char in unicodedata.normalize("NFC", "-".join(parts)):
        mark = _is_mark(char) and bool(text) and (text[-1].isalnum() or _is_mark(text[-1]))
        if mark or char.isalnum() or char in "._-":
            text += char
        elif not text.endswith(_SIGN):
            text += _SIGN
    return text.replace(_SIGN, "_").strip("._-") or "song"


_SIGN = "\0"
"""Stands for what is left out: each run of it becomes one `_`, beside any that the name has."""


def _is_mark(char: str) -> bool:
    return unicodedata.category(char)[0] == "M"


def _cut(text: str) -> str:
    """At most a hundred characters and 200 bytes of it; a letter keeps its marks or goes with them."""
    size = min(len(text), _LONGEST_ID)
    while len(text[:size].encode()) > LONGEST_ID_BYTES:
        size -= 1
    if size < len(text):
        start = size
        while start and _is_mark(text[start]):
            start -= 1
        size = start or size
    return text[:size]


def numbered(name: str, is_taken: Callable[[str], bool]) -> str:
    """The first of NAME-2, NAME-3 and so on that is not taken."""
    return next(tried for number in count(2) if not is_taken(tried := f"{name}-{number}"))
