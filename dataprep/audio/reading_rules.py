"""What is read otherwise than earlier versions of vr read it, and what is said of it.

The names of the rules that concern a song's files are part of its stamp, so that a data set of an earlier version has
just those songs prepared again. Files that no rule concerns are read as ever, and keep their stamps.

A change of how files are read is a line of `RULES`: a new name, and which files it concerns.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from dataprep.audio.source import AudioInfo, AudioSource


class Rule(NamedTuple):
    """A change of how files are read."""

    concerns: Callable[[AudioInfo], bool]
    """Which files are read otherwise by it."""
    says: str


RULES: Mapping[str, Rule] = {
    # Since 2026-11-29. Most files of the second kind were refused before; some had gaps.
    "behind-header": Rule(
        lambda info: info.stated_samples is not None, "what goes on behind the length in its header is read whole now"
    ),
    "other-decoder": Rule(
        lambda info: info.refused_by is not None, "what one decoder refuses, or stops in, is read by the other now"
    ),
}

_NAMES = {"libsndfile": "libsndfile", "ffmpeg": "FFmpeg"}


def rules_of(info: AudioInfo) -> tuple[str, ...]:
    """Names of the rules by which a file is read otherwise than once."""
    return tuple(name for name, rule in RULES.items() if rule.concerns(info))


def notes_on_reading(source: AudioSource, info: AudioInfo) -> list[str]:
    """What a person should know of how a file is read, a line each."""
    notes = []
    if info.stated_samples is not None:
        stated_s = info.stated_samples / info.sample_rate_hz
        notes.append(f"{source.path.name} goes on behind the {stated_s:.2f} s that its header states; all is read")
    if info.refused_by is not None:
        notes.append(
            f"{source.path.name} read by {_NAMES[info.decoder]}; {_NAMES[info.refused_by]} refuses it or stops in the "
            "middle"
        )
    return notes


def note_on_handover(source: AudioSource) -> str:
    """What to say where the decoder that began a file stopped in the middle, and the other went on."""
    return f"{source.path.name} read by FFmpeg from the middle on, where libsndfile stops"
