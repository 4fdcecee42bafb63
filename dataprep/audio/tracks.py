"""From folders of audio files to tracks: which file is which stem of which song. Reads names only, never audio.

Layouts, tried in this order on every source:

stems       one folder per song, at any depth, with files named after stems
musdb       `.stem.mp4` files (streams 0 mixture, 1 drums, 2 bass, 3 other, 4 vocals), at any depth
pairs       `mixtures/` and `instruments/` with as many files each, paired in natural order of their names
unpaired    `vocals/` and `instrumentals/`
flat        songs at any depth, without labels: mixtures for pretraining
"""

import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from dataprep.audio.decoders import AudioSource
from dataprep.errors import DataError
from dataprep.roles import Role

Layout = Literal["stems", "musdb", "pairs", "unpaired", "flat"]
LAYOUTS: tuple[str, ...] = get_args(Layout)
Problem = tuple[Path, str]

AUDIO_SUFFIXES = frozenset(
    {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".mp4", ".aif", ".aiff", ".aac", ".mka", ".webm", ".wma",
     ".caf"}
)  # fmt: skip
_VOCALS = frozenset({"vocals", "vocal"})
_INSTRUMENTAL = frozenset({"instrumental", "instrumentals", "instruments", "accompaniment", "no_vocals", "no-vocals"})
_MIXTURE = frozenset({"mixture", "mix"})
# A folder without one of these is no song folder: an album's files must not be summed into one.
_KNOWN_STEMS = _VOCALS | _INSTRUMENTAL | _MIXTURE | {"drums", "bass", "other", "guitar", "piano"}
_MIXTURE_FOLDERS = frozenset({"mixtures"})
_INSTRUMENTAL_FOLDERS = frozenset({"instruments", "instrumentals"})
_VOCAL_FOLDERS = frozenset({"vocals"})
_MUSDB_SUFFIX = ".stem.mp4"
_MUSDB_STREAMS: dict[Role, tuple[int, ...]] = {"mixture": (0,), "instrumental": (1, 2, 3), "vocals": (4,)}


@dataclass(frozen=True)
class Track:
    """One song. Stems of one role are summed."""

    id: str
    """Unique in the data set and safe as a file name."""
    stems: dict[Role, tuple[AudioSource, ...]]


@dataclass(frozen=True)
class Tracks:
    """What was found in the sources of one data set."""

    tracks: tuple[Track, ...]
    layouts: tuple[tuple[Path, Layout], ...]
    """The layout of each source."""
    problems: tuple[Problem, ...]
    """What was passed over, and why."""


