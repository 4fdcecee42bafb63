"""Where this Python is installed: for a path like `~/My Projects/vr/.venv` a link stands, which needs no quotes.

Ray hands the interpreter's path to a shell as it is. A process that was started from such a place starts itself again
through the link. Python then finds everything below the link, and so does all that it starts: Ray's services, their
workers, the keeper.
"""

import contextlib
import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from cluster.errors import ClusterError
from cluster.probe.machine import state_place

_SPECIAL = re.compile(r"[^\w@%+=:,./~-]")
"""What a shell, or Ray's own reading of a command line, takes for more than a part of a path."""


def is_plain(path: str | Path) -> bool:
    """Whether `path` can stand in a command line without quotes; it is no text with bytes that are not UTF-8."""
    text = str(path)
    return _SPECIAL.search(text) is None and not any("\udc80" <= character <= "\udcff" for character in text)


def make_closed(folder: Path) -> None:
    """Make `folder` with mode 700, in a place where others may write.

    Raises:
        ClusterError: it is there and belongs to another account.
        OSError: it cannot be made.
    """
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.lstat().st_uid != os.getuid():
        raise ClusterError(f"{folder}: belongs to another user; set TMPDIR to a folder of your own")
    folder.chmod(0o700)


def make_link(prefix: Path, places: Iterable[Path]) -> Path | None:
    """A link to `prefix` in the first of `places` whose path is plain; None where no path is.

    Raises:
        ClusterError, OSError: it cannot be made there.
    """
    name = hashlib.sha256(os.fsencode(prefix)).hexdigest()[:8]
    place = next((place for place in places if is_plain(place)), None)
    if place is None:
        return None
    make_closed(place)
    link = place / name
    if not (link.is_symlink() and link.readlink() == prefix):
        draft = place / f".{name}-{os.getpid()}"
        draft.unlink(missing_ok=True)
        draft.symlink_to(prefix)
        draft.replace(link)  # whole at once: others may start from it at this moment
    return link


def _places() -> list[Path]:
    # A temporary folder may be cleared while a cluster runs: only where the other will not do.
    return [state_place() / "python", Path(tempfile.gettempdir()) / f"vr-{os.getuid()}-python"]


def linked_executable() -> Path | None:
    """This process's interpreter by a plain path: through a new link where its own path is none; None without a way.

    Raises:
        ClusterError, OSError: the link cannot be made.
    """
    executable, prefix = Path(sys.executable), Path(sys.prefix)
    if is_plain(executable):
        return executable
    if not executable.is_relative_to(prefix):
        return None
    link = make_link(prefix, _places())
    return link / executable.relative_to(prefix) if link is not None else None


def restart_through_link() -> None:
    """Replace this process by itself, started through a link, where its path is not plain; else return."""
    if is_plain(sys.executable):
        return
    # What needs Ray says it (`require_plain_installation`); all the rest works from here too.
    with contextlib.suppress(ClusterError, OSError):
        python = linked_executable()
        if python is not None:
            os.execv(python, [str(python), *sys.orig_argv[1:]])


def require_plain_installation() -> None:
    """Check that Ray can start from where this Python is.

    Raises:
        ClusterError: a shell would take its path apart, and no link could be made.
    """
    if not is_plain(sys.executable):
        raise ClusterError(
            f"{sys.executable}: Ray cannot start from a path with such characters, and no link to it could be made; "
            "set TMPDIR=/tmp, or move vr to a folder whose name has letters, digits, - and _ only"
        )


def installed_executable() -> str:
    """This interpreter without the link: for what is read after a boot, when the link may be gone."""
    executable, prefix = Path(sys.executable), Path(sys.prefix)
    if executable.is_relative_to(prefix) and prefix.parent in _places() and prefix.is_symlink():
        return str(prefix.readlink() / executable.relative_to(prefix))
    return str(executable)
