"""A group of songs that share shards: what one worker process prepares, and the journal that says it has.

A group's shards are announced before they are begun, and finished before its journal is written. One that is announced
and that no journal and no manifest names was left by a preparation that was stopped: the next removes it.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from dataprep.audio.tracks import Track
from dataprep.errors import DataError
from dataprep.fingerprints.store import Words, keep
from dataprep.preparing.song import SongSettings, encode_song, stored_roles
from dataprep.roles import Role
from dataprep.shards.manifest import SongRow, write_json
from dataprep.shards.names import ShardName
from dataprep.shards.old_manifests import as_today
from dataprep.shards.reader import Shard
from dataprep.shards.writer import SUFFIX, ShardRow, ShardWriter
from vr_core.config import Spec, digest, plain
from vr_core.files import storage_failure
from vr_core.small_files import read_json

JOURNALS = "journal"


class GroupPlan(Spec):
    """Songs of a group and their stamps, in order."""

    name: str
    """Part of its shards' names; a digest of what is in it, so that no two groups share one."""
    songs: tuple[tuple[str, str], ...]
    """(id, stamp)"""


class GroupJournal(Spec):
    """What a group has become."""

    settings: SongSettings
    shards: dict[ShardName, ShardRow]
    songs: tuple[SongRow, ...]


class Announced(Spec):
    """Shards that are about to be written, or that the manifest is about to name no more."""

    announced: tuple[ShardName, ...]
    """Names of their files."""


def announce(folder: Path, name: str, shards: Collection[str]) -> None:
    """Write into the journal, as `name`, that these shards are the data set's own: nothing else is ever removed.

    Raises:
        NoSpaceError: the disk is full.
    """
    write_json(folder, folder / JOURNALS / f"{name}.shards.json", plain(Announced(announced=tuple(sorted(shards)))))


def shard_names(group: str, tracks: Sequence[Track], settings: SongSettings) -> dict[Role, str]:
    """File name of the shard of each role that a group's tracks are stored in."""
    return {role: f"{role}-{group}{SUFFIX}" for track in tracks for role in stored_roles(track, settings)}


def plan_groups(
    seconds: Mapping[str, float], stamps: Mapping[str, str], bytes_per_s: float, shard_bytes: int, workers: int
) -> tuple[GroupPlan, ...]:
    """Cut songs, in order, into groups.

    A group ends with the song that brings its largest shard to `shard_bytes`; to less where there is so little that
    some workers would have no group.

    Args:
        seconds: length of each song.
        stamps: stamp of each song.
        bytes_per_s: of the largest stem.
        shard_bytes: size at which a shard is closed.
        workers: processes there will be.
    """
    limit_s = min(shard_bytes / bytes_per_s, sum(seconds.values()) / workers * 0.999)
    groups: list[list[str]] = []
    held_s = 0.0
    for song, length_s in seconds.items():
        if not groups or held_s >= limit_s:
            groups.append([])
            held_s = 0.0
        groups[-1].append(song)
        held_s += length_s
    plans = []
    for group in groups:
        songs = tuple((song, stamps[song]) for song in group)
        plans.append(GroupPlan(name=digest([list(song) for song in songs], 12), songs=songs))
    return tuple(plans)


def with_free_name(plan: GroupPlan, tracks: Sequence[Track], settings: SongSettings, taken: set[str]) -> GroupPlan:
    """The group, under another name where a shard of it would have one that is `taken`.

    The same files with the same settings can give other samples than they gave then: by another version of a decoder or
    of the resampler.
    """
    while not taken.isdisjoint(shard_names(plan.name, tracks, settings).values()):
        plan = plan.model_copy(update={"name": digest([plan.name], 12)})
    return plan


