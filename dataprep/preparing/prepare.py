"""From tracks to a data set: songs are grouped, groups prepared by worker processes, the manifest written last.

What is done stays done: a group has a journal once its shards are whole, a song whose files and settings are those of
its row in the manifest or in a journal is not prepared again, and a lock keeps two preparations apart.
"""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from dataprep.audio.tracks import Track
from dataprep.errors import NothingUsable, PrepareError
from dataprep.fingerprints.store import kept_fingerprints
from dataprep.preparing.duplicates import in_the_same_order, renamed, with_copies_in_one_split
from dataprep.preparing.folder import existing_manifest, writing
from dataprep.preparing.group import (
    GroupPlan,
    announce,
    journals_of,
    plan_groups,
    read_journals,
    shard_names,
    with_free_name,
)
from dataprep.preparing.leftovers import end_journal, left_alone, named_shards, own_shards, remove_leftovers
from dataprep.preparing.song import SongSettings
from dataprep.preparing.survey import Surveyed, are_gone, is_current, survey
from dataprep.preparing.workers import RunGroups, run_groups
from dataprep.refusals import Refused
from dataprep.shards.columns import CHANNELS, bin_bytes
from dataprep.shards.manifest import (
    Manifest,
    SongRow,
    replace_manifest,
)
from dataprep.shards.roots import Roots
from dataprep.shards.splits import SplitByFraction, SplitRule, assign, beside
from dataprep.shards.writer import ShardRow

_ONE_WORKER_S = 600.0
"""Up to this much audio, starting processes that import torch takes longer than the work."""


class PrepareSettings(SongSettings):
    """How music becomes a data set."""

    workers: Annotated[int, Field(ge=0)] = 0
    """Processes; 0: one for each core, or none besides this one where there is little to do."""
    shard_bytes: Annotated[int, Field(ge=1)] = 2**30
    """A shard is closed at the end of the song with which it reaches this size."""

    def song_settings(self) -> SongSettings:
        """What of it concerns a song."""
        return SongSettings(**{name: getattr(self, name) for name in SongSettings.model_fields})


@dataclass(frozen=True)
class PrepareProgress:
    """Where a preparation stands."""

    song: str
    """The one that has just gone on."""
    songs_done: int
    songs: int
    done_s: float
    """Seconds of audio."""
    total_s: float


