"""Changes of a data set that rewrite nothing of the rest: songs taken out, or prepared again, old versions dropped.

Runs that began before a change go on with what they began with: the manifest that a change replaces is kept under its
digest (`versions/`), and so are the shards it names, until `prune`.
"""

import fnmatch
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from dataprep.audio.names import numbered
from dataprep.audio.tracks import Track, files_of
from dataprep.errors import DataError, ShardError
from dataprep.preparing.folder import writing
from dataprep.preparing.leftovers import finished_shards, left_alone, remove_leftovers, remove_versions
from dataprep.preparing.prepare import PrepareProgress, PrepareReport, PrepareSettings, prepare
from dataprep.preparing.survey import are_gone, headers
from dataprep.roles import Role
from dataprep.shards.manifest import Manifest, Preparation, SongRow, StemRow, read_manifest, replace_manifest
from dataprep.shards.old_manifests import moved_any
from dataprep.shards.reader import Shard
from dataprep.shards.roots import Roots
from dataprep.shards.splits import SplitByList
from dataprep.shards.writer import BATCH_FRAMES, checksum, verify
from vr_core.errors import StorageError
from vr_core.small_files import sha256_of


def settings_of(manifest: Manifest) -> PrepareSettings:
    """How its songs were prepared."""
    how = manifest.preparation or _traces(manifest)
    codecs = {"codec": manifest.codec, "mixture_codec": manifest.mixture_codec}
    return PrepareSettings(stft=manifest.stft, **codecs, **how.model_dump())  # type: ignore[arg-type]


def _traces(manifest: Manifest) -> Preparation:
    """What the songs of a data set show of how they were prepared, where that was not stored."""
    labelled = [song for song in manifest.songs if len(song.stems) > 1]
    mixture = not labelled or any("mixture" in song.stems for song in labelled)
    return Preparation(mixture=mixture, align=moved_any(note for song in manifest.songs for note in song.notes))


def remove(folder: Path, patterns: Sequence[str]) -> tuple[str, ...]:
    """Take songs out of a data set.

    Args:
        folder: of the data set.
        patterns: ids, or shell patterns over them.

    Returns:
        Ids of the songs that are gone.

    Raises:
        DataError: a pattern that no song has, or no song would be left.
        PrepareError: somebody else is changing the data set.
    """
    with writing(folder):
        manifest = read_manifest(folder)
        ids = [song.id for song in manifest.songs]
        for pattern in patterns:
            if not fnmatch.filter(ids, pattern):
                raise DataError(f"{folder}: no song {pattern!r} in this data set; `vr data inspect` lists them")
        gone = tuple(id for id in ids if any(fnmatch.fnmatchcase(id, pattern) for pattern in patterns))
        if len(gone) == len(ids):
            raise DataError(f"{folder}: all {len(ids)} songs would be gone; delete the folder if you mean it")
        songs = tuple(song for song in manifest.songs if song.id not in gone)
        _write(folder, manifest, songs)
    return gone


class Pruned(NamedTuple):
    """What `prune` removed."""

    versions: int
    bytes: int
    left_alone: tuple[str, ...]
    """Files in the folder that are called as a data set's own are, and that it did not write."""


def prune(folder: Path) -> Pruned:
    """Drop the versions that were kept for runs that began with them, and the shards that only they name.

    Raises:
        PrepareError: somebody else is changing the data set.
    """
    with writing(folder):
        manifest = read_manifest(folder)
        named = set(manifest.shards) | finished_shards(folder)
        versions, removed_bytes = remove_versions(folder, named)
        removed_bytes += remove_leftovers(folder, named)
        return Pruned(versions, removed_bytes, left_alone(folder, named))


class DamagedFrames(NamedTuple):
    """Frames of a song that are not what was written."""

    song: str
    role: Role
    start_frame: int
    frames: int


@dataclass(frozen=True)
class DamagedShard:
    """A shard that is not what its manifest says."""

    name: str
    reason: str
    frames: tuple[DamagedFrames, ...]
    """None where bytes are damaged that no song needs."""
    unread: bool = False
    """The disk or the share failed: it may be whole."""

    @property
    def songs(self) -> tuple[str, ...]:
        """Ids of the songs that are hit."""
        return tuple(dict.fromkeys(damage.song for damage in self.frames))


