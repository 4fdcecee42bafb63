"""The folder of separated songs: results get their names when they are whole, and replace only those of the same song.

`.vr-separated.json` in the folder says which song each result is of. A file that it does not know, or that was changed
since, is never replaced: the new result takes the name with `-2`, `-3` … behind it. A song that has results there keeps
their name, whether it is named by itself or found in a folder.

```
song.instrumental.wav, song.vocals.wav, song.png     results
.vr-separated.json                                   the record, sealed
.vr-separated.json.damaged, …                        one that was not as it was written
.vr-separating-…/                                    a song at work; gone afterwards
```
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dataprep.audio.names import numbered
from vr_core.config import Spec, validate
from vr_core.errors import ConfigError, StorageError
from vr_core.files import sync_folder, write_json
from vr_core.small_files import DamagedFile, read_json, sha256_of

STEMS = ("instrumental", "vocals")
FILE = ".vr-separated.json"
SCRATCH = ".vr-separating-"
_COUNT_BYTES = 6
"""Room that every name leaves for `-2` to `-99999` behind it."""


class Result(Spec):
    """What is known of a result."""

    song: str
    """Real path of the song that it was made of."""
    song_sha256: str
    sha256: str
    """Of the result itself."""


class Record(Spec):
    """Content of the record."""

    version: Literal[1] = 1
    files: dict[str, Result] = {}
    """Name of a result → what is known of it."""


@dataclass(frozen=True)
class SongFile:
    """A song as what its results are known by."""

    path: str
    sha256: str

    @classmethod
    def of(cls, path: Path) -> "SongFile":
        """The song in the file `path`; errors as `open_regular`."""
        return cls(os.path.realpath(path), sha256_of(path))

    def made(self, result: Result) -> bool:
        """Whether a result is of this song: of the same content, wherever that lay."""
        return self.sha256 == result.song_sha256


@dataclass(frozen=True)
class Placed:
    """Where the results of a song went."""

    name: str
    """What their file names begin with."""
    files: dict[str, Path]
    """Ending of a file name → the file."""
    shortened: bool
    """Whether the name wanted was too long for the file system."""
    kept: Path | None = None
    """The file of another song, or of nobody known, for whose sake it is not the name wanted."""
    kept_song: str | None = None
    """The song that `kept` was made of, where that is known."""
    kept_earlier: bool = False
    """Whether that is the very path of this song, with another content."""


def read_record(folder: Path) -> Record:
    """The record of a folder; an empty one where there is none.

    Raises:
        DamagedFile: it is not as it was written.
        StorageError: it cannot be read now, such as where a network folder is away: it may be right.
    """
    path = folder / FILE
    try:
        return validate(Record, read_json(path), str(path))
    except FileNotFoundError:
        return Record()
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be read ({error.strerror}), and says whose the results there are; try again, or choose "
            "another --out"
        ) from None
    except ConfigError as error:
        raise DamagedFile(str(error)) from None


def fitting(name: str, most_bytes: int) -> str:
    """`name`, cut so that it takes no more than `most_bytes` as UTF-8: between letters, with their marks."""
    encoded = name.encode()
    if len(encoded) <= most_bytes:
        return name
    cut = encoded[:most_bytes].decode(errors="ignore")
    if unicodedata.category(name[len(cut)]).startswith("M"):
        while cut and unicodedata.category(cut[-1]).startswith("M"):
            cut = cut[:-1]
        cut = cut[:-1]
    return cut.rstrip("._- ") or "song"


def fitting_with_digest(folder: Path, name: str, endings: Iterable[str]) -> str:
    """`name`; cut, with a digest that tells it from others, where an ending makes it too long for `folder`."""
    room = _room_bytes(folder, endings)
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return name if len(name.encode()) <= room else f"{fitting(name, room - 9)}-{digest}"


def choose_name(name: str, is_free: Callable[[str], bool]) -> str:
    """`name`, or the first of `name-2`, `name-3` … that is free."""
    return name if is_free(name) else numbered(name, lambda tried: not is_free(tried))


@contextlib.contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A new folder inside `folder`, which is made, for the block; those that killed processes left are removed.

    Raises:
        StorageError: no permission, no space.
    """
    with contextlib.ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _locked(folder):
                for left in folder.glob(f"{SCRATCH}*"):
                    with contextlib.suppress(OSError), _locked(left, wait=False):
                        shutil.rmtree(left)
                made = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=folder))
                held.callback(shutil.rmtree, made, ignore_errors=True)
                held.enter_context(_locked(made))
        except OSError as error:
            raise StorageError(f"{folder}: cannot be written to ({error.strerror}); choose another --out") from None
        yield made


