"""Which files of a folder are audio: by their suffix, and by their first bytes where the suffix says nothing."""

import errno
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dataprep.audio.decoders import looks_like_audio
from dataprep.audio.layouts.found import Problem
from dataprep.audio.names import natural_key, path_key
from dataprep.errors import DataError

AUDIO_SUFFIXES = frozenset(
    {".wav", ".wave", ".w64", ".rf64", ".bwf", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".m4a", ".m4b", ".mp4",
     ".alac", ".aif", ".aiff", ".aifc", ".aac", ".ac3", ".mka", ".webm", ".weba", ".wma", ".caf", ".au", ".snd", ".ape",
     ".wv", ".tta", ".3gp", ".amr"}
)  # fmt: skip
_OTHER_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".svg", ".pdf", ".txt", ".md", ".rtf", ".doc",
     ".docx", ".html", ".htm", ".url", ".nfo", ".log", ".json", ".yaml", ".yml", ".xml", ".csv", ".tsv", ".ini", ".m3u",
     ".m3u8", ".pls", ".cue", ".xspf", ".lrc", ".srt", ".md5", ".sha256", ".sfv", ".accurip", ".zip", ".rar", ".7z",
     ".gz", ".mid", ".midi", ".mkv", ".mov", ".avi", ".wmv", ".mpg", ".mpeg", ".flv", ".py", ".npy", ".npz", ".h5",
     ".part", ".partial", ".crdownload", ".download", ".opdownload", ".aria2", ".!ut", ".!qb", ".tmp", ".temp", ".bak"}
)  # fmt: skip
"""Known to be no songs, or halves of downloads: their bytes are not looked at."""
_JUNK = frozenset({"thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r"})


@dataclass
class Walk:
    """What is in a source."""

    files: list[Path]
    """Audio, in natural order."""
    problems: list[Problem] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)
    """How many files of each suffix are no audio; without hidden files and what systems leave in any folder."""


def walk(source: Path) -> Walk:
    """Audio files at any depth below `source`, or the file itself, whatever its name is.

    Hidden ones are left out, and links in a circle are followed once. Names that are bytes which no decoder and no
    manifest takes are problems, and so are what cannot be read and what is no file: pipes, links to nothing.

    Raises:
        DataError: there is nothing of that name, or no file and no folder.
    """
    if source.is_file():
        return Walk([source])
    if not source.is_dir():
        why = "is a pipe or a device" if source.exists() else "does not exist"
        raise DataError(f"{source}: {why}; give a folder of music or an audio file")
    found = Walk([])
    files: list[Path] = []
    for folder, name in _below(source, found.problems):
        suffix = os.path.splitext(name)[1].casefold()  # of very many files a Path each would take long
        path = os.path.join(folder, name)
        if name.casefold() in _JUNK:
            continue
        is_audio, why = (False, "") if suffix in _OTHER_SUFFIXES else _looked_at(path, suffix in AUDIO_SUFFIXES)
        if why:
            found.problems.append((Path(_printable(path)), why))
        elif not is_audio:
            found.passed_over[suffix or "without a suffix"] += 1
        elif _printable(path) != path:
            found.problems.append((Path(_printable(path)), "its name is not UTF-8; rename it"))
        else:
            files.append(Path(path))
    found.problems.sort()
    found.files = sorted(files, key=lambda path: path_key(path.relative_to(source).parts))
    return found


def _below(source: Path, problems: list[Problem]) -> Iterator[tuple[str, str]]:
    """Folder and name of every file that is not hidden."""

    def closed(error: OSError) -> None:
        folder = Path(_printable(error.filename or str(source)))
        problems.append((folder, f"the folder cannot be read ({error.strerror or error}); check its permissions"))

    seen: set[str] = set()
    for folder, names, files in os.walk(source, onerror=closed, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            names.clear()
            continue
        seen.add(real)
        names[:] = sorted((n for n in names if not n.startswith((".", "@eaDir")) and n != "__MACOSX"), key=natural_key)
        yield from ((folder, n) for n in files if not n.startswith("."))


def _looked_at(path: str, is_audio: bool) -> tuple[bool, str]:
    """Whether a file is audio, by its first bytes where its name says nothing; and why it cannot be used."""
    try:
        # What is no file is not opened: a pipe keeps its reader for ever.
        if not stat.S_ISREG(os.stat(path).st_mode):
            return is_audio, "a pipe or a device, and no file"
        return is_audio or looks_like_audio(Path(path)), ""
    except FileNotFoundError:
        return is_audio, "a link to nothing; what it leads to is gone, or on a disk that is not there"
    except OSError as error:
        if error.errno == errno.ELOOP:
            return is_audio, "a link in a circle"
        # Of a name that says audio, it is said when the file is opened.
        return is_audio, "" if is_audio else f"cannot be read ({error.strerror or error}); check its permissions"


def _printable(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")