def find_tracks(sources: Sequence[Path], layout: str = "auto") -> Tracks:
    """Tracks of all sources, in an order that depends on their names alone.

    Args:
        sources: folders, or single audio files.
        layout: one of `LAYOUTS`, or "auto" to recognise each source's.

    Raises:
        DataError: a source is missing, holds no audio or not the layout asked for, or its pairs do not match.
    """
    if layout != "auto" and layout not in LAYOUTS:
        raise DataError(f"--layout {layout}: unknown, expected auto or one of {', '.join(LAYOUTS)}")
    if not sources:
        raise DataError("no source given; name at least one folder of music")
    tracks: list[Track] = []
    layouts: list[tuple[Path, Layout]] = []
    problems: list[Problem] = []
    for source in sources:
        files, nameless = _audio_files(source)
        problems += nameless
        if not files:
            raise DataError(f"{source}: no audio in it; expected {', '.join(sorted(AUDIO_SUFFIXES))} files")
        chosen = _recognise(source, files) if layout == "auto" else _checked_layout(layout)
        found, passed_over = _FINDERS[chosen](source, files)
        if not found:
            reason = f" ({passed_over[0][0]}: {passed_over[0][1]})" if passed_over else ""
            raise DataError(f"{source}: no song in the layout {chosen!r}{reason}; try another --layout")
        tracks += found
        layouts.append((source, chosen))
        problems += passed_over
    unique, repeated = _without_repeats(tracks)
    return Tracks(tuple(_with_unique_ids(unique)), tuple(layouts), tuple(problems + repeated))


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key by which `song2` comes before `song10`; equal only for equal names."""
    parts = [part for part in re.split(r"(\d+)", name.casefold()) if part]
    key = tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts)
    return (*key, (2, 0, name))


def _path_key(parts: Sequence[str]) -> list[tuple[tuple[int, int, str], ...]]:
    """Natural order of paths, the last part without its suffix first: `song` comes before `song 2`."""
    return [natural_key(part) for part in (*parts[:-1], Path(parts[-1]).stem, parts[-1])]


def safe_id(parts: Sequence[str]) -> str:
    """Path parts as one name without separators, spaces or shell wildcards; letters of any script stay."""
    text = re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", "-".join(parts)))
    return text.strip("._-")[:100] or "song"


def _audio_files(source: Path) -> tuple[list[Path], list[Problem]]:
    """Audio files at any depth below `source`, and those whose names are bytes that no decoder and no manifest takes.

    Hidden ones are left out, and links in a circle are followed once.
    """
    if source.is_file():
        return [source], []
    if not source.is_dir():
        raise DataError(f"{source}: does not exist; give a folder of music or an audio file")
    found: list[Path] = []
    seen: set[str] = set()
    for folder, names, files in os.walk(source, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            names.clear()
            continue
        seen.add(real)
        names[:] = sorted((n for n in names if not n.startswith(".")), key=natural_key)
        paths = (Path(folder, n) for n in files if not n.startswith("."))
        found += [p for p in paths if p.suffix.casefold() in AUDIO_SUFFIXES and p.is_file()]
    named = [path for path in found if _printable(path) == str(path)]
    nameless = [
        (Path(_printable(path)), "its name is not UTF-8; rename it") for path in found if _printable(path) != str(path)
    ]
    return sorted(named, key=lambda path: _path_key(path.relative_to(source).parts)), sorted(nameless)


def _printable(path: Path) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _recognise(source: Path, files: Sequence[Path]) -> Layout:
    if any(path.name.casefold().endswith(_MUSDB_SUFFIX) for path in files):
        return "musdb"
    if not source.is_dir():
        return "flat"
    folders = {path.relative_to(source).parts[0].casefold() for path in files if path.parent != source}
    if folders & _INSTRUMENTAL_FOLDERS:
        if folders & _MIXTURE_FOLDERS:
            return "pairs"
        if folders & _VOCAL_FOLDERS:
            return "unpaired"
    if any(_is_song_folder(names) for names in _names_by_folder(files).values()):
        return "stems"
    return "flat"


def _names_by_folder(files: Sequence[Path]) -> dict[Path, set[str]]:
    names: dict[Path, set[str]] = {}
    for path in files:
        names.setdefault(path.parent, set()).add(path.stem.casefold())
    return names


def _is_song_folder(names: set[str]) -> bool:
    """One track called "Guitar" makes no stems of an album: it takes a name of a whole side, or two instruments."""
    return bool(names & (_VOCALS | _INSTRUMENTAL | _MIXTURE)) or len(names & _KNOWN_STEMS) >= 2


def _checked_layout(name: str) -> Layout:
    return next(layout for layout in get_args(Layout) if layout == name)


def _find_stems(source: Path, files: Sequence[Path]) -> tuple[list[Track], list[Problem]]:
    folders: dict[Path, list[Path]] = {}
    for path in files:
        folders.setdefault(path.parent, []).append(path)
    tracks: list[Track] = []
    problems: list[Problem] = []
    for folder, paths in folders.items():
        names = [path.stem.casefold() for path in paths]
        stems = _song_stems(paths)
        roles = [role for role, sources in stems.items() if role != "instrumental" and len(sources) > 1]
        if not _is_song_folder(set(names)):
            problems.append((folder, "no file in it is named after a stem (vocals, instrumental, mixture, drums, …)"))
        elif len(set(names)) < len(names) or roles:
            twice = roles[0] if roles else next(n for n in names if names.count(n) > 1)
            problems.append((folder, f"two files for the stem {twice}; keep one"))
        else:
            parts = folder.relative_to(source).parts if folder != source else (source.resolve().name,)
            tracks.append(Track(safe_id(parts), stems))
    return tracks, problems


def _song_stems(paths: Sequence[Path]) -> dict[Role, tuple[AudioSource, ...]]:
    """Roles of the files of one song folder. Where a whole instrumental is there, its parts are not added to it."""
    whole = [path for path in paths if path.stem.casefold() in _INSTRUMENTAL]
    parts = [path for path in paths if path.stem.casefold() not in _VOCALS | _INSTRUMENTAL | _MIXTURE]
    by_role: dict[Role, list[Path]] = {
        "vocals": [path for path in paths if path.stem.casefold() in _VOCALS],
        "instrumental": whole[:1] or parts,
        "mixture": [path for path in paths if path.stem.casefold() in _MIXTURE],
    }
    return {role: tuple(map(AudioSource, found)) for role, found in by_role.items() if found}


def _find_musdb(source: Path, files: Sequence[Path]) -> tuple[list[Track], list[Problem]]:
    tracks: list[Track] = []
    problems: list[Problem] = []
    for path in files:
        if not path.name.casefold().endswith(_MUSDB_SUFFIX):
            problems.append((path, f"no {_MUSDB_SUFFIX} file, as the others of this source are"))
            continue
        parts = _id_parts(source, path)
        stems = {role: tuple(AudioSource(path, k) for k in streams) for role, streams in _MUSDB_STREAMS.items()}
        tracks.append(Track(safe_id((*parts[:-1], path.name[: -len(_MUSDB_SUFFIX)])), stems))
    return tracks, problems


def _find_pairs(source: Path, files: Sequence[Path]) -> tuple[list[Track], list[Problem]]:
    mixtures, instrumentals = _below(source, files, _MIXTURE_FOLDERS), _below(source, files, _INSTRUMENTAL_FOLDERS)
    if len(mixtures) != len(instrumentals):
        names = [{path.stem.casefold() for path in paths} for paths in (mixtures, instrumentals)]
        alone = [
            str(p.relative_to(source)) for p in (*mixtures, *instrumentals) if p.stem.casefold() in names[0] ^ names[1]
        ]
        raise DataError(
            f"{source}: {len(mixtures)} mixtures and {len(instrumentals)} instrumentals cannot be paired; "
            f"without a namesake: {', '.join(alone[:5]) or 'none'}{' …' if len(alone) > 5 else ''}"
        )
    return [
        Track(safe_id(_id_parts(source, mixture)[1:]),
              {"mixture": (AudioSource(mixture),), "instrumental": (AudioSource(instrumental),)})
        for mixture, instrumental in zip(mixtures, instrumentals, strict=True)
    ], []  # fmt: skip


def _find_unpaired(source: Path, files: Sequence[Path]) -> tuple[list[Track], list[Problem]]:
    roles: tuple[tuple[Role, frozenset[str]], ...] = (
        ("vocals", _VOCAL_FOLDERS),
        ("instrumental", _INSTRUMENTAL_FOLDERS),
    )
    return [
        Track(safe_id(_id_parts(source, path)), {role: (AudioSource(path),)})
        for role, folders in roles
        for path in _below(source, files, folders)
    ], []


def _find_flat(source: Path, files: Sequence[Path]) -> tuple[list[Track], list[Problem]]:
    return [Track(safe_id(_id_parts(source, path)), {"mixture": (AudioSource(path),)}) for path in files], []


_FINDERS: dict[Layout, Callable[[Path, Sequence[Path]], tuple[list[Track], list[Problem]]]] = {
    "stems": _find_stems,
    "musdb": _find_musdb,
    "pairs": _find_pairs,
    "unpaired": _find_unpaired,
    "flat": _find_flat,
}


def _below(source: Path, files: Sequence[Path], folders: frozenset[str]) -> list[Path]:
    """Files in the source's folders of these names, in natural order of their paths inside them."""
    found = [
        p for p in files if p != source and p.relative_to(source).parts[0].casefold() in folders and p.parent != source
    ]
    return sorted(found, key=lambda path: _path_key(path.relative_to(source).parts[1:]))


