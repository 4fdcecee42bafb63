"""Music that the user has given to `vr data` on this PC: a data set's manifest may name other files.

A manifest lies where others may write. Repairing a song reads the files that it names and puts them into the data set;
scoring one puts what was heard in them beside the run. Files outside of what was given are named, and read only if the
user agrees.
"""

from collections.abc import Iterable
from pathlib import Path

from jobs.commands.terminal import agree, say

_FILE = "music.json"


def remember(sources: Iterable[Path]) -> None:
    """Note that the user has given these files and folders."""
    from filelock import FileLock

    from cluster.node.head import state_folder
    from vr_core.files import write_json

    file = state_folder() / _FILE
    try:
        with FileLock(file.with_suffix(".lock"), timeout=10):
            known = _given()
            if more := {source.resolve() for source in sources} - known:
                write_json(file, {"given": sorted(map(str, known | more))})
    except OSError as error:  # who reads it later asks then
        why = error.strerror or error
        say(f"{file}: not written ({why}); a repair and vr eval will ask before they read this music", err=True)


def agree_to_read(files: Iterable[Path], yes: bool, given: Iterable[Path] = ()) -> None:
    """Return when all files were given by the user, now (`given`) or before, or when he agrees to read the others.

    Raises:
        NoConsent: there is no terminal to ask at.
        typer.Abort: the answer is no.
    """
    known = _given().union(source.resolve() for source in given)
    # A link is known by where it leads.
    others = sorted(file for file in {file.resolve() for file in files} if known.isdisjoint({file, *file.parents}))
    if others:
        say("the data set names files that were not given to vr data on this PC:", err=True)
        for file in others:
            say(f"  {file}", err=True)
        agree(f"Read these {len(others)} files?", yes)


def _given() -> set[Path]:
    from cluster.node.head import state_folder
    from vr_core.small_files import DamagedFile, read_json

    try:
        given = read_json(state_folder() / _FILE).get("given")
    except (OSError, DamagedFile):
        return set()
    return {Path(name) for name in given if isinstance(name, str)} if isinstance(given, list) else set()
