"""`stems`: songs whose stems lie together, in one of three forms that may stand side by side in a source.

a folder a song     SONG/vocals.wav, SONG/drums.wav, …; the folder may be SONG/SONG_STEMS beside SONG/SONG_MIX.wav, or
                    Sources/SONG beside Mixtures/SONG, as in DSD100
folders in it       SONG/vocals/*.wav, SONG/drums/*.wav, …, as in MoisesDB: files of a folder are summed
by their names      SONG.vocals.wav and SONG.instrumental.wav, SONG_(Vocals).wav, SONG_no_vocals.wav, … in any folder
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dataprep.audio.layouts.found import Found, FoundSong, Problem
from dataprep.audio.layouts.medleydb import instrument_of
from dataprep.audio.layouts.published import SPLIT_FOLDERS
from dataprep.audio.layouts.song_roles import Unclear, song_roles
from dataprep.audio.layouts.stem_folders import StemFolders, songs_by_their_files, stem_folders
from dataprep.audio.layouts.words import Named, Titled, named, title_key, titled, words

_CLASSIC = frozenset(
    {"vocals", "vocal", "instrumental", "instrumentals", "instruments", "accompaniment", "no_vocals", "no-vocals",
     "mixture", "mix"}
)  # fmt: skip
"""One file of these names makes a song folder, unless most of the others say nothing: a song may be called "Mix"."""
_CLASSIC_PARTS = frozenset({"drums", "bass", "other", "guitar", "piano"})
_NO_STEM = "no file in it is named after a stem (vocals, instrumental, mixture, drums, …)"
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
_MOST_FILES = 100
"""Of one song."""
_UNKNOWN = Named(None, whole=False, qualified=False)


@dataclass
class _Songs:
    """What is found on the way."""

    source: Path
    songs: list[FoundSong] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def add(
        self, parts: Sequence[str], where: Path, files: Mapping[Path, Named], title_alone: Path | None = None
    ) -> None:
        try:
            roles = song_roles(files, title_alone)
        except Unclear as why:
            self.problems.append((where, str(why)))
        else:
            self.songs.append(FoundSong(tuple(parts), roles.stems, roles.notes))


def find_song_folders(source: Path, files: Sequence[Path]) -> Found:
    """Songs of all three forms."""
    found = _Songs(source)
    left = _find_nested(found, files)
    folders = _with_mixtures_above(left)
    of_two = _join_mixtures(source, folders)
    for folder, paths in folders.items():
        said = _said(paths)
        if is_song_folder(said):
            _add_folder(found, folder, said, of_two.get(folder))
            continue
        groups, others = _by_title(said)
        for title, group in groups.items():
            found.add((*_parts(source, folder), title), folder / title, group.files, group.title_alone)
        if others and groups:
            found.problems.append((others[0], _no_partner(len(others) - 1)))
        elif others:
            found.problems.append((folder, _half_named(said) or _NO_STEM))
    return Found(tuple(found.songs), tuple(found.problems))


def has_song_folders(source: Path, files: Sequence[Path]) -> bool:
    """Whether a folder is a song by its stems, or songs of stems by their names are half of the files."""
    left = _find_nested(_Songs(source), files)
    if len(left) < len(files):
        return True
    folders = {folder: _said(paths) for folder, paths in _by_folder(files).items()}
    if any(is_song_folder(said) for said in folders.values()):
        return True
    return 2 * sum(len(group.files) for group in _groups(folders)) >= len(files)


def labelled_by_name(files: Sequence[Path]) -> list[list[Path]]:
    """Files that are stems of a song by their names, vocals among them: flat, they would be songs of their own.

    Returns:
        The files of each song.
    """
    folders = {folder: _said(paths) for folder, paths in _by_folder(files).items()}
    return [list(g.files) for g in _groups(folders) if any(said.kind == "vocals" for said in g.files.values())]


def stem_named(files: Sequence[Path]) -> list[Path]:
    """Files whose names are about a side of a song, or that a sign sets the words for one apart in."""
    return [
        path
        for path in files
        if (said := titled(path.stem))
        and said.firm
        and not said.stem.loose
        and said.stem.kind in ("vocals", "instrumental")
    ]


def multitracks(files: Sequence[Path]) -> list[Path]:
    """Stems in folders of one song's size where a name is all about vocals, and another all about an instrument."""
    folders = [_said(paths) for paths in _by_folder(files).values() if len(paths) <= _MOST_FILES]
    named_so = [said for said in folders if _is_multitrack(said)]
    return [path for said in named_so for path, found in said.items() if found and not found.title]


def half_named_folders(files: Sequence[Path]) -> dict[Path, str]:
    """Folders of one song's size that are not clear, and why: a few names in them are stems, and most say nothing."""
    return {
        folder: why
        for folder, paths in _by_folder(files).items()
        if len(paths) <= _MOST_FILES and (why := _half_named(_said(paths)))
    }


