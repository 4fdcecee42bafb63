"""Which songs a separation is asked for: every file that is named, and of a folder what is no result of ours."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dataprep.audio.names import id_parts, safe_name
from dataprep.audio.tracks import find_tracks
from dataprep.errors import DataError
from jobs.scoring.results import STEMS, read_record
from vr_core.errors import StorageError
from vr_core.small_files import DamagedFile


@dataclass(frozen=True)
class Song:
    """One song to separate."""

    path: Path
    name: str
    """What the names of its results should begin with; not unique."""


@dataclass(frozen=True)
class Found:
    """What the sources of a separation hold."""

    songs: tuple[Song, ...]
    problems: tuple[tuple[Path, str], ...]
    """What cannot be separated, and why."""
    passed_over: tuple[Path, ...]
    """What an earlier separation wrote, in folders."""
    no_audio: Mapping[str, int] = field(default_factory=dict)
    """How many files of each suffix in folders are no audio."""


def find_songs(sources: Sequence[Path]) -> Found:
    """The songs of all sources, in their order, each file once.

    A source that cannot be used is a problem, and the others are looked at. A file that is a source itself is a song
    whatever it is called.
    """
    named = {os.path.realpath(source) for source in sources if _is_file(source)}
    songs: dict[str, Song] = {}
    problems: list[tuple[Path, str]] = []
    passed_over: dict[str, Path] = {}
    results: dict[Path, frozenset[str]] = {}
    no_audio: Counter[str] = Counter()
    for source in sources:
        if not _encodable(source):
            problems.append((source, f"{source}: its name is not UTF-8; rename it"))
            continue
        try:
            found = find_tracks([source], layout="flat")
        except DataError as error:
            problems.append((source, str(error)))
            continue
        except OSError as error:  # a name that is too long
            problems.append((source, f"{source}: {error.strerror or error}"))
            continue
        no_audio.update(found.passed_over)
        for track in found.tracks:
            path = track.stems["mixture"][0].path
            real = os.path.realpath(path)
            if real not in named and is_result(path, results):
                passed_over[real] = path
            else:
                songs.setdefault(real, Song(path, safe_name(id_parts(source, path))))
        # Of two links to one file, one is a song.
        problems += [
            (path, f"{path}: {why}")
            for path, why in found.problems
            if os.path.realpath(path) not in songs and os.path.realpath(path) not in passed_over
        ]
    return Found(tuple(songs.values()), _once(problems), tuple(passed_over.values()), dict(sorted(no_audio.items())))


def is_result(path: Path, results: dict[Path, frozenset[str]]) -> bool:
    """Whether a separation wrote `path`: the record of its folder knows it, or both stems of a song lie side by side.

    Args:
        path: an audio file.
        results: folder → names in its record; those of folders that are missing are read and added.
    """
    if path.parent not in results:
        try:
            results[path.parent] = frozenset(read_record(path.parent).files)
        except (DamagedFile, StorageError):
            results[path.parent] = frozenset()
    if path.name in results[path.parent]:
        return True
    title, _, stem = path.stem.rpartition(".")
    twins = [path.with_name(f"{title}.{other}{path.suffix}") for other in STEMS if other != stem]
    return bool(title) and stem in STEMS and all(_is_file(twin) for twin in twins)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or holds a NUL
        return False


def _encodable(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _once(problems: Sequence[tuple[Path, str]]) -> tuple[tuple[Path, str], ...]:
    """A file that is named and lies in a folder that is named is one problem."""
    first: dict[Path, str] = {}
    for path, why in problems:
        first.setdefault(path, why)
    return tuple(first.items())