def prepare_group(
    folder: Path, plan: GroupPlan, tracks: Sequence[Track], settings: SongSettings, tick: Callable[[str, float], None]
) -> list[tuple[str, str]]:
    """Prepare the songs of a group into shards of their own, one a role, and write the journal.

    Args:
        folder: of the data set.
        plan: the group.
        tracks: its songs.
        settings: how they are stored.
        tick: called with the song and the seconds done since the last call; may raise to stop.

    Returns:
        Songs that could not be used: (id, reason).

    Raises:
        NoSpaceError: the disk is full; nothing of the group is left.
    """
    songs: list[SongRow] = []
    failed: list[tuple[str, str]] = []
    stamps = dict(plan.songs)
    writers: dict[Role, ShardWriter] = {}
    heard: dict[str, Words] = {}
    names = shard_names(plan.name, tracks, settings)
    announce(folder, plan.name, names.values())
    with ExitStack() as stack:
        for track in tracks:
            for role in stored_roles(track, settings):
                if role not in writers:
                    path = folder / names[role]
                    writers[role] = stack.enter_context(ShardWriter(path, settings.codec_of(role), settings.stft))
            try:
                songs.append(encode_song(track, settings, stamps[track.id], writers, partial(tick, track.id), heard))
            except DataError as error:
                failed.append((track.id, str(error)))
        used = {stem.shard for song in songs for stem in song.stems.values()}
        for writer in writers.values():
            if writer.path.name not in used:
                writer.abort()
        for writer in writers.values():
            # A shard alone is of no use: if a later one cannot be finished, those before it go too.
            stack.push(_removes_when_failing(writer.path))
        shards = {w.path.name: w.close() for w in writers.values() if w.path.name in used}
    for name, row in shards.items():
        stems = [stem.frames for song in songs for stem in song.stems.values() if stem.shard == name]
        if row.rows > sum(stems):
            shards[name], songs = _without_dead_rows(folder / name, row, settings, songs)
    if songs:
        keep(folder, plan.name, heard)
        journal = GroupJournal(settings=settings, shards=shards, songs=tuple(songs))
        write_json(folder, folder / JOURNALS / f"{plan.name}.json", plain(journal))
    return failed


def read_journals(folder: Path, settings: SongSettings) -> dict[Path, GroupJournal]:
    """Journals of stopped preparations with these settings whose shards are all there, by name."""
    return {
        path: entry
        for path, entry in journal_entries(folder).items()
        if isinstance(entry, GroupJournal)
        and entry.settings == settings
        and all((folder / name).is_file() for name in entry.shards)
    }


def journals_of(groups: Collection[str], journals: Mapping[Path, GroupJournal]) -> dict[Path, GroupJournal]:
    """Those of `journals` that are of these groups.

    Others are of a stopped preparation: since then files of its songs may have changed, or its shards been cut short.
    """
    return {path: journal for path, journal in journals.items() if group_of(path.name) in groups}


def group_of(entry: str) -> str:
    """Name of the group of a journal's file: on several PCs every try of it has a suffix of its own."""
    return entry.partition(".")[0].partition("-")[0]


def journal_entries(folder: Path) -> dict[Path, GroupJournal | Announced]:
    """What the files of the journal say; damaged ones do not count, nor what others keep in a folder of that name.

    Raises:
        StorageError: the disk or the share failed.
    """
    found: dict[Path, GroupJournal | Announced] = {}
    for path in sorted((folder / JOURNALS).glob("[!.]*.json")):
        try:
            raw = read_json(path)
            kind = Announced if "announced" in raw else GroupJournal
            found[path] = kind.model_validate_json(json.dumps(as_today(raw)))
        except OSError as error:
            if failed := storage_failure(path, error):
                raise failed from None
        except (ValueError, TypeError):
            continue
    return found


def _removes_when_failing(path: Path) -> Callable[..., None]:
    def leave(kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            path.unlink(missing_ok=True)

    return leave


def _without_dead_rows(
    path: Path, row: ShardRow, settings: SongSettings, songs: list[SongRow]
) -> tuple[ShardRow, list[SongRow]]:
    """Write a shard again without the rows of songs that failed half-way; returns its row and the songs that moved."""
    shard = Shard(path, row.codec, settings.stft)
    moved = []
    with ShardWriter(path, row.codec, settings.stft) as writer:
        for song in songs:
            stems = dict(song.stems)
            for role, stem in song.stems.items():
                if stem.shard != path.name:
                    continue
                stems[role] = stem.model_copy(update={"first_batch": writer.batches, "first_row": writer.rows})
                for batch in range(stem.first_batch, stem.first_batch + len(stem.peaks)):
                    writer.write(shard.columns(batch))
            moved.append(song.model_copy(update={"stems": stems}))
        return writer.close(), moved