def _half_named(said: Mapping[Path, Titled | None]) -> str:
    """Why a folder is neither a song nor an album by its names; empty where it is clear."""
    if is_song_folder(said):
        return ""
    named_so = [path.name for path in said if path.stem.casefold() in _CLASSIC]
    if not named_so and not _is_multitrack(said):
        return ""
    named_so = named_so or [path.name for path, found in said.items() if found and not found.title]
    shown = ", ".join(named_so[:3]) + (", …" if named_so[3:] else "")
    return (
        f"{shown}: called after a stem, and most others of its folder are not; rename those that are stems (vocals, an "
        "instrument, mixture), or take each file as a song with --layout flat"
    )


def _is_multitrack(said: Mapping[Path, Titled | None]) -> bool:
    return {"vocals", "part"} <= {stem.kind for stem in _all_about_stems(said)}


def _all_about_stems(said: Mapping[Path, Titled | None]) -> list[Named]:
    """What the names say that are all about a stem, and that songs are seldom called by."""
    return [found.stem for found in said.values() if found and not found.title and not found.stem.loose]


def is_song_folder(said: Mapping[Path, Titled | None]) -> bool:
    """One track called "Guitar" makes no stems of an album: it takes a name of a whole side, or two instruments."""
    names = {path.stem.casefold() for path in said}
    if len(names & _CLASSIC_PARTS) >= 2:
        return True
    if names & _CLASSIC:
        kinds = {stem.kind for stem in _all_about_stems(said)}
        return len(kinds) > 1 or 2 * sum(found is None for found in said.values()) <= len(said)
    whole = _all_about_stems(said)
    sides = any(stem.kind in ("vocals", "instrumental", "mixture") for stem in whole)
    return 2 * len(whole) >= len(said) and (sides or len(whole) >= 2) and not all(s.kind == "unclear" for s in whole)


def _find_nested(found: _Songs, files: Sequence[Path]) -> list[Path]:
    """Adds songs with a folder a stem; returns the files that are in none."""
    taken: set[Path] = set()
    songs = songs_by_their_files(files)
    for parent, here in stem_folders(found.source, files).items():
        below, kinds = here.below, here.kinds
        holds_songs = any(folder != parent and folder.is_relative_to(parent) for folder in songs)
        if holds_songs or not taken.isdisjoint(below) or not _is_nested_song(found.source, parent, here):
            continue
        said: dict[Path, Named] = {}
        for path in below:
            first, *rest = path.relative_to(parent).parts
            if rest:
                said[path] = Named(kinds[first].kind, True, True) if first in kinds else named(first)
            elif mine := titled(path.stem):
                said[path] = mine.stem
        found.add(_parts(found.source, parent), parent, said)
        taken |= set(below)
        if alone := [path for path in below if path not in said]:
            found.problems.append((alone[0], _no_partner(len(alone) - 1)))
    return [path for path in files if path not in taken]


def _is_nested_song(source: Path, parent: Path, here: StemFolders) -> bool:
    """A song, and not a collection whose songs lie in folders of their stems, nor genres that are called alike."""
    inside = [path for path in here.below if path.relative_to(parent).parts[0] in here.kinds]
    if all(_UUID.fullmatch(path.stem) for path in inside) or (parent / "data.json").is_file():
        return True
    is_collection = parent == source or parent.name.casefold() in SPLIT_FOLDERS
    return not is_collection and len(inside) <= _MOST_FILES


def _with_mixtures_above(files: Sequence[Path]) -> dict[Path, list[Path]]:
    """Files by folder; what lies beside a folder SONG_STEMS and is a mixture by its name counts to it."""
    folders = _by_folder(files)
    for folder in list(folders):
        above = folder.parent
        if above in folders and words(folder.name) == (*words(above.name), "stems"):
            mixed = [p for p in folders[above] if (said := titled(p.stem)) and said.stem.kind == "mixture"]
            folders[folder] += mixed
            folders[above] = [path for path in folders[above] if path not in mixed]
    return {folder: paths for folder, paths in folders.items() if paths}


def _join_mixtures(source: Path, folders: dict[Path, list[Path]]) -> dict[Path, tuple[str, ...]]:
    """Puts what is in Mixtures/SONG to Sources/SONG, at any depth; returns the path of such a song without the two."""
    sides: dict[str, dict[tuple[str, ...], Path]] = {"mixtures": {}, "sources": {}}
    for folder in folders:
        parts = folder.relative_to(source).parts
        for index, part in enumerate(parts[:-1]):
            if part.casefold() in sides:
                sides[part.casefold()][tuple(p.casefold() for p in (*parts[:index], *parts[index + 1 :]))] = folder
                break
    songs = {}
    for key, folder in sides["sources"].items():
        if key in sides["mixtures"]:
            folders[folder] = folders[folder] + folders.pop(sides["mixtures"][key])
            parts = folder.relative_to(source).parts
            cut = next(index for index, part in enumerate(parts) if part.casefold() == "sources")
            songs[folder] = (*parts[:cut], *parts[cut + 1 :])
    return songs


