"""Which role each file of one song has: by the words of its name, and by its sound where these leave it open."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dataprep.audio.decoders import AudioSource
from dataprep.audio.layouts.content import Beginnings, added, beside_vocals, holds, relation
from dataprep.audio.layouts.words import Kind, Named
from dataprep.roles import Role


class Unclear(Exception):
    """What the files of a song are cannot be told; the message says what to rename."""


@dataclass(frozen=True)
class SongRoles:
    """The files of a song by what they are of it."""

    stems: dict[Role, tuple[AudioSource, ...]]
    notes: tuple[str, ...]


def song_roles(files: Mapping[Path, Named], title_alone: Path | None = None) -> SongRoles:
    """Roles of the files of one song, in order. Where a whole instrumental is there, its parts are not added to it.

    Args:
        files: all files of the song, and what the name of each says.
        title_alone: a file whose name is the song's title, which is mostly the mixture.

    Raises:
        Unclear: names and sound leave it open.
    """
    of: dict[Kind | None, list[Path]] = {}
    for path, said in files.items():
        of.setdefault(said.kind, []).append(path)
    notes: list[str] = []
    heard = Beginnings()
    vocals = _vocals([(path, files[path]) for path in of.get("vocals", [])], heard, notes)
    mixtures, whole = of.get("mixture", []), of.get("instrumental", [])
    parts, strange, odd = of.get("part", []), of.get(None, []), of.get("unclear", [])
    if whole and vocals:
        # Both sides are there: nothing else is needed, whatever it is.
        if len(mixtures) > 1:
            notes.append(f"not used, more than one is the mixture by its name: {_names(mixtures)}")
            mixtures = []
        if unused := [*whole[1:], *parts, *strange, *odd]:
            notes.append(f"not used beside {_names(whole[:1])}: {_names(unused)}")
        parts = []
    else:
        if len(mixtures) > 1:
            raise Unclear(f"two files for the stem mixture ({_names(mixtures)}); keep one")
        if odd and not (vocals and mixtures):
            raise Unclear(
                f"{_names(odd)}: by the name more than one kind of stem is in it; rename it (vocals, instrumental, "
                "mixture or an instrument), or move it away"
            )
        if odd:
            notes.append(f"not used, more than one kind of stem by the name: {_names(odd)}")
        if whole and (unused := [*whole[1:], *parts]):
            notes.append(f"not used beside {_names(whole[:1])}: {_names(unused)}")
        if strange and whole and mixtures:
            notes.append(f"not used beside {_names([*whole[:1], *mixtures])}: {_names(strange)}")
            strange = []
        if strange and not vocals:
            mixtures = _without_vocals(strange, title_alone, whole[:1], heard, notes)
            strange = []
        for path in strange:
            kind = _by_sound(path, vocals, path == title_alone, heard)
            if kind == "part":
                notes.append(f"taken as an instrument, its name says nothing else: {path.name}")
                parts = [p for p in files if p in parts or p == path]
            elif mixtures:
                notes.append(f"not used, {_names(mixtures)} is the mixture: {path.name}")
            else:
                notes.append(f"taken as the mixture{'' if path == title_alone else ', by its sound'}: {path.name}")
                mixtures = [path]
    by_role: dict[Role, Sequence[Path]] = {
        "vocals": vocals, "instrumental": whole[:1] or parts, "mixture": mixtures
    }  # fmt: skip
    return SongRoles({role: tuple(map(AudioSource, found)) for role, found in by_role.items() if found}, tuple(notes))


def _vocals(given: Sequence[tuple[Path, Named]], beginnings: Beginnings, notes: list[str]) -> list[Path]:
    """The files that are summed into the vocals: lead and backing, or the one that is their sum already."""
    plain = [path for path, said in given if not said.qualified]
    some = [path for path, said in given if said.qualified]
    if len(plain) > 1:
        raise Unclear(f"two files for the stem vocals ({_names(plain)}); keep one")
    if plain and some:
        heard = beginnings.of([*plain, *some])
        verdict = relation(heard[0], heard[1:]) if heard else "unclear"
        if verdict == "unclear":
            raise Unclear(
                f"{_names(plain)} may be the sum of {_names(some)} or sung beside; if it is the sum, move the others "
                "away, else rename it (lead_vocals)"
            )
        if verdict == "sum":
            notes.append(f"not used, {_names(plain)} is their sum: {_names(some)}")
            return plain
    if len(given) > 1:
        notes.append(f"vocals summed: {_names([path for path, _ in given])}")
    return [path for path, _ in given]


def _without_vocals(
    strange: Sequence[Path], title_alone: Path | None, whole: Sequence[Path], beginnings: Beginnings, notes: list[str]
) -> list[Path]:
    """The mixture, where no vocals are known: then nothing tells a voice from an instrument but the names.

    A song that is called by its title alone beside its instrumental is the mixture.
    """
    others = [path for path in strange if path != title_alone]
    if others or title_alone is None or not whole:
        raise Unclear(
            f"{_names(others or strange)}: the name says no stem, and no other file says that it is the vocals; rename "
            "it (vocals, mixture, an instrument), or move it away"
        )
    heard = beginnings.of([title_alone, *whole])
    if heard and not holds(heard[0], heard[1]):
        raise Unclear(
            f"{title_alone.name}: by its sound it does not hold {_names(whole)}; rename it (mixture, vocals), or move "
            "it away"
        )
    notes.append(f"taken as the mixture: {title_alone.name}")
    return [title_alone]


def _by_sound(path: Path, vocals: Sequence[Path], title_alone: bool, beginnings: Beginnings) -> Kind:
    heard = beginnings.of([path, *vocals])
    if heard is None:  # what cannot be read is refused when it is prepared
        return "mixture" if title_alone else "part"
    kind = beside_vocals(heard[0], added(heard[1:]))
    if kind == "unclear" or (kind == "part" and title_alone):
        raise Unclear(
            f"{path.name}: its name says no stem, and by its sound it is neither the mixture nor apart from "
            f"{_names(vocals)}; rename it (mixture, an instrument), or move it away"
        )
    return kind


def _names(paths: Sequence[Path]) -> str:
    shown = ", ".join(path.name for path in paths[:5])
    return shown + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")
