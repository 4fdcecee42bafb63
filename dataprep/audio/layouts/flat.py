"""`flat`: songs at any depth, without labels: mixtures for pretraining."""

import re
from collections.abc import Sequence
from pathlib import Path

from dataprep.audio.decoders import AudioSource
from dataprep.audio.layouts.found import Found, FoundSong
from dataprep.audio.layouts.words import title_key, titled
from dataprep.audio.names import id_parts

_TRACK_NUMBER = re.compile(r"^\d+ (?=.)")


def find_flat(source: Path, files: Sequence[Path]) -> Found:
    """A song a file, whatever its name; `song` and `song (Instrumental)` of one folder are kin."""
    return Found(tuple(_song(source, path) for path in files))


def _song(source: Path, path: Path) -> FoundSong:
    said = titled(path.stem)
    key = title_key(said.title if said is not None and said.title else path.stem)
    key = _TRACK_NUMBER.sub("", key)
    is_stem = said is not None and said.firm and said.stem.kind in ("vocals", "instrumental")
    notes = (f"taken as a whole song, its name says {said.stem.kind}",) if said is not None and is_stem else ()
    kin = f"{path.parent}/{key}" if key else ""
    return FoundSong(id_parts(source, path), {"mixture": (AudioSource(path),)}, notes, kin)