def examine(
    folder: Path,
    manifest: Manifest,
    on_shard: Callable[[str], None] = lambda name: None,
    roots: Roots | None = None,
) -> list[DamagedShard]:
    """Read every byte of a data set and compare it with its manifest.

    Args:
        folder: of the data set.
        manifest: its manifest.
        on_shard: called with each shard's name once it is read.
        roots: where else shards may be; by default what the data set says of this host.
    """
    roots = roots or Roots.of(folder)
    damaged = []
    for name, row in sorted(manifest.shards.items()):
        path = roots.find(name, row) or folder / name
        try:
            if not path.exists() and roots.may_have(name, row):
                raise StorageError(f"{name}: {roots.gap(manifest.shards, [name])}")
            try:
                verify(path, row)
            except ShardError as error:
                damaged.append(DamagedShard(name, str(error), tuple(_damaged_frames(path, manifest))))
        except StorageError as error:
            whole = (DamagedFrames(song.id, role, 0, stem.frames) for song, role, stem in _stems(name, manifest))
            damaged.append(DamagedShard(name, str(error), tuple(whole), unread=True))
        on_shard(name)
    return damaged


def repair(
    folder: Path,
    damaged: Sequence[DamagedShard],
    on_progress: Callable[[PrepareProgress], None] | None = None,
    roots: Roots | None = None,
    songs: Sequence[SongRow] | None = None,
) -> PrepareReport:
    """Prepare the songs that damage has hit again, from their sources.

    Other songs of a damaged shard stay where they are: each of their record batches has been compared with its CRC.

    Args:
        folder: of the data set.
        damaged: what `examine` found.
        on_progress: as of `prepare`.
        roots: as of `examine`.
        songs: rows of the songs that are hit, whose files may be read; by default as the manifest has them now.

    Returns:
        What was done; songs that cannot be repaired are in it, with their reasons. Where songs have other samples than
        before (`new_content`), the data set is a new version, and the one with the damage is kept for its runs.

    Raises:
        StorageError: a shard could not be read, so that nothing is known of it; nothing is changed.
        PrepareError, NoSpaceError: as `prepare`.
    """
    for shard in damaged:
        if shard.unread:
            raise StorageError(f"{shard.reason}; nothing was repaired, since it may be whole")
    manifest = read_manifest(folder)
    hurt = {song for shard in damaged for song in shard.songs}
    rows = [song for song in manifest.songs if song.id in hurt] if songs is None else list(songs)
    splits = SplitByList(tuple((song.split, song.id) for song in rows), str(folder))
    tracks = [song.track() for song in rows]
    roots = roots or Roots.of(folder)
    # What was taken once is repaired, whatever is thought of it now.
    settings = settings_of(manifest).model_copy(update={"keep_suspicious": True})
    report = prepare(tracks, folder, settings, on_progress, split=splits, again=hurt, roots=roots)
    with writing(folder):
        _accept(folder, damaged, {song for song, _ in report.failed}, roots)
    return report


def _accept(folder: Path, damaged: Sequence[DamagedShard], failed: set[str], roots: Roots) -> None:
    """Shards of which only rows that nobody needs any more are damaged are from now on right as they are."""
    manifest = read_manifest(folder)
    shards = dict(manifest.shards)
    for shard in damaged:
        if shard.name in shards and failed.isdisjoint(shard.songs):
            digest = sha256_of(roots.find(shard.name, shards[shard.name]) or folder / shard.name)
            shards[shard.name] = shards[shard.name].model_copy(update={"sha256": digest})
    replace_manifest(folder, manifest.model_copy(update={"shards": shards}))


def _stems(shard: str, manifest: Manifest) -> list[tuple[SongRow, Role, StemRow]]:
    return [(song, role, stem) for song in manifest.songs for role, stem in song.stems.items() if stem.shard == shard]


def _damaged_frames(path: Path, manifest: Manifest) -> list[DamagedFrames]:
    stems = _stems(path.name, manifest)
    try:
        shard = Shard(path, manifest.shards[path.name].codec, manifest.stft)
    except ShardError:
        return [DamagedFrames(song.id, role, 0, stem.frames) for song, role, stem in stems]
    return [damage for song, role, stem in stems for damage in _damaged_batches(shard, song, role, stem)]


def _damaged_batches(shard: Shard, song: SongRow, role: Role, stem: StemRow) -> list[DamagedFrames]:
    if not stem.crcs:  # of a time when only whole shards had a checksum
        return [DamagedFrames(song.id, role, 0, stem.frames)]
    found = []
    for batch, crc in enumerate(stem.crcs):
        start = batch * BATCH_FRAMES
        try:
            whole = checksum(shard.columns(stem.first_batch + batch)) == crc
        except ShardError:
            whole = False
        if not whole:
            found.append(DamagedFrames(song.id, role, start, min(BATCH_FRAMES, stem.frames - start)))
    return found


