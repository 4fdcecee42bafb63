"""A prepared data set, opened for reading."""

import threading
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np

from dataprep.errors import ManifestError, ShardError
from dataprep.roles import Role, Split
from dataprep.shards.cache import ShardCache, Staged, stage
from dataprep.shards.manifest import Manifest, SongRow, StemRow, read_manifest
from dataprep.shards.reader import Shard
from dataprep.shards.roots import Reach, Roots
from dataprep.shards.writer import BATCH_FRAMES
from vr_core.config import plain
from vr_core.errors import StorageError
from vr_core.specs.stft import StftSpec


class Dataset:
    """Manifest and shards of one data set; shards are opened when they are first read. Threads may share it."""

    def __init__(
        self, folder: Path, manifest: Manifest, cache: ShardCache | None = None, roots: Roots | None = None
    ) -> None:
        """Use `open`."""
        self.folder = folder
        self.manifest = manifest
        self.roots = roots or Roots.of(folder)
        self._cache = cache
        self._songs = {song.id: song for song in manifest.songs}
        self._shards: dict[str, Shard] = {}
        self._peaks: dict[tuple[str, Role], np.ndarray] = {}
        self._opening = threading.Lock()

    @classmethod
    def open(
        cls,
        folder: Path | str,
        cache: ShardCache | None = None,
        version: str | None = None,
        roots: Roots | None = None,
    ) -> "Dataset":
        """The data set in `folder`; shards are read from their copies in `cache` where there are any, then from roots.

        Args:
            folder: of the data set.
            cache: where copies may be.
            version: digest of the manifest that a run began with; the newest by default.
            roots: where else shards are on this PC; by default what the data set says of the PC with this host name.

        Raises:
            ManifestError: no data set there, its manifest is damaged or of another schema, or the version is gone.
        """
        return cls(Path(folder), read_manifest(Path(folder), version), cache, roots)

    @property
    def has_cache(self) -> bool:
        """Whether there is a place for copies."""
        return self._cache is not None

    @property
    def stft(self) -> StftSpec:
        """Settings of its spectrograms."""
        return self.manifest.stft

    def check(self, stft: StftSpec) -> None:
        """Refuse settings that are not the data set's.

        Raises:
            ManifestError: names every setting that differs.
        """
        mine, theirs = plain(self.stft), plain(stft)
        differ = [
            f"{key} {mine[key]} in the data set, {theirs[key]} asked for" for key in mine if mine[key] != theirs[key]
        ]
        if differ:
            raise ManifestError(
                f"{self.folder}: other STFT settings: {'; '.join(differ)}; prepare the music with the same settings"
            )

    def song(self, id: str) -> SongRow:
        """The song with this id.

        Raises:
            ManifestError: there is none.
        """
        if id not in self._songs:
            raise ManifestError(f"{self.folder}: no song {id!r} in this data set; `vr data inspect` lists them")
        return self._songs[id]

    def songs(self, split: Split | None = None, roles: Collection[Role] = ()) -> tuple[SongRow, ...]:
        """Songs of a split (all when None) that have every one of `roles`, by id."""
        return tuple(
            s for s in self.manifest.songs if split in (None, s.split) and all(role in s.stems for role in roles)
        )

    def stage(self, on_bytes: Callable[[int], None] = lambda n: None) -> Staged:
        """Copy the shards into the cache, and read those that are there from it from now on, also in running loaders.

        What is in a root on a disk of this PC stays there.

        Raises:
            ShardError, StorageError, NoSpaceError: as `ShardCache.stage`; what is copied stays and is used.
        """
        if self._cache is None:
            raise ValueError("this data set was opened without a cache")
        rows = {self._path(name): row for name, row in sorted(self.manifest.shards.items())}
        rows = {path: row for path, row in rows.items() if not self.roots.owns(path)}
        return stage(rows, self._cache, on_bytes, self._use_copy)

    def reach(self, names: Collection[str] | None = None) -> Reach:
        """Which shards, all by default, can be read here, copies in the cache counting as local."""
        rows = {name: row for name, row in self.manifest.shards.items() if names is None or name in names}
        found = self.roots.reach(rows)
        copied = frozenset(name for name, row in rows.items() if self._cache and self._cache.has(row))
        return Reach(found.local | copied, found.remote - copied, found.missing - copied)

    def require(self, names: Collection[str]) -> Reach:
        """`reach` of shards that are going to be read.

        Raises:
            StorageError, ShardError: some cannot be, as `Roots.require`.
        """
        found = self.reach(names)
        self.roots.require({name: self.manifest.shards[name] for name in names}, found.missing)
        return found

    def _use_copy(self, name: str) -> None:
        if (copy := self._copy_of(name)) is not None:
            with self._opening:
                self._shards[name] = copy

    def peaks(self, song: str, role: Role, start_frame: int, frames: int) -> np.ndarray:
        """Peak of the record batch of each frame, `[frame]` float32."""
        return self._peaks_of(song, role)[np.arange(start_frame, start_frame + frames) // BATCH_FRAMES]

    def scale(self, song: str, role: Role, start_frame: int, gain: float, out: np.ndarray) -> None:
        """Fill `out` `[frame]` float32 with the peaks of frames from `start_frame` on, times `gain`."""
        batch = start_frame // BATCH_FRAMES
        if start_frame + len(out) <= (batch + 1) * BATCH_FRAMES:  # as most crops: no array for one number
            out.fill(self._peaks_of(song, role)[batch] * np.float32(gain))
        else:
            np.multiply(self.peaks(song, role, start_frame, len(out)), np.float32(gain), out=out)

    def _peaks_of(self, song: str, role: Role) -> np.ndarray:
        held = self._peaks.get((song, role))
        if held is None:
            held = self._peaks[song, role] = np.asarray(self._stem(song, role).peaks, np.float32)
        return held

    def read(self, song: str, role: Role, start_frame: int, frames: int, out: np.ndarray) -> None:
        """Copy frames of a stem, as stored, into `out` `[column, frame, ...]` (see `Shard.read_frames`).

        Raises:
            ShardError: the shard is missing or damaged.
            StorageError: the disk or the share failed.
            ManifestError: no such song or role, or frames beyond its end.
        """
        stem = self._stem(song, role)
        if not 0 <= start_frame <= start_frame + frames <= stem.frames:
            raise ManifestError(
                f"{self.folder}: {song} {role} has {stem.frames} frames, "
                f"{start_frame} to {start_frame + frames} were asked for"
            )
        self._shard(stem.shard).read_frames(stem.first_batch, start_frame, frames, out)

    def _stem(self, song: str, role: Role) -> StemRow:
        stems = self.song(song).stems
        if role not in stems:
            raise ManifestError(f"{self.folder}: the song {song!r} has no {role} (it has {', '.join(sorted(stems))})")
        return stems[role]

    def _shard(self, name: str) -> Shard:
        shard = self._shards.get(name)
        if shard is None:
            with self._opening:
                shard = self._shards.get(name) or self._copy_of(name) or self._open(self._path(name), name)
                self._shards[name] = shard
        return shard

    def _path(self, name: str) -> Path:
        """Where a shard is read from without a copy; in the data set's folder where it is nowhere."""
        return self.roots.find(name, self.manifest.shards[name]) or self.folder / name

    def _copy_of(self, name: str) -> Shard | None:
        row = self.manifest.shards[name]
        path = self._cache.find(row) if self._cache else None
        if self._cache is None or path is None:
            return None
        try:
            return self._open(path, name)
        except (ShardError, StorageError):
            # The shard itself is where it was; a copy that no longer opens is of no use to anybody.
            self._cache.drop(row)
            return None

    def _open(self, path: Path, name: str) -> Shard:
        return Shard(path, self.manifest.shards[name].codec, self.stft)
