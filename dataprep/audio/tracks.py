"""From folders of audio files to tracks: which file is which stem of which song.

The layouts are in `layouts/table.py`. Names decide; where they leave it open, the sound does (`layouts/content.py`).
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dataprep.audio.decoders import AudioSource
from dataprep.audio.layouts.found import Found, Problem
from dataprep.audio.layouts.published import published_splits
from dataprep.audio.layouts.song_folders import find_song_folders, labelled_by_name
from dataprep.audio.layouts.table import Layout, Recognised, layout_of, recognise
from dataprep.audio.names import safe_id
from dataprep.audio.walk import AUDIO_SUFFIXES, walk
from dataprep.errors import DataError, NothingUsable
from dataprep.refusals import Refused
from dataprep.roles import Role, Split


@dataclass(frozen=True)
class Track:
    """One song. Stems of one role are summed."""

    id: str
    """Unique in the data set and safe as a file name."""
    stems: dict[Role, tuple[AudioSource, ...]]
    notes: tuple[str, ...] = ()
    """What was decided about its files, for people."""
    split: Split | None = None
    """That it has in a published data set."""
    kin: str = ""
    """Tracks of equal kin hold stems of one song, and come into one split."""


@dataclass(frozen=True)
class Tracks:
    """What was found in the sources of one data set."""

    tracks: tuple[Track, ...]
    layouts: tuple[tuple[Path, Layout], ...]
    """The layout of each source."""
    problems: tuple[Problem, ...]
    """What was not used, and why."""
    passed_over: Mapping[str, int] = field(default_factory=dict)
    """How many files of each suffix are no audio."""


def find_tracks(sources: Sequence[Path], layout: str = "auto") -> Tracks:
    """Tracks of all sources, in an order that depends on their names alone.

    A source that cannot be used is a problem, as long as another one can.

    Args:
        sources: folders, or single audio files, which are taken whatever their names are.
        layout: one of `LAYOUTS`, or "auto" to recognise each source's.

    Raises:
        DataError: no source given, or of each it is true that it is missing, holds no audio or not the layout asked
            for, or is not understood; or there is no such layout.
    """
    wanted = None if layout == "auto" else layout_of(layout)
    if not sources:
        raise DataError("no source given; name at least one folder of music")
    found: list[tuple[Path, Found]] = []
    layouts: list[tuple[Path, Layout]] = []
    problems: list[Problem] = []
    refused: list[DataError] = []
    passed_over: Counter[str] = Counter()
    together = _named_together(sources) if wanted is None else []
    for files in together:
        songs = find_song_folders(files[0].parent, files)
        if not songs.songs:  # what a song has no use for is in its notes
            problems += [(path, songs.problems[0][1]) for path in files]
        found.append((files[0].parent, songs))
        layouts += [(path, "stems") for path in files]
    stems = {path for files in together for path in files}
    for source in sources:
        if source in stems:
            continue
        here = _Source(source)
        try:
            chosen, songs = here.find(wanted)
        except DataError as error:
            refused.append(error)
            problems.append((source, _without_name(source, error)))
        else:
            found.append((source, songs))
            layouts.append((source, chosen))
            problems += [*here.problems, *songs.problems]
        passed_over.update(here.passed_over)
    if not any(songs.songs for _, songs in found):
        if len(refused) == 1 and len(sources) == 1:
            raise refused[0]
        raise NothingUsable("no song can be used in what was given", _refusals(problems))
    splits = published_splits([(source, [song.parts for song in songs.songs]) for source, songs in found])
    tracks = [
        Track(safe_id(song.parts), dict(song.stems), song.notes, split, song.kin)
        for (_, songs), own in zip(found, splits, strict=True)
        for song, split in zip(songs.songs, own, strict=True)
    ]
    unique, repeated = _without_repeats(tracks)
    return Tracks(
        tuple(_with_unique_ids(unique)), tuple(layouts), (*problems, *repeated), dict(sorted(passed_over.items()))
    )


def about_no_audio(passed_over: Mapping[str, int]) -> str:
    """What in the sources is no audio, by how many files of each suffix, on one line; empty where there is nothing."""
    counts = ", ".join(f"{count} {suffix}" for suffix, count in passed_over.items())
    return f"passed over, no audio: {counts}" if counts else ""


def _named_together(sources: Sequence[Path]) -> list[list[Path]]:
    """Files among the sources that are stems of one song by their names, by song: `out/*` of a separation."""
    return labelled_by_name([source for source in dict.fromkeys(sources) if source.is_file()])


class _Source:
    """A source while it is looked through; what was seen stays known where it is refused."""

    def __init__(self, source: Path) -> None:
        self._source = source
        self.problems: list[Problem] = []
        self.passed_over: Counter[str] = Counter()

    def find(self, wanted: Recognised | None) -> tuple[Layout, Found]:
        source = self._source
        seen = walk(source)
        self.problems, self.passed_over = seen.problems, seen.passed_over
        if not seen.files:
            closed = f" ({seen.problems[0][0]}: {seen.problems[0][1]})" if seen.problems else ""
            raise DataError(f"{source}: no audio in it; expected {', '.join(sorted(AUDIO_SUFFIXES))} files{closed}")
        layout = wanted or recognise(source, seen.files)
        found = layout.find(source, seen.files)
        if not found.songs:
            what = f"{source}: no song in the layout {layout.name!r}"
            raise NothingUsable(what, _refusals([*found.problems, *seen.problems]), "try another --layout")
        return layout.name, found


def _refusals(problems: Sequence[Problem]) -> list[Refused]:
    return [Refused(str(path), f"{path}: {why}", (str(path),)) for path, why in problems]


def _without_name(source: Path, error: DataError) -> str:
    return str(error).removeprefix(f"{source}: ")


def files_of(stems: Mapping[Role, tuple[AudioSource, ...]]) -> frozenset[tuple[str, int]]:
    """Real path and stream of everything that a song is read from: equal, whatever links lead there."""
    return frozenset((os.path.realpath(source.path), source.stream) for sources in stems.values() for source in sources)


def _without_repeats(tracks: Sequence[Track]) -> tuple[list[Track], list[Problem]]:
    """Tracks whose very files are not those of an earlier one: sources may overlap, or link to each other."""
    first: dict[frozenset[tuple[str, int]], Track] = {}
    problems: list[Problem] = []
    for track in tracks:
        earlier = first.setdefault(files_of(track.stems), track)
        if earlier is not track:
            [source, *_] = next(iter(track.stems.values()))
            problems.append((source.path, f"the same file as that of {earlier.id}"))
    return list(first.values()), problems


def _with_unique_ids(tracks: Sequence[Track]) -> Iterator[Track]:
    """The first of equal ids keeps it, the next get -2, -3 …: a source added at the end renames nothing."""
    taken = {track.id.casefold() for track in tracks}
    given: set[str] = set()
    for track in tracks:
        name, count = track.id, 1
        # File systems of some machines take upper and lower case as equal.
        while name.casefold() in given or (count > 1 and name.casefold() in taken):
            count += 1
            name = f"{track.id}-{count}"
        given.add(name.casefold())
        yield replace(track, id=name)