def _id_parts(source: Path, path: Path) -> tuple[str, ...]:
    relative = path.relative_to(source) if path != source else Path(path.name)
    return (*relative.parts[:-1], path.stem)


def files_of(stems: Mapping[Role, tuple[AudioSource, ...]]) -> frozenset[tuple[str, int]]:
    """Real path and stream of everything that a song is read from: equal, whatever links lead there."""
    return frozenset((os.path.realpath(source.path), source.stream) for sources in stems.values() for source in sources)


def _without_repeats(tracks: Sequence[Track]) -> tuple[list[Track], list[Problem]]:
    """Tracks whose very files are not those of an earlier one: sources may overlap, or link to each other."""
    first: dict[frozenset[tuple[str, int]], Track] = {}
    problems: list[Problem] = []
    for track in tracks:
        earlier = first.setdefault(files_of(track.stems), track)
        if earlier is not track:
            [source, *_] = next(iter(track.stems.values()))
            problems.append((source.path, f"the same file as that of {earlier.id}"))
    return list(first.values()), problems


def _with_unique_ids(tracks: Sequence[Track]) -> Iterator[Track]:
    """The first of equal ids keeps it, the next get -2, -3 …: a source added at the end renames nothing."""
    taken = {track.id.casefold() for track in tracks}
    given: set[str] = set()
    for track in tracks:
        name, count = track.id, 1
        # File systems of some machines take upper and lower case as equal.
        while name.casefold() in given or (count > 1 and name.casefold() in taken):
            count += 1
            name = f"{track.id}-{count}"
        given.add(name.casefold())
        yield replace(track, id=name)
