"""Fingerprints of a data set's stems: made while songs are prepared, kept beside the shards, else made from them.

`fingerprints/GROUP.npz` holds those of a group of songs: of each stem its words and which of them are audible, by the
digest of its samples. They can be made again from the shards at any time, so that a file that is missing or damaged
costs time and nothing else.
"""

import hashlib
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache
from pathlib import Path

import numpy as np

from dataprep.batches.loader import read_batch
from dataprep.batches.order import Item, Read
from dataprep.fingerprints.fingerprint import Fingerprint, Listener
from dataprep.roles import Role
from dataprep.shards.columns import CHANNELS
from dataprep.shards.dataset import Dataset
from dataprep.shards.manifest import SongRow, StemRow
from dataprep.shards.writer import BATCH_FRAMES, SUFFIX, no_space_as_error
from vr_core.files import drafted, whole_file
from vr_core.small_files import DamagedFile, open_regular, read_bytes

FOLDER = "fingerprints"
_SEAL = b"\nvr sha256 "
_END_BYTES = 22
"""Of a zip archive's last record, without a comment."""
Words = tuple[np.ndarray, np.ndarray]
"""`[frame]` uint32, and `[frame]` bool: which are audible."""


def fingerprints(data: Dataset, on_song: Callable[[str], None] = lambda song: None) -> Iterator[Fingerprint]:
    """Fingerprints of all stems of a data set.

    Raises:
        DataError: spectra too coarse for it.
        ShardError, StorageError: a stem that has no fingerprint yet cannot be read.
    """
    kept = _kept(data.folder)
    for song in data.songs():
        for role, stem in song.stems.items():
            words = kept(stem) or _listen(data, song, role)
            yield Fingerprint(song.id, role, *words)
        on_song(song.id)


def kept_fingerprints(folder: Path, songs: Collection[SongRow]) -> Iterator[Fingerprint]:
    """Those of the songs' stems that were kept when they were prepared; of equal audio one is enough."""
    kept = _kept(folder)
    seen: set[str] = set()
    for song in songs:
        for role, stem in song.stems.items():
            if stem.content_sha256 in seen:
                continue
            seen.add(stem.content_sha256)
            if (words := kept(stem)) is not None:
                yield Fingerprint(song.id, role, *words)


def keep(folder: Path, group: str, words: Mapping[str, Words]) -> None:
    """Keep the words of a group's stems, by the digest of their samples.

    Raises:
        NoSpaceError: the disk is full.
    """
    path = folder / FOLDER / f"{group}.npz"
    arrays = {f"{digest}.words": found for digest, (found, _) in words.items()}
    arrays |= {f"{digest}.audible": np.packbits(audible) for digest, (_, audible) in words.items()}
    with no_space_as_error(path):
        path.parent.mkdir(exist_ok=True)
        with whole_file(path, folder) as draft:
            np.savez(draft, **arrays)  # type: ignore[arg-type]
            with draft.open("ab") as file:  # behind an archive's end nobody reads
                file.write(_seal(draft.read_bytes()))


def is_whole(path: Path) -> bool:
    """Whether a file of fingerprints is as it was written, as far as it says so: those of before carry no digest."""
    try:
        content = read_bytes(path)
    except DamagedFile:
        return False
    if content[-_END_BYTES:].startswith(b"PK\x05\x06"):  # the archive's own end
        return bool(_read(path))
    cut = len(content) - len(_SEAL) - 32
    return content[cut:] == _seal(content[:cut])


def _seal(content: bytes) -> bytes:
    return _SEAL + hashlib.sha256(content).digest()


def forget(folder: Path, gone: Collection[str], staying: Collection[str]) -> None:
    """Remove the fingerprints of shards that are gone; not those of a group of which a shard stays."""
    files = {f"{group}.npz" for group in groups_of(gone) - groups_of(staying)}
    for path in list((folder / FOLDER).glob("*.npz")):
        if path.name in files or drafted(path.name) in files:
            path.unlink(missing_ok=True)


def groups_of(shards: Collection[str]) -> set[str]:
    """Groups of songs whose shards these are."""
    return {_group_of(name) for name in shards}


def _kept(folder: Path) -> Callable[[StemRow], Words | None]:
    """Gives the words of a stem that are kept; each file is read once."""
    group = cache(lambda name: _read(folder / FOLDER / f"{name}.npz"))
    return lambda stem: group(_group_of(stem.shard)).get(stem.content_sha256)


def _group_of(shard: str) -> str:
    return shard.removesuffix(SUFFIX).partition("-")[2]


def _read(path: Path) -> dict[str, Words]:
    """By digest; nothing where the file is missing or damaged."""
    try:
        with open_regular(path) as file, np.load(file, allow_pickle=False) as arrays:
            words = {name.removesuffix(".words"): arrays[name] for name in arrays.files if name.endswith(".words")}
            return {
                digest: (found, np.unpackbits(arrays[f"{digest}.audible"], count=len(found)).astype(bool))
                for digest, found in words.items()
            }
    except FileNotFoundError:
        return {}
    except Exception as error:  # a bad byte in an archive comes out as any of a dozen
        print(f"{path}: damaged ({error}); its songs are listened to again", file=sys.stderr, flush=True)
        return {}


def _listen(data: Dataset, song: SongRow, role: Role) -> Words:
    """From the stored frames, a record batch at a time."""
    listener = Listener(data.stft)
    stem: StemRow = song.stems[role]
    for start in range(0, stem.frames, BATCH_FRAMES):
        frames = min(BATCH_FRAMES, stem.frames - start)
        coded = read_batch(data, [Item(0, 0, frames, (Read(song.id, role, start, frames),))]).slots[role]
        columns = {
            name: column.reshape(*column.shape[:-1], CHANNELS, -1)[..., listener.bins].flatten(-2)
            for name, column in coded.columns.items()
        }
        listener.add(coded.codec.widen_magnitude(columns, coded.scale)[0].numpy() ** 2)
    return listener.words()
