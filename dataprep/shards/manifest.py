"""The manifest: what is in a data set.

`manifest.json` is written last and whole, so that a folder that has one is complete.
"""

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from dataprep.audio.decoders import AudioSource
from dataprep.audio.files import MAX_AUDIO_S
from dataprep.audio.tracks import Track
from dataprep.errors import DamagedManifest, ManifestError
from dataprep.roles import Role, Split
from dataprep.shards.columns import COLUMNS
from dataprep.shards.names import ShardName, SongId
from dataprep.shards.old_manifests import as_today
from dataprep.shards.writer import BATCH_FRAMES, SCHEMA_VERSION, ShardRow, no_space_as_error
from vr_core import files
from vr_core.config import Line, Spec, digest, plain
from vr_core.errors import command
from vr_core.small_files import DamagedFile, is_sealed, read_bytes, read_json
from vr_core.specs.stft import StftSpec

FILE = "manifest.json"
SECOND = "manifest.second.json"
"""The same once more, from which `vr data verify --repair` restores a damaged one."""
VERSIONS = "versions"
"""Folder of manifests that were replaced, by digest, for runs that began with them."""
_VERSION = re.compile(r"[0-9a-f]{8}")
MIXTURE_CODEC = "magnitude8"
"""Of mixtures, unless their phase was asked for."""
Natural = Annotated[int, Field(ge=0)]


class StemRow(Spec):
    """Where the frames of one role of a song are."""

    shard: ShardName
    """File name of the shard, in the data set's folder."""
    first_batch: Natural
    first_row: Natural
    """Row of the shard where the stem starts (the first of `first_batch`)."""
    frames: Annotated[int, Field(ge=1)]
    peaks: tuple[float, ...]
    """Peak of each of its record batches."""
    crcs: tuple[int, ...] = ()
    """CRC-32 of each of its record batches, column after column; none in data sets that are older than they."""
    audible: tuple[tuple[Natural, Natural], ...] | None = None
    """Of vocals: runs of frames in which something is heard; None where that is not known.

    Found by `dataprep.audio.voice_activity`."""
    loudness_db: float
    """Root mean square of both channels in dB of full scale; -120 and below for silence."""
    content_sha256: str
    """Of the decoded samples, before the STFT: equal for equal audio whatever the file format."""


class Follows(Spec):
    """The song whose split another one takes, since both hold the same."""

    song: SongId
    shares: Literal["audio", "recording"]
    """audio: a stem of equal samples; recording: a stem with the same fingerprint."""

    def __str__(self) -> str:
        return f"same {self.shares} as {self.song}; it follows its split"


class SongRow(Spec):
    """One song."""

    id: SongId
    split: Split
    samples: Annotated[int, Field(ge=1)]
    """Length per channel at the data set's sample rate; synthesis cuts back to it."""
    frames: Annotated[int, Field(ge=1)]
    stems: dict[Role, StemRow]
    sources: dict[Role, tuple[AudioSource, ...]]
    """The files each role was made from, with absolute paths."""
    stamp: str = ""
    """Digest of the sources' paths, sizes and times and of the settings: equal means nothing to prepare again."""
    notes: tuple[Line, ...] = ()
    """What preparation had to decide about this song, for people."""
    follows: Follows | None = None

    @property
    def remarks(self) -> tuple[str, ...]:
        """All that is to be said about this song: its notes, and whose split it takes."""
        return self.notes if self.follows is None else (*self.notes, str(self.follows))

    def track(self) -> Track:
        """The song as its files give it, to be read again."""
        return Track(self.id, dict(self.sources))


class Preparation(Spec):
    """How songs are prepared, besides the STFT and the codec."""

    mixture: bool = True
    """Also store the mixture's magnitude of songs that have both stems, for pretraining."""
    max_song_s: Annotated[float, Field(gt=0)] = MAX_AUDIO_S
    align: bool = False
    """Move stems that lie before or after the mixture they are given with."""