def place(folder: Path, song: SongFile, name: str, made: Mapping[str, Path]) -> Placed:
    """Give the files of a song their names in `folder`, under a lock.

    Args:
        folder: where they go.
        song: what they were made of.
        name: what their names should begin with.
        made: ending of a file name (`.vocals.wav`) → the file, on the same file system.

    Raises:
        OSError, StorageError: no space, no permission, or the record cannot be read; what was there is untouched.
    """
    wanted = fitting(name, _room_bytes(folder, made) - _COUNT_BYTES)
    with _locked(folder):
        try:
            known = read_record(folder).files
        except DamagedFile:  # then nobody knows what is there, and nothing of it is replaced
            known = {}
            aside = choose_name(f"{FILE}.damaged", lambda tried: not os.path.lexists(folder / tried))
            os.rename(folder / FILE, folder / aside)

        def blocking(tried: str) -> Iterator[Path]:
            for ending in made:
                path = folder / f"{tried}{ending}"
                if os.path.lexists(path) and not _replaceable(path, song, known.get(path.name)):
                    yield path

        def is_free(tried: str) -> bool:
            return next(blocking(tried), None) is None

        before = [tried for tried in names_before(known, song) if is_free(tried)]
        chosen = before[0] if before and wanted not in before else choose_name(wanted, is_free)
        kept = next(blocking(wanted), None)
        files = {ending: folder / f"{chosen}{ending}" for ending in made}
        new = {
            files[ending].name: Result(song=song.path, song_sha256=song.sha256, sha256=sha256_of(path))
            for ending, path in made.items()
        }
        still = {file: result for file, result in known.items() if os.path.lexists(folder / file)}
        # First the record: a result that is not in it would never be replaced again.
        write_json(folder / FILE, Record(files={**still, **new}).model_dump(), seal=True)
        for ending, path in made.items():
            os.replace(path, files[ending])
        sync_folder(folder)
    of = known.get(kept.name) if kept else None
    earlier = of is not None and of.song == song.path and not song.made(of)
    return Placed(chosen, files, name != wanted and chosen.startswith(wanted), kept, of.song if of else None, earlier)


def names_before(known: Mapping[str, Result], song: SongFile) -> list[str]:
    """By which names a folder has results of the very file `song`: by itself and in an album it has two names.

    Args:
        known: name of a result → what is known of it.
        song: with the content that it had then.
    """
    # NAME.STEM.wav of any stem; a picture is called NAME.png, in which a dot may be of the name.
    files = (Path(file) for file, of in known.items() if of.song == song.path and song.made(of))
    return sorted({file.stem.rpartition(".")[0] for file in files if file.suffix != ".png"} - {""})


def _replaceable(path: Path, song: SongFile, result: Result | None) -> bool:
    if result is None or not song.made(result) or path.is_symlink():
        return False
    try:
        return sha256_of(path) == result.sha256
    except (OSError, DamagedFile):
        return False


def _room_bytes(folder: Path, endings: Iterable[str]) -> int:
    """The longest beginning of a file name in `folder` before each of the endings."""
    try:
        most_bytes = os.pathconf(folder, "PC_NAME_MAX")
    except OSError:
        most_bytes = 255
    return most_bytes - max(len(ending.encode()) for ending in endings)


@contextlib.contextmanager
def _locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """The folder, locked against other processes of ours; not where its file system has no locks.

    It is the folder itself, so that no file for it lies among somebody's songs.

    Raises:
        BlockingIOError: another process has it, and `wait` is not asked for.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise
        except OSError:
            if not wait:
                raise
        yield
    finally:
        os.close(handle)
