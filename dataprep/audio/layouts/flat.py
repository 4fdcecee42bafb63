"""`flat`: songs at any depth, without labels: mixtures for pretraining.

What `vr separate` wrote beside its song, SONG.vocals.wav and SONG.instrumental.wav beside SONG.mp3, is no song: a model
made it of one that is there. In the layout `stems` it is the stems of its song.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from dataprep.audio.decoders import AudioSource
from dataprep.audio.layouts.found import Found, FoundSong
from dataprep.audio.layouts.words import title_key, titled
from dataprep.audio.names import id_parts, safe_name

_TRACK_NUMBER = re.compile(r"^\d+ (?=.)")
_STEMS = frozenset({"vocals", "instrumental"})
_SUFFIXES = frozenset({".wav", ".flac"})
_NUMBER = re.compile(r"-\d+$")
"""Behind the name of a song of which there are two."""


def find_flat(source: Path, files: Sequence[Path]) -> Found:
    """A song a file, whatever its name; `song` and `song (Instrumental)` of one folder are kin."""
    return Found(tuple(_song(source, path) for path in files))


def separated_beside_songs(files: Sequence[Path]) -> frozenset[Path]:
    """Of files, those that are both results of a song in the same folder, by their names."""
    results: dict[tuple[Path, str, str], dict[str, Path]] = {}
    for path in files:
        title, _, stem = path.stem.rpartition(".")
        if title and stem in _STEMS and path.suffix in _SUFFIXES:
            results.setdefault((path.parent, title, path.suffix), {})[stem] = path
    both = {key: pair for key, pair in results.items() if len(pair) == len(_STEMS)}
    if not both:
        return frozenset()
    taken = {path for pair in both.values() for path in pair.values()}
    songs = {(path.parent, safe_name((path.stem,))) for path in files if path not in taken}
    return frozenset(
        path
        for (folder, title, _), pair in both.items()
        if (folder, title) in songs or (folder, _NUMBER.sub("", title)) in songs
        for path in pair.values()
    )


def _song(source: Path, path: Path) -> FoundSong:
    said = titled(path.stem)
    key = title_key(said.title if said is not None and said.title else path.stem)
    key = _TRACK_NUMBER.sub("", key)
    is_stem = said is not None and said.firm and said.stem.kind in ("vocals", "instrumental")
    notes = (f"taken as a whole song, its name says {said.stem.kind}",) if said is not None and is_stem else ()
    kin = f"{path.parent}/{key}" if key else ""
    return FoundSong(id_parts(source, path), {"mixture": (AudioSource(path),)}, notes, kin)