class Manifest(Spec):
    """A data set."""

    schema_version: int = SCHEMA_VERSION
    stft: StftSpec
    codec: str
    """Codec of vocals and instrumentals."""
    mixture_codec: str = MIXTURE_CODEC
    preparation: Preparation | None = None
    """As of the last preparation; None in data sets of a time when it was not stored."""
    shards: dict[ShardName, ShardRow]
    songs: tuple[SongRow, ...]

    def codec_of(self, role: Role) -> str:
        """Codec in which a role is stored."""
        return self.mixture_codec if role == "mixture" else self.codec

    def digest(self) -> str:
        """8 hex digits of what training depends on: settings, and each song's split, roles and content.

        Where frames lie (shards, order of preparation, source paths) is not part of it.
        """
        songs = [[s.id, s.split, s.samples, {r: _trained_on(t) for r, t in s.stems.items()}] for s in self.songs]
        # As it was before mixtures had a codec of their own, where they have the same as then.
        mixtures = [] if self.mixture_codec == MIXTURE_CODEC else [self.mixture_codec]
        return digest([self.schema_version, plain(self.stft), self.codec, *mixtures, songs])

    def stored(self) -> dict[str, Any]:
        """What is written of it; without the mixtures' codec where that is the usual one, so that any vr reads it."""
        said = plain(self)
        if self.mixture_codec == MIXTURE_CODEC:
            del said["mixture_codec"]
        return said


def _trained_on(stem: StemRow) -> list[object]:
    """What of a stem decides which items there are; as it always was where nothing is known of silence."""
    return [stem.content_sha256, stem.frames, *([] if stem.audible is None else [stem.audible])]


def read_manifest(folder: Path, version: str | None = None) -> Manifest:
    """The manifest of the data set in `folder`.

    Args:
        folder: of the data set.
        version: its digest, where another than the newest may be wanted.

    Raises:
        ManifestError: no data set there, or damaged, or of another schema, or that version is not kept.
        StorageError: the disk or the share failed.
    """
    manifest = _read(folder, folder / FILE)
    if version in (None, manifest.digest()):
        return manifest
    path = folder / VERSIONS / f"{version}.json"
    if not path.is_file():
        raise ManifestError(
            f"{folder}: changed since (digest {version} then, {manifest.digest()} now), and that version is not kept; "
            "put the data set back, or start the recipe with --again"
        )
    return _read(folder, path)


def read_second(folder: Path) -> Manifest:
    """The second copy of the manifest, whatever the first is like.

    Raises:
        ManifestError: it is missing, damaged, or carries no digest of itself.
        StorageError: the disk or the share failed.
    """
    path = folder / SECOND
    if not path.is_file() or not is_sealed(read_bytes(path, MANIFEST_BYTES)):
        raise DamagedManifest(f"{path}: no whole copy of the manifest; copy the data set again")
    return _read(folder, path)


def require_same(folder: Path) -> None:
    """Check that the second copy is of the manifest as it is.

    Raises:
        ManifestError: it is damaged, or of another version.
    """
    if read_second(folder) != read_manifest(folder):
        raise DamagedManifest(f"{folder / SECOND}: of another version than {FILE}; it is written anew")


def read_kept(folder: Path, path: Path) -> Manifest:
    """A manifest that was replaced.

    Raises:
        ManifestError, StorageError: as `read_manifest`.
    """
    return _read(folder, path)


def version_files(folder: Path) -> list[Path]:
    """Manifests that were replaced; other files in their folder are none of ours."""
    return sorted(path for path in (folder / VERSIONS).glob("*.json") if _VERSION.fullmatch(path.stem))


def kept_versions(folder: Path) -> tuple[list[Manifest], list[str]]:
    """Manifests that were replaced, and a line for each that is damaged: only its runs need it.

    Raises:
        StorageError: the disk or the share failed.
    """
    found, damaged = [], []
    for path in version_files(folder):
        try:
            found.append(_read(folder, path))
        except ManifestError as error:
            damaged.append(str(error))
    return found, damaged


