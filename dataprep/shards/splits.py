"""Which song is for training, validation or test. Pure functions of the songs' ids.

`--split` takes fractions with a seed (`valid=0.1,test=0.1,seed=7`), a file of lines `<split> <id or pattern>`, of which
the first that matches decides, or a data set whose songs keep their splits.
"""

import fnmatch
import glob
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dataprep.errors import DataError
from dataprep.roles import SPLITS, Split
from vr_core.small_files import DamagedFile, read_text

_LARGEST_SHARE = 0.9


@dataclass(frozen=True)
class SplitByFraction:
    """Shares of the songs, drawn by a seeded order; the rest is for training."""

    valid: float = 0.0
    test: float = 0.0
    seed: int = 0
    published: Mapping[str, Split] = field(default_factory=dict)
    """Splits that songs have in a published data set: they stay, and those of its `train` give a split it has not."""
    kin: Mapping[str, str] = field(default_factory=dict)
    """Songs of equal kin come into one split."""
    labelled: frozenset[str] = frozenset()
    """Songs whose stems are known; they and the others are drawn each by themselves."""


@dataclass(frozen=True)
class SplitByList:
    """Rules in order: split and shell pattern over ids."""

    rules: tuple[tuple[Split, str], ...]
    origin: str

    def of(self, song: str) -> Split | None:
        """The split of the first rule that the song fits; None where it fits none."""
        return next((split for split, pattern in self.rules if fnmatch.fnmatchcase(song, pattern)), None)


SplitRule = SplitByFraction | SplitByList


def parse_split(text: str) -> SplitRule:
    """The value of `--split`: fractions, the path of a list file, or a data set whose splits are taken over.

    Raises:
        DataError: neither; the part or line that does not fit is named.
    """
    path = Path(text)
    if path.is_dir():
        return _as_in(path)
    if path.is_file():
        try:
            return parse_list(read_text(path), text)
        except (OSError, DamagedFile) as error:
            why = error.strerror if isinstance(error, OSError) else "no UTF-8 text"
            raise DataError(f"--split {text}: cannot be read ({why}); expected lines `train song-id`") from None
    if "=" not in text:
        raise DataError(f"--split {text}: no such file; give a list file, or fractions as in valid=0.1,test=0.1,seed=7")
    return parse_fractions(text)


def _as_in(folder: Path) -> SplitByList:
    """The splits of a data set's songs."""
    from dataprep.shards.manifest import read_manifest  # which needs the names of splits

    songs = read_manifest(folder).songs
    return SplitByList(tuple((song.split, glob.escape(song.id)) for song in songs), str(folder))


def parse_fractions(text: str) -> SplitByFraction:
    """`valid=0.1,test=0.1,seed=7`; each part may be left out.

    Raises:
        DataError: an unknown name, no number, or shares that leave nothing for training.
    """
    values: dict[str, float] = {}
    seed = 0
    for part in text.split(","):
        name, _, value = (piece.strip() for piece in part.partition("="))
        try:
            if name in values or name not in ("valid", "test", "seed"):
                raise ValueError
            if name == "seed":
                seed = int(value)
                continue
            values[name] = float(value)
            if not 0 <= values[name] <= _LARGEST_SHARE:
                raise ValueError
        except ValueError:
            raise DataError(
                f"--split {text}: {part.strip()!r} does not fit; expected valid=0.1,test=0.1,seed=7, "
                f"each share from 0 to {_LARGEST_SHARE:g} and given once"
            ) from None
    if sum(values.values()) > _LARGEST_SHARE:
        raise DataError(
            f"--split {text}: leaves too little for training; valid + test must be at most {_LARGEST_SHARE:g}"
        )
    return SplitByFraction(values.get("valid", 0.0), values.get("test", 0.0), seed)


