"""What a preparation would do, before anything is written: songs, their files, splits and lengths."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from dataprep.audio.decoders import AudioSource
from dataprep.audio.tracks import Track
from dataprep.errors import DataError, PrepareError
from dataprep.preparing.folder import existing_manifest
from dataprep.preparing.prepare import PrepareSettings
from dataprep.preparing.survey import headers
from dataprep.roles import Role, Split
from dataprep.shards.manifest import Manifest
from dataprep.shards.splits import SplitByFraction, SplitRule, beside


@dataclass(frozen=True)
class PlannedSong:
    """One song as it would be prepared."""

    id: str
    split: Split
    stems: Mapping[Role, tuple[AudioSource, ...]]
    notes: tuple[str, ...]
    length_s: float | None = None
    """By the headers of its files; None where they were not read."""
    refused: str = ""
    """Why its files cannot be used, as far as headers tell."""
    is_there: bool = False
    """Whether the data set has a song of this id."""


def plan(
    tracks: Sequence[Track], rule: SplitRule, existing: Manifest | None, *, read_headers: bool
) -> tuple[PlannedSong, ...]:
    """What would be prepared. Copies of a recording, which come into one split, are found by the work alone.

    Args:
        tracks: songs, with the ids that they would have.
        rule: how they are split.
        existing: the data set that they would go into.
        read_headers: also look how long they are, and whether their files can be opened.

    Raises:
        DataError: a list of splits that names not all tracks.
    """
    before = {song.id: song.split for song in existing.songs} if existing else {}
    splits = beside([track.id for track in tracks], rule, before)
    songs = [
        PlannedSong(track.id, splits[track.id], track.stems, track.notes, is_there=track.id in before)
        for track in tracks
    ]
    if not read_headers:
        return tuple(songs)
    with ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1))) as pool:
        songs = list(pool.map(_with_length, tracks, songs))
    splits |= beside([song.id for song in songs if not song.refused], rule, before)  # the others take no place
    return tuple(replace(song, split=splits[song.id]) for song in songs)


def heeding(rule: SplitRule, tracks: Sequence[Track], *, published: bool) -> SplitRule:
    """Fractions that keep stems of one song together; with `published`, also the split that a data set came with."""
    if not isinstance(rule, SplitByFraction):
        return rule
    kin = {track.id: track.kin for track in tracks if track.kin}
    own = {track.id: track.split for track in tracks if track.split is not None}
    labelled = frozenset(track.id for track in tracks if len(track.stems) > 1)
    return replace(rule, kin=kin, published=own if published else {}, labelled=labelled)


def manifest_there(out: Path, settings: PrepareSettings) -> Manifest | None:
    """The manifest of the data set in `out`; None where there is no folder yet. Writes nothing.

    Raises:
        PrepareError: what is there cannot be added to.
    """
    if not os.path.lexists(out):
        return None
    if not out.is_dir():
        raise PrepareError(f"{out}: is no folder; give a new one with --out")
    return existing_manifest(out, settings)


def _with_length(track: Track, song: PlannedSong) -> PlannedSong:
    try:
        _, length_s = headers(track)
    except DataError as error:
        return replace(song, refused=str(error))
    return replace(song, length_s=length_s)
