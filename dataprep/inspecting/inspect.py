"""What is in a data set, as plain values for tables and JSON. Pure: from the manifest alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dataprep.roles import ROLES, SPLITS
from dataprep.shards.columns import CHANNELS, COLUMNS
from dataprep.shards.manifest import Manifest, SongRow
from vr_core.config import plain


@dataclass(frozen=True)
class SongSummary:
    """One song."""

    id: str
    split: str
    seconds: float
    loudness_db: dict[str, float]
    """Role to root mean square in dB of full scale; its keys are the roles that are stored."""
    bytes: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Total:
    """A group of songs."""

    songs: int
    hours: float
    roles: dict[str, int]
    """Role to the number of songs that have it."""
    bytes: int


def song_summaries(manifest: Manifest) -> list[SongSummary]:
    """A row for each song, in the order of the manifest."""
    return [
        SongSummary(
            id=song.id,
            split=song.split,
            seconds=song.samples / manifest.stft.sample_rate_hz,
            loudness_db={role: song.stems[role].loudness_db for role in ROLES if role in song.stems},
            bytes=_stored_bytes(manifest, song),
            notes=song.remarks,
        )
        for song in manifest.songs
    ]


def total(songs: Sequence[SongSummary]) -> Total:
    """Sums over songs."""
    return Total(
        songs=len(songs),
        hours=sum(song.seconds for song in songs) / 3600,
        roles={role: count for role in ROLES if (count := sum(role in song.loudness_db for song in songs))},
        bytes=sum(song.bytes for song in songs),
    )


def split_totals(songs: Sequence[SongSummary]) -> dict[str, Total]:
    """Sums over the songs of each split that has any."""
    groups = {split: [song for song in songs if song.split == split] for split in SPLITS}
    return {split: total(group) for split, group in groups.items() if group}


def as_json(manifest: Manifest) -> dict[str, Any]:
    """Everything that `vr data inspect --json` prints."""
    songs = song_summaries(manifest)
    return {
        "schema_version": manifest.schema_version,
        "digest": manifest.digest(),
        "codec": manifest.codec,
        "mixture_codec": manifest.mixture_codec,
        "stft": plain(manifest.stft),
        "shards": len(manifest.shards),
        "shard_bytes": sum(shard.bytes for shard in manifest.shards.values()),
        "total": vars(total(songs)),
        "splits": {split: vars(group) for split, group in split_totals(songs).items()},
        "songs": [vars(song) for song in songs],
    }


def _stored_bytes(manifest: Manifest, song: SongRow) -> int:
    """Bytes of a song's frames; shards hold a little more, for Arrow's headers."""
    numbers = CHANNELS * manifest.stft.bins
    return sum(
        stem.frames * numbers * np.dtype(kind).itemsize
        for stem in song.stems.values()
        for kind in COLUMNS[manifest.shards[stem.shard].codec].values()
    )
