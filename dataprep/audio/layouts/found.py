"""What a layout finds in a source, before songs have ids."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dataprep.audio.decoders import AudioSource
from dataprep.roles import Role

Problem = tuple[Path, str]
"""What was not used, and why."""


@dataclass(frozen=True)
class FoundSong:
    """One song of a source."""

    parts: tuple[str, ...]
    """Of its path below the source; they make its id."""
    stems: Mapping[Role, tuple[AudioSource, ...]]
    notes: tuple[str, ...] = ()
    """What was decided about its files, for people."""
    kin: str = ""
    """Songs of equal kin hold stems of one song, and come into one split."""


@dataclass(frozen=True)
class Found:
    """All songs of a source."""

    songs: tuple[FoundSong, ...]
    problems: tuple[Problem, ...] = ()
