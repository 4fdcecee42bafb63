"""Two folders for two sides of songs.

pairs       `mixtures/` and `instruments/`, also one level down: paired by name, or in natural order without namesakes
unpaired    `vocals/` and `instrumentals/`: stems of songs that need not be the same
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from dataprep.audio.decoders import AudioSource
from dataprep.audio.layouts.found import Found, FoundSong, Problem
from dataprep.audio.layouts.words import named, words
from dataprep.audio.names import id_parts, path_key
from dataprep.errors import DataError
from dataprep.roles import Role

MIXTURE_FOLDERS = frozenset({"mixtures"})
INSTRUMENTAL_FOLDERS = frozenset({"instruments", "instrumentals"})
VOCAL_FOLDERS = frozenset({"vocals"})
_NEITHER = "in neither mixtures/ nor instruments/, as the others of this source are"
_BY_ORDER = "paired in order of the names with {}: no name has a namesake"
Key = tuple[str, ...]


def top_folders(source: Path, files: Sequence[Path]) -> set[str]:
    """Names of the folders in the source that hold files, in lower case."""
    return {path.relative_to(source).parts[0].casefold() for path in files if path.parent != source}


def pair_folders(source: Path, files: Sequence[Path]) -> list[Path]:
    """Where both sides of pairs lie: the source itself, or else folders in it."""
    below: dict[tuple[str, ...], set[str]] = {}
    for path in files:
        *folders, _ = path.relative_to(source).parts
        for depth, name in enumerate(folders[:2]):
            below.setdefault(tuple(folders[:depth]), set()).add(name.casefold())
    found = [above for above, names in below.items() if names & MIXTURE_FOLDERS and names & INSTRUMENTAL_FOLDERS]
    return [source] if () in found else [source.joinpath(*above) for above in found]


def find_pairs(source: Path, files: Sequence[Path]) -> Found:
    """Mixture and instrumental of each song.

    Raises:
        DataError: in the one folder with both sides, it is not clear which belong together.
    """
    songs: list[FoundSong] = []
    problems: list[Problem] = []
    folders = pair_folders(source, files)
    if not folders:
        return Found((), ((source, "no mixtures/ beside an instruments/ in it, nor one level down"),))
    of: dict[Path, list[Path]] = {folder: [] for folder in folders}
    for path in files:
        folder = source if source in of else source.joinpath(*path.relative_to(source).parts[:1])
        if folder in of:
            of[folder].append(path)
        else:
            problems.append((path, _NEITHER))
    for folder, inside in of.items():
        try:
            found = _pairs_in(source, folder, inside)
        except DataError as error:
            if len(folders) == 1:
                raise
            problems.append((folder, str(error).removeprefix(f"{folder}: ")))
        else:
            songs += found.songs
            problems += found.problems
    return Found(tuple(songs), tuple(problems))


def _pairs_in(source: Path, folder: Path, files: Sequence[Path]) -> Found:
    mixtures, instrumentals = _below(folder, files, MIXTURE_FOLDERS), _below(folder, files, INSTRUMENTAL_FOLDERS)
    problems: list[Problem] = [(path, _NEITHER) for path in files if path not in {*mixtures, *instrumentals}]
    pairs = _by_name(folder, mixtures, instrumentals)
    notes: dict[Path, tuple[str, ...]] = {}
    if not pairs and len(mixtures) == len(instrumentals):
        pairs = dict(zip(mixtures, instrumentals, strict=True))
        notes = {mixture: (_BY_ORDER.format(other.name),) for mixture, other in pairs.items()}
    if not pairs and mixtures and instrumentals:
        alone = [str(path.relative_to(folder)) for path in (*mixtures, *instrumentals)]
        raise DataError(
            f"{folder}: {len(mixtures)} mixtures and {len(instrumentals)} instrumentals cannot be paired; "
            f"without a namesake: {', '.join(alone[:5])}{' …' if len(alone) > 5 else ''}"
        )
    paired = {*pairs, *pairs.values()}
    problems += [
        (path, f"no file of its name in {other}/; left out")
        for paths, other in ((mixtures, "instruments"), (instrumentals, "mixtures"))
        for path in paths
        if path not in paired
    ]
    above = folder.relative_to(source).parts
    songs = (
        FoundSong(
            (*above, *id_parts(folder, mixture)[1:]),
            {"mixture": (AudioSource(mixture),), "instrumental": (AudioSource(pairs[mixture]),)},
            notes.get(mixture, ()),
        )
        for mixture in mixtures
        if mixture in pairs
    )
    return Found(tuple(songs), tuple(problems))


def _by_name(source: Path, mixtures: Sequence[Path], instrumentals: Sequence[Path]) -> dict[Path, Path]:
    """Mixture to instrumental of the same name; then of what is left, the same name without words for a stem."""
    pairs: dict[Path, Path] = {}
    for key in (_name, _title):
        sides = [
            _unique({path: key(source, path) for path in paths if path not in {*pairs, *pairs.values()}})
            for paths in (mixtures, instrumentals)
        ]
        pairs |= {mixture: sides[1][name] for name, mixture in sides[0].items() if name in sides[1]}
    return pairs


def _name(source: Path, path: Path) -> Key:
    return tuple(part.casefold() for part in id_parts(source, path)[1:])


def _title(source: Path, path: Path) -> Key:
    """`song 2 mix` and `song 2 (Instrumental)`: the words that are about no stem, and numbers."""
    *folders, _ = _name(source, path)
    rest = tuple(word for word in words(path.stem) if word.isdecimal() or not named(word).whole)
    return (*folders, *rest) if rest else ()


def _unique(keys: dict[Path, Key]) -> dict[Key, Path]:
    counts = Counter(keys.values())
    return {key: path for path, key in keys.items() if key and counts[key] == 1}


def find_unpaired(source: Path, files: Sequence[Path]) -> Found:
    """One stem a song; namesakes of two folders are kin, since they may be stems of one song."""
    roles: tuple[tuple[Role, frozenset[str]], ...] = (
        ("vocals", VOCAL_FOLDERS),
        ("instrumental", INSTRUMENTAL_FOLDERS),
    )
    songs = tuple(
        FoundSong(id_parts(source, path), {role: (AudioSource(path),)}, kin=f"{source}/{'/'.join(_name(source, path))}")
        for role, folders in roles
        for path in _below(source, files, folders)
    )
    used = {source.path for song in songs for sources in song.stems.values() for source in sources}
    where = "in neither vocals/ nor instrumentals/, as the others of this source are"
    return Found(songs, tuple((path, where) for path in files if path not in used))


def _below(source: Path, files: Sequence[Path], folders: frozenset[str]) -> list[Path]:
    """Files in the source's folders of these names, in natural order of their paths inside them."""
    found = [
        p for p in files if p != source and p.relative_to(source).parts[0].casefold() in folders and p.parent != source
    ]
    return sorted(found, key=lambda path: path_key(path.relative_to(source).parts[1:]))
