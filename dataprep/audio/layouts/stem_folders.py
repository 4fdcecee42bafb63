"""`folders`: a folder a stem, and a file a song in each: vocals/SONG.wav, drums/SONG.wav, …; also below train/."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dataprep.audio.layouts.found import Found, FoundSong, Problem
from dataprep.audio.layouts.published import SPLIT_FOLDERS
from dataprep.audio.layouts.song_roles import Unclear, song_roles
from dataprep.audio.layouts.words import Named, named, title_key, titled


@dataclass
class StemFolders:
    """A folder that has a folder for each of two stems and more."""

    kinds: dict[str, Named]
    """What the names of its folders say, of those that are called after a stem."""
    below: list[Path] = field(default_factory=list)
    """All files at any depth in it."""

    @property
    def has_vocals(self) -> bool:
        """Whether one of the folders holds vocals."""
        return any(said.kind == "vocals" for said in self.kinds.values())

    @property
    def tells(self) -> bool:
        """Whether the names are of stems and not, say, of genres: `Music/` and `Other/` say nothing."""
        sides = {said.kind for said in self.kinds.values()}
        parts = {name.casefold() for name in self.kinds} & {"drums", "bass", "guitar", "piano", "synth", "strings"}
        return self.has_vocals or {"instrumental", "mixture"} <= sides or len(parts) > 1


def songs_by_their_files(files: Sequence[Path]) -> frozenset[Path]:
    """Folders whose own files are both sides of a song, or its parts: no stem, whatever they are called."""
    kinds: dict[Path, set[str | None]] = {}
    for path in files:
        if (said := titled(path.stem)) and not said.title:
            kinds.setdefault(path.parent, set()).add(said.stem.kind)
    return frozenset(folder for folder, found in kinds.items() if "vocals" in found and len(found) > 1)


def stem_folders(source: Path, files: Sequence[Path]) -> dict[Path, StemFolders]:
    """All folders of the source that have folders of stems."""
    found: dict[Path, StemFolders] = {}
    songs = songs_by_their_files(files)
    for folder in dict.fromkeys(folder for path in files for folder in _above(source, path)):
        said = named(folder.name)
        if folder != source and folder not in songs and said.whole and said.kind is not None:
            found.setdefault(folder.parent, StemFolders({})).kinds[folder.name] = said
    found = {parent: here for parent, here in found.items() if len(here.kinds) > 1 and here.tells}
    for path in files:
        for folder in _above(source, path):
            if folder in found:
                found[folder].below.append(path)
    return found


def _above(source: Path, path: Path) -> Iterator[Path]:
    """Folders of a file up to the source."""
    while path != source:
        path = path.parent
        yield path


def _collections(source: Path, files: Sequence[Path]) -> dict[Path, StemFolders]:
    """Those that hold many songs: the source, train/ and so on. Several others are songs with a folder a stem."""
    found = stem_folders(source, files)
    return {
        parent: here
        for parent, here in found.items()
        if parent == source or parent.name.casefold() in SPLIT_FOLDERS or len(found) == 1
    }


def has_stem_folders(source: Path, files: Sequence[Path]) -> bool:
    """Whether half of the files in stem folders have namesakes."""
    songs = [
        (song, sum(map(len, song.values())))
        for parent, here in _collections(source, files).items()
        for _, song in _songs(parent, here)
    ]
    paired = sum(count for song, count in songs if len(song) > 1)
    return paired > 0 and 2 * paired >= sum(count for _, count in songs)


def find_stem_folders(source: Path, files: Sequence[Path]) -> Found:
    """Songs of equal names in stem folders; what has no namesake is left out."""
    songs: list[FoundSong] = []
    problems: list[Problem] = []
    taken: set[Path] = set()
    for parent, here in _collections(source, files).items():
        above = parent.relative_to(source).parts if parent != source else ()
        for parts, song in _songs(parent, here):
            paths = [path for paths in song.values() for path in paths]
            taken |= set(paths)
            where = parent.joinpath(*parts)
            said = {path: here.kinds[stem] for stem, paths in song.items() for path in paths}
            if len(song) < 2:
                others = ", ".join(f"{name}/" for name in here.kinds if name not in song)
                problems.append((paths[0], f"no file of its name in {others}"))
                continue
            if twice := next((stem for stem, paths in song.items() if len(paths) > 1), None):
                problems.append((where, f"two files of its name in {twice}/; keep one"))
                continue
            try:
                roles = song_roles(said)
            except Unclear as why:
                problems.append((where, str(why)))
            else:
                songs.append(FoundSong((*above, *parts), roles.stems, roles.notes))
    problems += [(path, "in no folder of a stem, as the others of this source are") for path in files
                 if path not in taken]  # fmt: skip
    return Found(tuple(songs), tuple(problems))


def _songs(parent: Path, here: StemFolders) -> list[tuple[tuple[str, ...], dict[str, list[Path]]]]:
    """Of each song, its path in the folders of its stems, and its files by stem folder.

    Names are equal in whatever case; those that hold words for a stem are compared without these where nothing is equal
    to them as they are.
    """
    songs: dict[tuple[str, ...], tuple[tuple[str, ...], dict[str, list[Path]]]] = {}
    for path in here.below:
        stem, *rest = path.relative_to(parent).parts
        if rest and stem in here.kinds:
            parts = (*rest[:-1], path.stem)
            songs.setdefault(_folded(parts), (parts, {}))[1].setdefault(stem, []).append(path)
    by_title: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for key, (parts, song) in songs.items():
        said = titled(parts[-1])
        if len(song) == 1 and said is not None and said.title:
            by_title.setdefault((*key[:-1], title_key(said.title)), []).append(key)
    for keys in by_title.values():
        stems = [stem for key in keys for stem in songs[key][1]]
        if len(stems) > 1 and len(set(stems)) == len(stems):
            parts = songs[keys[0]][0]
            said = titled(parts[-1])
            files = {stem: paths for key in keys for stem, paths in songs[key][1].items()}
            songs[keys[0]] = (*parts[:-1], said.title if said else parts[-1]), files
            for key in keys[1:]:
                del songs[key]
    return list(songs.values())


def _folded(parts: Sequence[str]) -> tuple[str, ...]:
    return tuple(part.casefold() for part in parts)
