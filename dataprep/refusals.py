"""Reasons for which songs were not used, those that are alike said once."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

_NUMBER = re.compile(r"\d[\d,.]*")


@dataclass(frozen=True)
class Refused:
    """A song or a file that was not used."""

    name: str
    why: str
    files: tuple[str, ...] = ()
    """What it was to be made of, as `why` calls it."""


@dataclass(frozen=True)
class Alike:
    """Refusals for one reason."""

    first: Refused
    count: int


def alike(refused: Iterable[Refused]) -> tuple[Alike, ...]:
    """Refusals by their reasons, most frequent first: equal but for the files they name, and numbers."""
    groups: dict[str, list[Refused]] = {}
    for one in refused:
        reason = one.why
        for file in one.files:
            reason = reason.replace(file, "")
        groups.setdefault(_NUMBER.sub("", reason), []).append(one)
    return tuple(Alike(group[0], len(group)) for group in sorted(groups.values(), key=len, reverse=True))
