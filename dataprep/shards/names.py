"""Names that stand in a manifest and become names of files: of songs and of shards.

A manifest may have been written by somebody else. A name in it is one component of a path, visible, and of characters
that a terminal prints.
"""

import re
import unicodedata
from typing import Annotated

from pydantic import AfterValidator

LONGEST_ID = 128
"""Characters: a hundred of the track's name, and what tells it from others of that name."""
_SHARD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,200}\.arrow")


def is_song_id(text: str) -> bool:
    """Whether `text` can be a song's id: letters, digits, marks of any script, and not at first `.`, `_` and `-`."""
    inside = all(c.isalnum() or c in "._-" or unicodedata.category(c)[0] == "M" for c in text)
    return inside and 0 < len(text) <= LONGEST_ID and text[0] not in ".-_"


def _check_id(text: str) -> str:
    if not is_song_id(text):
        raise ValueError("should be a song's id: letters, digits, '.', '_' and '-', no path")
    return text


def _check_shard(text: str) -> str:
    if not _SHARD.fullmatch(text):
        raise ValueError("should be the name of a shard such as vocals-0123456789ab.arrow, no path")
    return text


SongId = Annotated[str, AfterValidator(_check_id)]
ShardName = Annotated[str, AfterValidator(_check_shard)]
