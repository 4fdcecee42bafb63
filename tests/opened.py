"""Which files this process opens while a test looks."""

import contextlib
import functools
import os
import sys
from collections.abc import Iterator

_lists: list[list[str]] = []
"""Of those that look now."""


@contextlib.contextmanager
def opened_files() -> Iterator[list[str]]:
    """A list of the paths that are opened in the block, in order."""
    _install()
    paths: list[str] = []
    _lists.append(paths)
    try:
        yield paths
    finally:
        _lists.pop()


@functools.cache
def _install() -> None:
    """Once: a hook stays for the life of the process."""
    sys.addaudithook(_note)


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if _lists and event == "open" and isinstance(arguments[0], str | os.PathLike):
        for paths in _lists:
            paths.append(os.fspath(arguments[0]))