@dataclass(frozen=True)
class PrepareReport:
    """What a preparation did."""

    manifest: Manifest
    prepared: tuple[str, ...]
    """Ids of songs prepared now."""
    kept: tuple[str, ...]
    """Ids of songs that were there already, unchanged."""
    failed: tuple[tuple[str, str], ...]
    """Songs that could not be used: (id, reason)."""
    left_alone: tuple[str, ...] = ()
    """Files in the folder that are called as a data set's own are, and that it did not write."""
    new_content: tuple[str, ...] = ()
    """Ids of songs prepared now that had other samples before: the manifest is a new version of the data set."""
    not_moved: tuple[str, ...] = ()
    """Ids of songs that fractions would have moved, and that keep the split they have in the data set."""
    read_otherwise: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Songs prepared now although neither their files nor the settings have changed, but how the files are read: (id,
    names of `reading_rules`)."""
    renamed: tuple[tuple[str, str], ...] = ()
    """Songs whose files are gone, and songs of the tracks that hold the same audio: (that one, this one)."""


def prepare(
    tracks: Sequence[Track],
    out: Path,
    settings: PrepareSettings | None = None,
    on_progress: Callable[[PrepareProgress], None] | None = None,
    *,
    split: SplitRule | None = None,
    again: Collection[str] = (),
    roots: Roots | None = None,
    run: RunGroups | None = None,
) -> PrepareReport:
    """Prepare tracks into the data set `out`, new or existing; songs of it that are not among the tracks stay.

    Args:
        tracks: songs, with ids that are unique.
        out: folder of the data set.
        settings: how; those of an existing data set must agree.
        on_progress: called now and then.
        split: which of the tracks are for training, validation and test; all for training by default.
        again: ids of tracks that are prepared even where nothing about them has changed.
        roots: where else shards of an existing data set may be; by default what it says of this host.
        run: what prepares the groups; processes of this PC by default.

    Returns:
        What was done; songs that cannot be used are in it with their reasons.

    Raises:
        PrepareError: another preparation is at work there, the existing data set has other settings, or no song of the
            tracks could be used.
        DataError: a list of splits that names not all tracks.
        NoSpaceError: the disk is full; finished groups are kept for the next time.
    """
    settings = settings or PrepareSettings()
    rule = split or SplitByFraction()
    assign([track.id for track in tracks], rule)  # what is wrong with it is said before the work and not after
    with writing(out):
        places = roots or Roots.of(out)
        return _prepare(tracks, out, settings, on_progress or (lambda _: None), rule, again, places, run)


def _prepare(
    tracks: Sequence[Track],
    out: Path,
    settings: PrepareSettings,
    on_progress: Callable[[PrepareProgress], None],
    rule: SplitRule,
    again: Collection[str],
    roots: Roots,
    run: RunGroups | None,
) -> PrepareReport:
    existing = existing_manifest(out, settings)
    song_settings = settings.song_settings()
    journals = read_journals(out, song_settings)
    shards: dict[str, ShardRow] = dict(existing.shards)
    rows = {song.id: song for song in existing.songs}
    for journal in journals.values():
        shards |= journal.shards
        # Two of them hold the same song where its files changed between two preparations that were both stopped.
        rows |= {s.id: s for s in journal.songs if s.id not in rows or not is_current(rows[s.id], song_settings)}
    remove_leftovers(out, set(shards))
    whole = {name for name, row in shards.items() if roots.may_have(name, row)}
    lost = {song.id for song in rows.values() if not {stem.shard for stem in song.stems.values()} <= whole}
    rows = {id: song for id, song in rows.items() if id not in lost}

    seen, failed = survey(tracks, song_settings)
    wanted = {track.id: track for track in tracks}
    failed += [
        (id, "its shard is gone or cut short, and its files are not among the sources") for id in lost - set(wanted)
    ]
    kept = tuple(id for id, one in seen.items() if id in rows and rows[id].stamp == one.stamp and id not in again)
    unchanged = set(kept)
    outdated = {id for id, one in seen.items() if one.rules and id in rows and rows[id].stamp == one.stamp_once}
    todo = {id: one for id, one in seen.items() if id not in unchanged}
    todo_s = {id: one.length_s for id, one in todo.items()}
    plans, workers = _plan(todo, settings)
    work = [(plan, [wanted[song] for song, _ in plan.songs]) for plan in plans]
    work = _with_free_names(out, work, song_settings, set(existing.shards))
    counter = _Counter(on_progress, plans, todo_s)
    groups = {plan.name for plan, _ in work}
    for path, journal in journals_of(groups, journals).items():  # prepared again: their rows must not come back
        announce(out, path.stem, journal.shards)
        path.unlink()
    failed += (run or run_groups)(out, work, song_settings, workers, counter.tick, counter.group_done)
    for journal in journals_of(groups, read_journals(out, song_settings)).values():
        shards |= journal.shards
        rows |= {song.id: song for song in journal.songs}

    before = {song.id: song for song in existing.songs}
    rows = {id: in_the_same_order(song, before.get(id)) for id, song in rows.items()}

    # A song that cannot be prepared again keeps the row of the time when it could.
    used = [track.id for track in tracks if track.id in rows]
    if tracks and not used:
        remove_leftovers(out, set(shards))
        files = {track.id: tuple(str(source) for heard in track.stems.values() for source in heard) for track in tracks}
        refusals = (Refused(id, why, files.get(id, ())) for id, why in failed)
        raise NothingUsable(f"{out}: none of the {len(tracks)} songs could be used", refusals)
    kept_splits = {id: song.split for id, song in before.items() if id in rows}
    splits = beside(used, rule, kept_splits, sorted(rows.keys() - set(used) - kept_splits.keys()))
    for id in rows.keys() - splits.keys():
        failed.append((id, "a preparation that was stopped has left it, and no line of --split names it"))
    songs = [rows[id].model_copy(update={"split": splits[id]}) for id in sorted(splits)]
    frame_s = settings.stft.hop / settings.stft.sample_rate_hz
    songs = with_copies_in_one_split(songs, kept_fingerprints(out, songs), frame_s, before)
    named = {stem.shard for song in songs for stem in song.stems.values()}
    manifest = Manifest(
        stft=settings.stft, codec=settings.codec, mixture_codec=settings.mixture_codec,
        preparation=settings.preparation(), songs=tuple(songs),
        shards={name: row for name, row in sorted(shards.items()) if name in named},
    )  # fmt: skip
    if replaced := set(existing.shards) - named:
        announce(out, "replaced", replaced)
    replace_manifest(out, manifest)
    remove_leftovers(out, named)
    end_journal(out)
    refused = dict(failed)
    prepared = tuple(song for song in used if song in todo and song not in refused)
    new_content = tuple(id for id in used if id in before and _content(rows[id]) != _content(before[id]))
    asked = assign(used, rule) if isinstance(rule, SplitByFraction) else {}
    not_moved = tuple(id for id, split in asked.items() if id in before and split != before[id].split)
    read_otherwise = tuple((id, seen[id].rules) for id in prepared if id in outdated)
    return PrepareReport(
        manifest, prepared, kept, tuple(failed), left_alone(out, named), new_content, not_moved, read_otherwise,
        renamed(songs, set(used), are_gone),
    )  # fmt: skip


def _with_free_names(
    out: Path, work: Sequence[tuple[GroupPlan, list[Track]]], settings: SongSettings, named: set[str]
) -> list[tuple[GroupPlan, list[Track]]]:
    """The groups, under names that no shard of the manifest (`named`) or of a kept version has.

    Raises:
        PrepareError: a file that this data set did not write has the name of a shard that is about to be written.
    """
    taken = named_shards(out, named)
    work = [(with_free_name(plan, tracks, settings, taken), tracks) for plan, tracks in work]
    names = [name for plan, tracks in work for name in shard_names(plan.name, tracks, settings).values()]
    there = [name for name in names if os.path.lexists(out / name)]
    if there and (strangers := set(there) - own_shards(out, named)):
        raise PrepareError(
            f"{out / min(strangers)}: a shard of this name would be written, and this data set did not write what is "
            "there; move it away (or delete it, if an earlier version of vr was stopped while it prepared this folder)"
        )
    return work


def _content(song: SongRow) -> dict[str, str]:
    return {role: stem.content_sha256 for role, stem in song.stems.items()}


def _plan(todo: Mapping[str, Surveyed], settings: PrepareSettings) -> tuple[tuple[GroupPlan, ...], int]:
    """Groups, and how many processes prepare them."""
    if not todo:
        return (), 1
    todo_s = {id: one.length_s for id, one in todo.items()}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = settings.workers or (1 if sum(todo_s.values()) <= _ONE_WORKER_S else cores)
    frame_bytes = CHANNELS * settings.stft.bins * max(map(bin_bytes, (settings.codec, settings.mixture_codec)))
    frames_per_s = settings.stft.sample_rate_hz / settings.stft.hop
    plans = plan_groups(
        todo_s, {id: one.stamp for id, one in todo.items()}, frame_bytes * frames_per_s, settings.shard_bytes, workers
    )
    return plans, min(workers, len(plans))


class _Counter:
    """Adds up the seconds that workers report."""

    def __init__(
        self, on_progress: Callable[[PrepareProgress], None], plans: Sequence[GroupPlan], todo_s: Mapping[str, float]
    ) -> None:
        self._report = on_progress
        self._todo_s = todo_s
        self._left_s = dict(todo_s)
        self._songs = sum(len(plan.songs) for plan in plans)
        self._songs_done: set[str] = set()
        self._done_s = 0.0
        self._total_s = sum(todo_s.values())

    def tick(self, song: str, seconds: float) -> None:
        """`seconds` more of a song are done."""
        # Lengths are estimates where a header does not say: no song counts for more than was planned.
        more_s = min(seconds, self._left_s[song])
        self._left_s[song] -= more_s
        self._done_s += more_s
        if self._left_s[song] <= self._todo_s[song] * 0.001:
            self._songs_done.add(song)
        self._report(PrepareProgress(song, len(self._songs_done), self._songs, self._done_s, self._total_s))

    def group_done(self, plan: GroupPlan) -> None:
        """All songs of a group are done or refused."""
        for song, _ in plan.songs:
            self.tick(song, self._todo_s[song])