def _by_folder(files: Sequence[Path]) -> dict[Path, list[Path]]:
    folders: dict[Path, list[Path]] = {}
    for path in files:
        folders.setdefault(path.parent, []).append(path)
    return folders


def _said(paths: Sequence[Path]) -> dict[Path, Titled | None]:
    """What each name says, or the metadata of a published data set."""
    known = {path: instrument_of(path) for path in paths}
    return {path: Titled("", said) if (said := known[path]) else titled(path.stem) for path in paths}


def _add_folder(
    found: _Songs, folder: Path, said: Mapping[Path, Titled | None], parts: tuple[str, ...] | None = None
) -> None:
    names = [path.stem.casefold() for path in said]
    if twice := next((name for name in names if names.count(name) > 1), None):
        found.problems.append((folder, f"two files for the stem {twice}; keep one"))
    elif by_number := _songs_by_number(said):
        for number, files in by_number.items():
            found.add((*_parts(found.source, folder), number), folder / number, files)
    elif _numbered_both_ways(said):
        found.problems.append(
            (folder, "the numbers in its names may be songs or takes; give each song a folder, or name files SONG.STEM")
        )
    elif _several_songs(said):
        found.problems.append((folder, "stems of several songs in it; give each song a folder"))
    else:
        files = {path: title.stem if title else named(path.stem) for path, title in said.items()}
        found.add(parts or _parts(found.source, folder), folder, files)


def _songs_by_number(said: Mapping[Path, Titled | None]) -> dict[str, dict[Path, Named]]:
    """`001_vocals`, `001_other`, `002_vocals`, …: songs called by a number in front; empty where it is not so."""
    songs: dict[str, dict[Path, Named]] = {}
    for path, title in said.items():
        first = words(path.stem)[:1]
        if title is None or title.title or not first or not first[0].isdecimal():
            return {}
        songs.setdefault(first[0], {})[path] = title.stem
    is_so = len(songs) > 1 and all(len({_label(path) for path in files}) > 1 for files in songs.values())
    return songs if is_so else {}


def _numbered_both_ways(said: Mapping[Path, Titled | None]) -> bool:
    """`vocals_1`, `vocals_2`, `other_1`, `other_2` and nothing else."""
    numbers: dict[str, set[str]] = {}
    for path in said:
        found = [word for word in words(path.stem) if word.isdecimal()]
        numbers.setdefault(_label(path), set()).add(found[-1] if found else "")
    first = next(iter(numbers.values()), set())
    return len(numbers) > 1 and len(first) > 1 and "" not in first and all(each == first for each in numbers.values())


def _label(path: Path) -> str:
    return " ".join(word for word in words(path.stem) if not word.isdecimal())


def _several_songs(said: Mapping[Path, Titled | None]) -> bool:
    titles = [title_key(title.title) for title in said.values() if title and title.stem.kind == "vocals"]
    return len(set(titles)) > 1 and len(titles) > 1 and any(
        title and title_key(title.title) == key and title.stem.kind != "vocals"
        for key in titles if key for title in said.values()
    )  # fmt: skip


@dataclass
class _Group:
    """Files of one title in a folder."""

    files: dict[Path, Named] = field(default_factory=dict)
    title_alone: Path | None = None

    @property
    def is_song(self) -> bool:
        kinds = [said.kind for path, said in self.files.items() if path != self.title_alone]
        sides = "vocals" in kinds or "instrumental" in kinds
        return len(self.files) > 1 and (sides or kinds.count("part") > 1)


def _groups(folders: Mapping[Path, Mapping[Path, Titled | None]]) -> list[_Group]:
    return [group for said in folders.values() for group in _by_title(said)[0].values()]


def _by_title(said: Mapping[Path, Titled | None]) -> tuple[dict[str, _Group], list[Path]]:
    """Songs by title as it is written first, and the files that are of none."""
    groups: dict[str, _Group] = {}
    written: dict[str, str] = {}
    for path, title in said.items():
        if title is not None and title.title:
            key = title_key(title.title)
            written.setdefault(key, title.title)
            groups.setdefault(key, _Group()).files[path] = title.stem
    for path in said:
        key = title_key(path.stem)
        if key in groups and path not in groups[key].files and groups[key].title_alone is None:
            groups[key].title_alone = path
            groups[key].files[path] = _UNKNOWN
    songs = {key: group for key, group in groups.items() if group.is_song}
    taken = {path for group in songs.values() for path in group.files}
    others = [path for path in said if path not in taken]
    if len(songs) == 1:
        ((key, group),) = songs.items()
        more = [path for path in others if title_key(path.stem).startswith(f"{key} ")]
        group.files |= {path: named(path.stem) for path in more}
        others = [path for path in others if path not in more]
    return {written[key]: group for key, group in songs.items()}, others


def _parts(source: Path, folder: Path) -> tuple[str, ...]:
    return folder.relative_to(source).parts if folder != source else (source.resolve().name,)


def _no_partner(more: int) -> str:
    return f"no other stem of its song beside it{f', and so {more} more there' if more else ''}"
