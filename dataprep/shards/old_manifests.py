"""What manifests of earlier versions say in words, read into today's fields; nothing else reads text back.

Before sources were stored by fields, a stream's number stood behind its path (`song.stem.mp4:4`). Before rows had
`follows`, a note said whose split a song has. Before manifests had `preparation`, notes alone told of moved stems.
"""

import re
from collections.abc import Iterable
from typing import Any

_STREAM = re.compile(r"(.+\.mp4):([1-9][0-9]*)", re.DOTALL | re.IGNORECASE)
"""Only mp4 files have several streams, and no audio file's own name ends in `.mp4:4`."""
_FOLLOWS = re.compile(r"same (audio|recording) as (.+); it follows its split", re.DOTALL)
_MOVED = "moved, it lay"


def as_today(raw: Any) -> Any:
    """A manifest, or a journal of a group, as today's fields have it; what is not as expected stays as it is."""
    if not isinstance(raw, dict) or not isinstance(raw.get("songs"), list):
        return raw
    return {**raw, "songs": [_song(song) for song in raw["songs"]]}


def moved_any(notes: Iterable[str]) -> bool:
    """Whether one of the notes tells that a stem was moved: all that is known of `--align` where it was not stored."""
    return any(_MOVED in note for note in notes)


def _song(raw: Any) -> Any:
    if not isinstance(raw, dict):
        return raw
    sources, notes = raw.get("sources"), raw.get("notes")
    if isinstance(sources, dict):
        raw = raw | {"sources": {role: _each(files) for role, files in sources.items()}}
    if "follows" not in raw and isinstance(notes, list):
        found = [match for note in notes if isinstance(note, str) and (match := _FOLLOWS.fullmatch(note))]
        if found:
            raw = raw | {
                "follows": {"song": found[-1][2], "shares": found[-1][1]},
                "notes": [note for note in notes if not (isinstance(note, str) and _FOLLOWS.fullmatch(note))],
            }
    return raw


def _each(files: Any) -> Any:
    return [_source(file) if isinstance(file, str) else file for file in files] if isinstance(files, list) else files


def _source(text: str) -> dict[str, Any]:
    stream = _STREAM.fullmatch(text)
    return {"path": stream[1], "stream": int(stream[2])} if stream else {"path": text}
