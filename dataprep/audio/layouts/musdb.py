"""`musdb`: `.stem.mp4` files with the streams 0 mixture, 1 drums, 2 bass, 3 other, 4 vocals, at any depth."""

from collections.abc import Sequence
from pathlib import Path

from dataprep.audio.decoders import AudioSource
from dataprep.audio.layouts.found import Found, FoundSong, Problem
from dataprep.audio.names import id_parts
from dataprep.roles import Role

_SUFFIX = ".stem.mp4"
_STREAMS: dict[Role, tuple[int, ...]] = {"mixture": (0,), "instrumental": (1, 2, 3), "vocals": (4,)}


def is_musdb(path: Path) -> bool:
    """Whether a file holds all stems of a song."""
    return path.name.casefold().endswith(_SUFFIX)


def find_musdb(source: Path, files: Sequence[Path]) -> Found:
    """A song a file."""
    songs: list[FoundSong] = []
    problems: list[Problem] = []
    for path in files:
        if not is_musdb(path):
            problems.append((path, f"no {_SUFFIX} file, as the others of this source are"))
            continue
        stems = {role: tuple(AudioSource(path, k) for k in streams) for role, streams in _STREAMS.items()}
        songs.append(FoundSong((*id_parts(source, path)[:-1], path.name[: -len(_SUFFIX)]), stems))
    return Found(tuple(songs), tuple(problems))