def parse_list(text: str, origin: str) -> SplitByList:
    """Lines `<split> <song id or shell pattern>`; empty lines and what follows a `#` do not count.

    Raises:
        DataError: a line that is not so, with its number.
    """
    rules: list[tuple[Split, str]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split("#", 1)[0].split(None, 1)
        if not words:
            continue
        split = next((split for split in SPLITS if split == words[0]), None)
        if split is None or len(words) < 2:
            raise DataError(
                f"{origin}:{number}: expected `train|valid|test <song id or pattern>`, found {line.strip()!r}"
            )
        rules.append((split, words[1].strip()))
    if not rules:
        raise DataError(f"{origin}: no rule in it; expected lines like `test song03*`, and `train *` as the last")
    return SplitByList(tuple(rules), origin)


def assign(ids: Sequence[str], rule: SplitRule) -> dict[str, Split]:
    """Split of every song.

    Raises:
        DataError: songs that no line of a list file names.
    """
    return _by_list(ids, rule) if isinstance(rule, SplitByList) else _by_fraction(ids, rule)


def beside(
    given: Sequence[str], rule: SplitRule, before: Mapping[str, Split], left: Sequence[str] = ()
) -> dict[str, Split]:
    """Splits in a data set that exists: a list moves the songs that are given, and else a song stays where it is.

    Args:
        given: ids of the songs that are given.
        rule: how they are split.
        before: splits of the songs of the data set.
        left: songs that a stopped preparation has left and that are not given: those that a list does not name have
            no split.
    """
    if isinstance(rule, SplitByList):
        named = {id: split for id in left for split in [rule.of(id)] if split is not None}
        return named | dict(before) | assign(given, rule)
    kin = {rule.kin[id]: before[id] for id in given if id in before and id in rule.kin}
    follows = {id: kin[rule.kin[id]] for id in given if rule.kin.get(id) in kin}
    return assign([*given, *left], rule) | follows | dict(before)


def _by_list(ids: Sequence[str], rule: SplitByList) -> dict[str, Split]:
    result: dict[str, Split] = {}
    for song in ids:
        split = rule.of(song)
        if split is not None:
            result[song] = split
    missing = [song for song in ids if song not in result]
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise DataError(f"{rule.origin}: no line for {shown}; add lines, or `train *` as the last one")
    return result


def _by_fraction(ids: Sequence[str], rule: SplitByFraction) -> dict[str, Split]:
    """Songs that are drawn, and those whose split is published.

    Of a published data set that has, say, `train` and `test` alone, validation songs are drawn from `train`.
    """
    published = {song: rule.published[song] for song in ids if song in rule.published}
    taken = set(published.values())
    own_draw = [song for song in ids if song not in published]
    # Each kind by itself: music without labels would take the only songs that fine-tuning is validated on.
    drawn = _drawn([song for song in own_draw if song in rule.labelled], rule)
    drawn |= _drawn([song for song in own_draw if song not in rule.labelled], rule)
    rest = replace(rule, valid=0 if "valid" in taken else rule.valid, test=0 if "test" in taken else rule.test)
    own = _drawn([song for song, split in published.items() if split == "train"], rest)
    return {song: drawn.get(song) or own.get(song) or published[song] for song in ids}


def _drawn(ids: Sequence[str], rule: SplitByFraction) -> dict[str, Split]:
    """Test songs come from the front of a hashed order and validation songs from its back; kin go as one.

    A song added somewhere in the order moves each border by one song at most, and the two do not push each other.
    """
    first: dict[str, str] = {}
    lead = {song: first.setdefault(rule.kin.get(song) or f"/{song}", song) for song in sorted(ids)}
    order = sorted(first.values(), key=lambda song: (hashlib.sha256(f"{rule.seed}:{song}".encode()).digest(), song))
    # From three songs on, what was asked for is there.
    least = 1 if len(order) >= 3 else 0
    test = max(least if rule.test else 0, round(rule.test * len(order)))
    valid = max(least if rule.valid else 0, round(rule.valid * len(order)))
    test = min(test, max(0, len(order) - 1))  # one song at least is left for training
    valid = min(valid, max(0, len(order) - test - 1))
    chosen: dict[str, Split] = dict.fromkeys(order, "train")
    chosen.update(dict.fromkeys(order[:test], "test"))
    chosen.update(dict.fromkeys(order[len(order) - valid :], "valid"))
    return {song: chosen[lead[song]] for song in ids}