def _write(folder: Path, manifest: Manifest, songs: tuple[SongRow, ...]) -> None:
    named = {stem.shard for song in songs for stem in song.stems.values()}
    shards = {name: row for name, row in manifest.shards.items() if name in named}
    replace_manifest(folder, manifest.model_copy(update={"songs": songs, "shards": shards}))
    remove_leftovers(folder, named | finished_shards(folder))


def ids_beside(tracks: Sequence[Track], manifest: Manifest) -> tuple[Track, ...]:
    """`tracks` with ids that replace no song of a data set but those which they are.

    A track that has a file of a song is that song, with other stems perhaps; of several such tracks, the first is. A
    track with the id of another song gets -2, -3 and so on, unless that song has moved: its files are gone, and the
    track is as long.
    """
    own = {file: song.id for song in manifest.songs for file in files_of(song.sources)}
    songs = {song.id.casefold(): song for song in manifest.songs}
    given = songs.keys() | {track.id.casefold() for track in tracks}
    found: list[Track] = []
    used: set[str] = set()
    for track in tracks:
        mine = (own[file] for file in sorted(files_of(track.stems)) if file in own)
        name = next((name for name in mine if name not in used), None)
        if name is None:
            name, other = track.id, songs.get(track.id.casefold())
            if other is not None and (other.id in used or not _has_moved(other, track, manifest.stft.sample_rate_hz)):
                name = _numbered(name, given)
        used.add(name)
        found.append(replace(track, id=name))
    return tuple(found)


def ids_kept(tracks: Sequence[Track], manifest: Manifest) -> tuple[Track, ...]:
    """`tracks`, of which those that are made of the very files of a song keep its id, however ids are made today.

    The others keep their own, or get -2, -3 and so on where another song of the data set has it: one that shares no
    file with the track, and that has not moved.
    """
    own = {files_of(song.sources): song.id for song in manifest.songs}
    songs = {song.id.casefold(): song for song in manifest.songs}
    kept = [own.get(files_of(track.stems)) for track in tracks]
    taken = {name.casefold() for name in kept if name is not None}
    given = taken | songs.keys() | {track.id.casefold() for track in tracks}
    found = []
    for track, name in zip(tracks, kept, strict=True):
        if name is None:
            name, other = track.id, songs.get(track.id.casefold())
            if name.casefold() in taken or (other is not None and not _is_song(other, track, manifest)):
                name = _numbered(name, given)
            elif other is not None:
                name = other.id  # which may differ in case
        found.append(replace(track, id=name))
    return tuple(found)


def _numbered(name: str, given: set[str]) -> str:
    """The first of NAME-2, NAME-3 and so on that is not `given`, in lower case, and is so from now on."""
    found = numbered(name, lambda tried: tried.casefold() in given)
    given.add(found.casefold())
    return found


def no_song_now(tracks: Sequence[Track], sources: Sequence[Path], manifest: Manifest) -> tuple[str, ...]:
    """Ids of songs of a data set that were made of files in the sources, and that are no tracks of today.

    The files were taken for something else then. Songs whose files are gone are not among them.
    """
    given = [os.path.realpath(source) for source in sources]
    ids = {track.id for track in tracks}

    def is_there(file: str) -> bool:
        return any(file == one or file.startswith(os.path.join(one, "")) for one in given) and os.path.exists(file)

    return tuple(
        song.id
        for song in manifest.songs
        if song.id not in ids and any(is_there(file) for file, _ in files_of(song.sources))
    )


def _is_song(song: SongRow, track: Track, manifest: Manifest) -> bool:
    shared = not files_of(song.sources).isdisjoint(files_of(track.stems))
    return shared or _has_moved(song, track, manifest.stft.sample_rate_hz)


def _has_moved(song: SongRow, track: Track, rate_hz: int) -> bool:
    """Whether `track` is `song` at another place; a disk that is away does not make another album's song of it."""
    if not are_gone(song):
        return False
    try:
        _, length_s = headers(track)
    except DataError:
        return False
    return abs(length_s - song.samples / rate_hz) < SAME_LENGTH_S


SAME_LENGTH_S = 0.05
"""Between the header of a file and the song that was made of it."""
