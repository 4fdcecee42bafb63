"""Stems of MedleyDB: `SONG/SONG_STEMS/SONG_STEM_01.wav`, whose instruments `SONG/SONG_METADATA.yaml` names."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from dataprep.audio.layouts.words import Kind, Named, named
from vr_core.errors import VrError
from vr_core.yaml12 import read_yaml

_EVERYTHING = "main system"
"""Of a recording of all players with one pair of microphones."""


def instrument_of(path: Path) -> Named | None:
    """What the metadata beside a folder SONG_STEMS say of a file in it; None where there are none."""
    folder = path.parent
    song = folder.name.removesuffix("_STEMS")
    if song == folder.name:
        return None
    return _instruments(folder.parent / f"{song}_METADATA.yaml").get(path.name)


@lru_cache(maxsize=256)
def _instruments(metadata: Path) -> Mapping[str, Named]:
    try:
        stems = read_yaml(metadata).get("stems")
    except (VrError, OSError):
        return {}
    found: dict[str, Named] = {}
    for stem in stems.values() if isinstance(stems, dict) else ():
        if isinstance(stem, dict) and isinstance(name := stem.get("filename"), str):
            found[name] = Named(_kind(stem.get("instrument")), whole=True, qualified=True)
    return found


def _kind(instrument: object) -> Kind:
    names = instrument if isinstance(instrument, list) else [instrument]
    kinds = {"vocals" if named(str(name)).kind == "vocals" else "part" for name in names}
    if len(kinds) > 1 or _EVERYTHING in (str(name).casefold() for name in names):
        return "unclear"
    return "vocals" if "vocals" in kinds else "part"
