"""The folder of a data set that is about to be written: held by one process, and of this data set alone."""

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from dataprep.audio.names import numbered
from dataprep.errors import PrepareError
from dataprep.preparing.group import JOURNALS, journal_entries
from dataprep.preparing.song import SongSettings
from dataprep.shards.manifest import FILE, SECOND, VERSIONS, Manifest, read_manifest
from vr_core.config import plain
from vr_core.files import clear_drafts, drafted

LOCK = ".lock"
JUNK = frozenset(
    {LOCK, ".DS_Store", ".directory", ".Spotlight-V100", "@eaDir", "Thumbs.db", "desktop.ini", "lost+found"}
)
"""What systems and file managers leave in any folder."""


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Holds the data set `out`, new or existing, against others that would change it.

    Raises:
        PrepareError: somebody else does, or the folder cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / LOCK, timeout=0)
        lock.acquire()
    except Timeout:
        raise PrepareError(f"{out}: another `vr data` command is writing into it; wait until it has ended") from None
    except OSError as error:
        remedy = "choose another folder with --out"
        if (out / FILE).exists():  # what changes a data set has no other folder to choose
            remedy = "nothing was changed; change the data set where its folder can be written"
        raise PrepareError(f"{out}: cannot be written ({error.strerror}); {remedy}") from None
    try:
        clear_drafts(out, {FILE, SECOND})
        clear_drafts(out / VERSIONS)
        yield
    finally:
        lock.release()


def existing_manifest(out: Path, settings: SongSettings) -> Manifest:
    """The manifest of the data set in `out`; an empty one for a new data set, in a folder that holds nothing else.

    Raises:
        PrepareError: other settings, or files that no preparation has written.
    """
    if not (out / FILE).exists():
        there = {path.name for path in out.iterdir() if not path.name.startswith("._")}
        begun = out / JOURNALS  # with nothing but drafts in it: a preparation was killed at its first entry
        if begun.is_dir() and all(drafted(path.name) for path in begun.iterdir()):
            there.discard(JOURNALS)
        strangers = sorted(there - JUNK)
        if strangers and not journal_entries(out):
            raise PrepareError(
                f"{out}: holds {strangers[0]}{f' and {len(strangers) - 1} more' if strangers[1:] else ''}, and no data "
                "set; give a new folder with --out"
            )
        return Manifest(
            stft=settings.stft, codec=settings.codec, mixture_codec=settings.mixture_codec, shards={}, songs=()
        )
    found = read_manifest(out)
    mine, theirs = (
        {**plain(one.stft), "codec": one.codec, "mixture_codec": one.mixture_codec} for one in (settings, found)
    )
    differ = [f"{key} is {theirs[key]} there and {mine[key]} here" for key in mine if mine[key] != theirs[key]]
    if differ:
        keep = [word for key, option in _OPTIONS.items() if mine[key] != theirs[key] for word in (option, theirs[key])]
        theirs_can_be_asked_for = all(key in _OPTIONS for key in mine if mine[key] != theirs[key])
        ways = [f"add {shlex.join(map(str, keep))} to prepare as it was"] if theirs_can_be_asked_for else []
        other = numbered(str(out if out.name.strip(".") else out.resolve()), os.path.lexists)
        ways.append(f"give another folder: --out {shlex.quote(other)}")
        raise PrepareError(f"{out}: holds a data set with other settings ({'; '.join(differ)}); {', or '.join(ways)}")
    return found


_OPTIONS = {"n_fft": "--n-fft", "hop": "--hop", "codec": "--codec", "mixture_codec": "--mixture-codec"}
"""Of `vr data prepare`, by setting of a data set."""
