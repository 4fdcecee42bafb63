"""Which file becomes what, told before `vr data` prepares: all of it by `--dry-run`, else the beginning."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataprep.roles import USUAL_SPLIT
from jobs.commands.terminal import console, say
from vr_core.errors import command
from vr_core.small_files import printable

if TYPE_CHECKING:
    from dataprep.audio.decoders import AudioSource
    from dataprep.audio.tracks import Tracks
    from dataprep.preparing.plan import PlannedSong
    from dataprep.preparing.prepare import PrepareSettings
    from dataprep.shards.manifest import Manifest
    from dataprep.shards.splits import SplitRule

MOST_SONGS = 20
"""Songs that are shown before the work."""


@dataclass(frozen=True)
class Planned:
    """All that is known of a preparation before it begins."""

    sources: Sequence[Path]
    out: Path
    """Folder of the data set."""
    found: "Tracks"
    rule: "SplitRule"
    songs: "Sequence[PlannedSong]"
    about_splits: str = ""
    """What became of the split that a published data set has."""
    split_given: bool = False
    """Whether the user has asked for a split: else nobody wonders where songs stay."""
    no_song_now: tuple[str, ...] = ()
    """Ids of songs of the data set that were made of files in the sources, and that these are no songs of now."""

    def relative(self, source: "AudioSource") -> str:
        """Name of a file below the source that it was found in."""
        inside = [given for given in self.sources if given != source.path and source.path.is_relative_to(given)]
        name = str(source.path.relative_to(max(inside, key=lambda path: len(path.parts)))) if inside else ""
        return f"{name or source.path.name}{f':{source.stream}' if source.stream else ''}"

    def lines(self, most: int | None = None) -> Iterator[str]:
        """A line a song, and what was decided about it; with `most`, of so many that the data set has not, at most."""
        songs = [song for song in self.songs if not song.refused]  # the others are named below
        there = 0 if most is None else sum(song.is_there for song in songs)
        if there:
            songs = [song for song in songs if not song.is_there]
        shown = songs[:most]
        for song in shown:
            stems = "; ".join(
                f"{role}: {' + '.join(self.relative(source) for source in sources)}"
                for role, sources in song.stems.items()
            )
            length = f" {_minutes(song.length_s)}" if song.length_s is not None else ""
            yield f"{song.split:>5}{length}  {song.id}  {stems}"
            yield from (f"       {note}" for note in song.notes)
        if len(shown) < len(songs):
            yield f"       and {len(songs) - len(shown)} more; all with --dry-run"
        if there:
            yield f"{there} songs are in {self.out} already; what has changed of them is prepared again"
        if self.about_splits:
            yield self.about_splits

    def as_json(self) -> list[dict[str, Any]]:
        """The same for programs."""
        return [
            {
                "song": song.id, "split": song.split, "length_s": song.length_s, "notes": list(song.notes),
                "stems": {role: [self.relative(s) for s in sources] for role, sources in song.stems.items()},
            }
            for song in self.songs if not song.refused
        ]  # fmt: skip

    def refused(self) -> list[tuple[str, str]]:
        """(song, why), as far as headers tell."""
        return [(song.id, song.refused) for song in self.songs if song.refused]

    def named_and_refused(self, songs: Sequence[str]) -> list[str]:
        """Names of sources that are no folders and are not used, or not at all; `songs` are ids that were refused."""
        given = {source for source in self.sources if not source.is_dir()}
        out = {path for path, _ in self.found.problems if path in set(self.sources)}
        ids = set(songs)
        for track in self.found.tracks:
            if track.id in ids:
                out |= {source.path for stem in track.stems.values() for source in stem} & given
        return sorted(str(path) for path in out)


def planned(
    sources: Sequence[Path], layout: str, split: str | None, out: Path, settings: "PrepareSettings",
    beside: "Manifest | None", *, read_headers: bool,
) -> Planned:  # fmt: skip
    """Look through the sources; nothing is written.

    Args:
        sources: folders and files that were given.
        layout: as of `--layout`.
        split: as of `--split`; None where it was not given, and a published data set's own split is heeded.
        out: folder of the data set.
        settings: how it is prepared.
        beside: what a data set holds that more is added to.
        read_headers: also look how long songs are.

    Raises:
        DataError: as of `find_tracks`, or a split or a folder that does not fit.
    """
    from dataclasses import replace

    from dataprep.errors import DataError
    from dataprep.preparing.change import ids_beside, ids_kept, no_song_now
    from dataprep.preparing.plan import heeding, manifest_there, plan
    from dataprep.shards.splits import SplitByFraction, parse_split

    rule = parse_split(USUAL_SPLIT if split is None else split)
    existing = beside or manifest_there(out, settings)
    try:
        with reasons_shown():
            found = _looked_through(sources, layout)
    except DataError as error:
        # What was made of them, by a reading that was sure where this one asks, is still there.
        ids = no_song_now((), sources, existing) if existing is not None and layout == "auto" else ()
        if not ids:
            raise
        raise DataError(f"{error}; {about_songs_left(out, ids)}") from None
    if beside is not None:
        found = replace(found, tracks=ids_beside(found.tracks, beside))
    elif existing is not None:
        found = replace(found, tracks=ids_kept(found.tracks, existing))
    rule = heeding(rule, found.tracks, published=split is None)
    about = ""
    if own := sum(track.split is not None for track in found.tracks):
        heeded = isinstance(rule, SplitByFraction) and bool(rule.published)
        about = f"{own} songs lie in folders such as train/ and test/: " + (
            "that split is kept, and valid is drawn from train where there is none; --split sets it aside"
            if heeded else "--split is used and not that split"
        )  # fmt: skip
    left = no_song_now(found.tracks, sources, existing) if existing is not None else ()
    songs = plan(found.tracks, rule, existing, read_headers=read_headers)
    return Planned(sources, out, found, rule, songs, about, split is not None, left)


@contextmanager
def reasons_shown() -> Iterator[None]:
    """Where no song can be used, says what is wrong with all of them; the message alone has the most frequent."""
    from dataprep.errors import NothingUsable

    try:
        yield
    except NothingUsable as error:
        if sum(alike.count for alike in error.reasons) > 1:
            for alike in error.reasons:
                more = f" ({alike.count} such)" if alike.count > 1 else ""
                say(f"not used{more}: {alike.first.why}", err=True)
        raise


def about_songs_left(out: Path, ids: Sequence[str]) -> str:
    """What to do about songs of a data set that the files they were made of are not taken for now."""
    return (
        f"{len(ids)} songs of {out} were made of these files, which are taken for other songs now or are asked about; "
        f"they stay until you take them out: {command('data remove', out, *ids)}"
    )


def _looked_through(sources: Sequence[Path], layout: str) -> "Tracks":
    """`find_tracks`, with a line that says what is being listened to."""
    from rich.markup import escape

    from dataprep.audio.layouts.content import listening_told
    from dataprep.audio.tracks import find_tracks

    with console().status("looking through the folders") as status:
        heard = itertools.count(1)

        def shown(path: Path) -> None:
            status.update(escape(printable(f"listening to file {next(heard)}: {path.name}")))

        with listening_told(shown):
            return find_tracks(sources, layout)


def _minutes(length_s: float) -> str:
    return f"{int(length_s) // 60}:{int(length_s) % 60:02d}"