def replace_manifest(folder: Path, manifest: Manifest) -> None:
    """`write_manifest`; the one that was there is kept where training would see a difference.

    Raises:
        NoSpaceError: the disk is full; the old manifest is untouched.
    """
    if (folder / FILE).exists():
        old = read_manifest(folder)
        if old.digest() != manifest.digest():
            write_json(folder, folder / VERSIONS / f"{old.digest()}.json", old.stored())
    write_manifest(folder, manifest)


MANIFEST_BYTES = 1 << 29
"""A manifest of half a million songs has as many; more is none."""


def _read(folder: Path, path: Path) -> Manifest:
    try:
        raw = read_json(path, MANIFEST_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise ManifestError(
            f"{folder}: is not a data set (no {FILE} in it); make one with "
            f"`{command('data prepare', 'SRC', '--out', folder)}`"
        ) from None
    except OSError as error:
        if failed := files.storage_failure(path, error):
            raise failed from None
        raise ManifestError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except DamagedFile as error:
        raise DamagedManifest(f"{error}; {_remedy(path)}") from None
    if "schema_version" not in raw:
        raise DamagedManifest(f"{path}: damaged (no schema_version in it); {_remedy(path)}")
    if raw["schema_version"] != SCHEMA_VERSION:
        raise ManifestError(
            f"{path}: has schema version {raw['schema_version']}, this version of vr reads {SCHEMA_VERSION}; "
            "prepare the music again into a new folder"
        )
    try:
        manifest = Manifest.model_validate_json(json.dumps(as_today(raw)))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DamagedManifest(f"{path}: damaged ({where}: {first['msg']}); {_remedy(path)}") from None
    _check_references(path, manifest)
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of `folder` with its songs sorted by id; a reader sees the old one or the new one.

    Raises:
        NoSpaceError: the disk is full; the old manifest is untouched.
    """
    ordered = manifest.model_copy(update={"songs": tuple(sorted(manifest.songs, key=lambda song: song.id))})
    write_json(folder, folder / FILE, ordered.stored())
    write_json(folder, folder / SECOND, ordered.stored())


def write_json(folder: Path, path: Path, value: object) -> None:
    """Write a JSON file in the data set `folder`, which appears whole or not at all.

    Raises:
        NoSpaceError: the disk is full; what was there before is untouched.
        LinkRefused: a folder in the data set's is a link.
    """
    with no_space_as_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(path, value, seal=True, root=folder)


def _remedy(path: Path) -> str:
    if path.name != FILE:
        return "copy the data set again"
    restore = command("data verify", path.parent, "--repair")
    return f"restore it from its second copy, {restore}, or copy the data set again"


def _check_references(path: Path, manifest: Manifest) -> None:
    for codec in (manifest.codec, manifest.mixture_codec):
        if codec not in COLUMNS:
            known = ", ".join(COLUMNS)
            raise ManifestError(f"{path}: codec {codec!r} is not known here (known: {known}); update vr")
    seen: set[str] = set()
    for song in manifest.songs:
        if song.id in seen:
            raise DamagedManifest(f"{path}: damaged (the song {song.id!r} stands twice); {_remedy(path)}")
        seen.add(song.id)
        for role, stem in song.stems.items():
            shard = manifest.shards.get(stem.shard)
            if shard is None or shard.codec != manifest.codec_of(role):
                raise DamagedManifest(
                    f"{path}: damaged ({song.id} {role}: no such shard {stem.shard!r}); {_remedy(path)}"
                )
            if len(stem.peaks) != -(-stem.frames // BATCH_FRAMES):
                raise DamagedManifest(f"{path}: damaged ({song.id} {role}: {len(stem.peaks)} peaks); {_remedy(path)}")
            if stem.crcs and len(stem.crcs) != len(stem.peaks):
                raise DamagedManifest(
                    f"{path}: damaged ({song.id} {role}: {len(stem.crcs)} checksums); {_remedy(path)}"
                )
