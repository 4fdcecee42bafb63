"""The layouts, and which one a source has: one line of a table each."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from dataprep.audio.layouts import side_folders
from dataprep.audio.layouts.flat import find_flat, separated_beside_songs
from dataprep.audio.layouts.found import Found
from dataprep.audio.layouts.musdb import find_musdb, is_musdb
from dataprep.audio.layouts.song_folders import (
    find_song_folders,
    half_named_folders,
    has_song_folders,
    labelled_by_name,
    multitracks,
    stem_named,
)
from dataprep.audio.layouts.stem_folders import find_stem_folders, has_stem_folders, stem_folders
from dataprep.audio.layouts.words import words
from dataprep.errors import DataError

Layout = Literal["stems", "musdb", "pairs", "unpaired", "folders", "flat"]
LAYOUTS: tuple[str, ...] = get_args(Layout)
Test = Callable[[Path, Sequence[Path]], bool]
Finder = Callable[[Path, Sequence[Path]], Found]


class Recognised(NamedTuple):
    """A layout: whether a source has it, and what is found in one that has."""

    name: Layout
    has: Test
    find: Finder


def _has_unpaired(source: Path, files: Sequence[Path]) -> bool:
    """Both folders and no third that makes songs with them."""
    folders = side_folders.top_folders(source, files)
    both = bool(folders & side_folders.VOCAL_FOLDERS and folders & side_folders.INSTRUMENTAL_FOLDERS)
    return both and (len(folders) == 2 or not has_stem_folders(source, files))


TABLE = (
    Recognised("musdb", lambda source, files: any(map(is_musdb, files)), find_musdb),
    Recognised("pairs", lambda source, files: bool(side_folders.pair_folders(source, files)), side_folders.find_pairs),
    Recognised("unpaired", _has_unpaired, side_folders.find_unpaired),
    Recognised("folders", has_stem_folders, find_stem_folders),
    Recognised("stems", has_song_folders, find_song_folders),
    Recognised("flat", lambda source, files: True, find_flat),
)
"""In the order in which they are tried."""


def recognise(source: Path, files: Sequence[Path]) -> Recognised:
    """The layout of a source.

    Raises:
        DataError: names hold words for stems, and yet every file would be a song of its own.
    """
    if source.is_dir():
        labelled = [layout for layout in TABLE if layout.name != "flat" and layout.has(source, files)]
        if labelled:
            return _most_used(labelled, source, files)
        separated = separated_beside_songs(files)
        songs = [path for path in files if path not in separated]
        _refuse_stems(source, songs)
        unclear = half_named_folders(songs)
        return layout_of("flat")._replace(find=lambda _, files: _flat_without(unclear, separated, source, files))
    return layout_of("musdb" if is_musdb(source) else "flat")


def _most_used(candidates: Sequence[Recognised], source: Path, files: Sequence[Path]) -> Recognised:
    """The layout that uses most of the files; of equals the first.

    Raises:
        DataError: even that one leaves more than half of them unused: one odd folder says nothing of a collection.
    """
    if [layout.name for layout in candidates] == ["stems"]:
        return candidates[0]  # names each folder that it does not understand
    found = {layout: layout.find(source, files) for layout in candidates}
    used = {layout: len({part.path for song in here.songs for parts in song.stems.values() for part in parts})
            for layout, here in found.items()}  # fmt: skip
    chosen = max(candidates, key=lambda layout: used[layout])
    if 2 * used[chosen] >= len(files) or not used[chosen]:
        # What was found is kept: to find it may have taken listening to the files.
        return chosen._replace(find=lambda source, files: found[chosen])
    raise DataError(
        f"{source}: only {used[chosen]} of {len(files)} files make songs in the layout {chosen.name}; give "
        f"these as a source of their own, or take only these with --layout {chosen.name}, or each file as a song with "
        "--layout flat"
    )


def layout_of(name: str) -> Recognised:
    """The layout of this name.

    Raises:
        DataError: there is none.
    """
    for layout in TABLE:
        if layout.name == name:
            return layout
    raise DataError(f"--layout {name}: unknown, expected auto or one of {', '.join(LAYOUTS)}")


def _flat_without(
    unclear: Mapping[Path, str], separated: Collection[Path], source: Path, files: Sequence[Path]
) -> Found:
    found = find_flat(source, [path for path in files if path.parent not in unclear and path not in separated])
    problems = list(unclear.items())
    if separated:
        why = f"written by a separation beside its song, and so {len(separated) - 1} more; --layout stems takes them"
        problems.append((min(separated), why))
    return Found(found.songs, tuple(problems))


_OF_STEMS = (("stems",), ("multitrack",), ("multitracks",))


def _refuse_stems(source: Path, files: Sequence[Path]) -> None:
    beside = [path for here in stem_folders(source, files).values() if here.has_vocals for path in here.below]
    beside += [path for path in files if path.parent != source and words(path.parent.name)[-1:] in _OF_STEMS]
    beside += multitracks(files)
    named = stem_named(files)
    if 2 * len(named) < len(files):  # an album may have a song called "Voices"
        named = []
    found = beside or [path for song in labelled_by_name(files) for path in song] or named
    if found:
        shown = ", ".join(str(path.relative_to(source)) for path in found[:3]) + (", …" if found[3:] else "")
        raise DataError(
            f"{source}: {len(found)} of {len(files)} files are stems by their names ({shown}), and "
            "which belong together is not clear; give each song a folder with stems called vocals, drums and so on, or "
            "name files SONG.vocals, SONG.instrumental, or take each file as a song with --layout flat"
        )
