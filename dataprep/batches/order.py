"""Which items a step trains on: a pure function of (songs, seed, item), whoever computes it.

Items are numbered from 0 without end. Item i belongs to epoch i // items_per_epoch; an epoch visits every slot once, a
slot being a crop's length of one song. Slots are permuted by numbers keyed by (seed, epoch), and everything else about
an item is drawn from numbers keyed by (seed, epoch, place in the epoch). So the position of a run is one integer, any
item can be computed without those before it, and no cut over machines changes any of them.

Numbers come from Philox, a counter-based generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
SC 2011), as raw 64-bit words: unlike numpy's distributions and shuffles, they are the same in every version of numpy.
"""

import bisect
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

from dataprep.errors import ManifestError
from dataprep.roles import Role, Split
from dataprep.shards.manifest import Manifest
from vr_core.specs.objectives import ObjectiveSpec
from vr_core.specs.slots import Effects, Slot


class CatalogueRow(NamedTuple):
    """What the order knows of a song."""

    id: str
    roles: tuple[Role, ...]
    frames: int
    audible: tuple[tuple[int, int], ...] | None = None
    """Runs of frames in which the vocals are heard; None where that is not known, and they may be everywhere."""


@dataclass(frozen=True)
class Read:
    """Consecutive frames of one stem."""

    song: str
    role: Role
    start_frame: int
    frames: int
    """Fewer than the crop where the song is shorter; the rest of the crop is zero."""
    gain: float = 1.0
    swap: bool = False
    """Left and right exchanged."""
    slot: str = ""
    """Key in the batch; by default the role."""
    effects: Effects = Effects()
    """What is done to it where it is widened."""

    @property
    def key(self) -> str:
        """Of its frames in the batch."""
        return self.slot or self.role


@dataclass(frozen=True)
class Item:
    """One training example: reads that are added up."""

    index: int
    """Position in the endless order; keys everything that is drawn for this item later on."""
    epoch: int
    crop_frames: int
    reads: tuple[Read, ...]


class _Draws(NamedTuple):
    """Which of an item's numbers decides what of a slot that is not the anchor."""

    elsewhere: int
    place: int
    gain: int
    swap: int
    silent: int


# New ones are added at the end, so that the others keep their values.
_START, _SWAP_ANCHOR = 0, 4
_SECOND = _Draws(elsewhere=1, place=2, gain=3, swap=5, silent=6)
_FURTHER_FROM = 8
# The third word of a counter says what is drawn: 0 an item, 1 the order of an epoch, 2 what one slot has done to it.
_EFFECTS = 2
_LOST: tuple[Literal["left", "right", "equal"], ...] = ("left", "right", "equal")


def _draws_of(number: int) -> _Draws:
    """Of the slot at that place after the anchor."""
    if number == 0:
        return _SECOND
    first = _FURTHER_FROM + (number - 1) * len(_SECOND)
    return _Draws(*range(first, first + len(_SECOND)))


class Order:
    """The endless sequence of training items."""

    def __init__(
        self, catalogue: Sequence[CatalogueRow], objective: ObjectiveSpec, seed: int, crop_frames: int
    ) -> None:
        """Order of the songs of `catalogue`.

        Raises:
            ManifestError: no song has the stems that the objective trains on.
        """
        songs = sorted(catalogue)
        self.objective = objective
        self.seed = seed
        self.crop_frames = crop_frames
        self._anchor, *self._others = objective.signals.slots
        self._songs = [song for song in songs if self._anchor.stem in song.roles]
        self._lenders = {slot.stem: _Lenders.of(songs, slot.stem) for slot in self._others}
        if not self._songs or not all(lenders.songs for lenders in self._lenders.values()):
            raise ManifestError(
                f"no song for training has what the objective {objective.name} needs: "
                f"{' and '.join(stem_names(objective))}; `vr data inspect` shows what is there"
            )
        self._slot_ends = list(itertools.accumulate(max(1, song.frames // crop_frames) for song in self._songs))
        self._numbers = _FURTHER_FROM + max(0, len(self._others) - 1) * len(_SECOND)
        self._permutation = lru_cache(maxsize=2)(self._permuted_slots)

    @classmethod
    def of(cls, manifest: Manifest, objective: ObjectiveSpec, seed: int, crop_frames: int) -> "Order":
        """Order of the training songs of a data set; errors as the constructor."""
        return cls(catalogue_of(manifest, "train"), objective, seed, crop_frames)

    @property
    def items_per_epoch(self) -> int:
        """Slots, and so items of an epoch."""
        return self._slot_ends[-1]

    def items(self, first: int, count: int) -> tuple[Item, ...]:
        """Items `first` to `first + count`."""
        return tuple(self.item(index) for index in range(first, first + count))

    def item(self, index: int) -> Item:
        """The item at a position of the order."""
        epoch, place = divmod(index, self.items_per_epoch)
        slot = int(self._permutation(epoch)[place])
        number = bisect.bisect_right(self._slot_ends, slot)
        song = self._songs[number]
        slots = self._slot_ends[number] - (self._slot_ends[number - 1] if number else 0)
        u = _uniform(self.seed, epoch, (0, place, 0, 0), self._numbers)
        # The slot's share of all starts, not of the frames: every start is as likely as any other.
        start = self._start(song, (slot - self._slot_ends[number] + slots + u[_START]) / slots)
        anchor = Read(
            song.id, self._anchor.stem, start, min(self.crop_frames, song.frames),
            swap=u[_SWAP_ANCHOR] < self._anchor.swap_channels, slot=self._anchor.name,
        )  # fmt: skip
        reads = {anchor.slot: anchor}
        for i, other in enumerate(self._others):
            read = self._drawn(other, _draws_of(i), song, start, u)
            if read is not None and (not other.beside or other.beside in reads):
                reads[other.name] = read
        altered = (
            self._altered(drawn, reads[drawn.name], (0, place, _EFFECTS, i), epoch)
            for i, drawn in enumerate((self._anchor, *self._others))
            if drawn.name in reads
        )
        return Item(index, epoch, self.crop_frames, tuple(altered))

    def _drawn(self, slot: Slot, draws: _Draws, song: CatalogueRow, start: int, u: Sequence[float]) -> Read | None:
        """The slot's own part of `song` from frame `start` on, or a part of any song; None where it is silent."""
        if u[draws.silent] < slot.silent:
            return None
        other, gain = song, 1.0
        if u[draws.elsewhere] < slot.elsewhere or slot.stem not in song.roles:
            other, start = self._lenders[slot.stem].at(u[draws.place], self.crop_frames)
            gain = 10 ** ((2 * u[draws.gain] - 1) * slot.gain_db / 20)
        frames = min(self.crop_frames, other.frames - start)
        swap = u[draws.swap] < slot.swap_channels
        return Read(other.id, slot.stem, start, frames, gain, swap, slot.name)

    def _altered(self, slot: Slot, read: Read, counter: tuple[int, int, int, int], epoch: int) -> Read:
        """The read with the gain and the effects that are drawn for it."""
        if not (slot.any_gain_db or slot.has_effects):
            return read
        gain, invert, channels, tilt = _uniform(self.seed, epoch, counter, 4)
        lost = int(channels / slot.lose_channel * len(_LOST)) if channels < slot.lose_channel else None
        effects = Effects(
            invert=invert < slot.invert,
            channels="both" if lost is None else _LOST[lost],
            tilt_db=(2 * tilt - 1) * slot.tilt_db,
        )
        return replace(read, gain=read.gain * 10 ** ((2 * gain - 1) * slot.any_gain_db / 20), effects=effects)

    def _start(self, song: CatalogueRow, place: float) -> int:
        """First frame of a crop, `place` in [0, 1) running over all starts of a song."""
        return _start_frame(song.frames, self.crop_frames, place)

    def _permuted_slots(self, epoch: int) -> np.ndarray:
        words = _words(self.seed, epoch, (0, 0, 1, 0), self.items_per_epoch)
        return np.argsort(words, kind="stable")


@dataclass(frozen=True)
class _Lenders:
    """The songs that lend one stem to others, by how long it is heard in them."""

    stem: Role
    songs: tuple[CatalogueRow, ...]
    ends: tuple[int, ...]
    """Frames in which it is heard, added up from the first song on."""

    @classmethod
    def of(cls, songs: Sequence[CatalogueRow], stem: Role) -> "_Lenders":
        """Songs where it is silent lend none; where all are silent there is nothing else."""
        having = [song for song in songs if stem in song.roles]
        having = [song for song in having if _heard_frames(song, stem)] or having
        heard = (_heard_frames(song, stem) or song.frames for song in having)
        return cls(stem, tuple(having), tuple(itertools.accumulate(heard)))

    def at(self, place: float, crop_frames: int) -> tuple[CatalogueRow, int]:
        """The song at a place in [0, 1) of all that is heard, and the first frame of a crop of it.

        One number chooses the song, weighted by how long it is heard, and with what is left of it the place.
        """
        at = place * self.ends[-1]
        number = min(bisect.bisect_right(self.ends, at), len(self.songs) - 1)
        song = self.songs[number]
        within = 1 - (self.ends[number] - at) / (_heard_frames(song, self.stem) or song.frames)
        if _runs(song, self.stem):
            return song, self._heard_start(song, within, crop_frames)
        return song, _start_frame(song.frames, crop_frames, within)

    def _heard_start(self, song: CatalogueRow, place: float, crop_frames: int) -> int:
        """First frame of a crop in whose middle the stem is heard, `place` running over all frames where it is."""
        heard = _heard_frames(song, self.stem)
        left = min(int(place * heard), heard - 1)
        for first, end in _runs(song, self.stem) or ():
            if left < end - first:
                break
            left -= end - first
        return min(max(first + left - crop_frames // 2, 0), max(song.frames - crop_frames, 0))


def stem_names(objective: ObjectiveSpec) -> tuple[str, ...]:
    """Stems that an objective reads, as a user is told of them."""
    told: dict[Role, str] = {"mixture": "a mixture (stored unless turned off)"}
    return tuple(told.get(stem, stem) for stem in objective.signals.stems)


def shards_read(manifest: Manifest, objective: ObjectiveSpec) -> frozenset[str]:
    """Shards that a run with this objective may read: those of songs for training and validation."""
    return frozenset(
        stem.shard
        for song in manifest.songs
        if song.split in ("train", "valid")
        for role, stem in song.stems.items()
        if role in objective.signals.stems
    )


def catalogue_of(manifest: Manifest, split: Split) -> tuple[CatalogueRow, ...]:
    """Songs of a split as the order needs them."""
    return tuple(
        CatalogueRow(
            song.id,
            tuple(sorted(song.stems)),
            song.frames,
            song.stems["vocals"].audible if "vocals" in song.stems else None,
        )
        for song in manifest.songs
        if song.split == split
    )


def fixed_items(
    manifest: Manifest, objective: ObjectiveSpec, crop_frames: int, count: int, split: Split = "valid"
) -> tuple[Item, ...]:
    """Crops for validation, the same in every run: spread evenly over the split's songs, with their own stems.

    Where two slots read the same stem, the second has it of the next song, and so on. What an objective adds in
    training alone is not there.

    Returns:
        `count` items, or none where no song of the split has the stems that the objective needs.
    """
    slots = [slot for slot in objective.signals.slots if not slot.beside]
    songs = [song for song in sorted(catalogue_of(manifest, split)) if {slot.stem for slot in slots} <= {*song.roles}]
    if not songs:
        return ()
    ends = list(itertools.accumulate(song.frames for song in songs))
    items = []
    for index in range(count):
        at = (index + 0.5) / count * ends[-1]
        number = bisect.bisect_right(ends, at)
        place = 1 - (ends[number] - at) / songs[number].frames
        read_before: Counter[str] = Counter()
        reads = []
        for slot in slots:
            song = songs[(number + read_before[slot.stem]) % len(songs)]
            read_before[slot.stem] += 1
            start = _start_frame(song.frames, crop_frames, place)
            reads.append(Read(song.id, slot.stem, start, min(crop_frames, song.frames), slot=slot.name))
        items.append(Item(index, 0, crop_frames, tuple(reads)))
    return tuple(items)


def cut(first: int, shares: Sequence[int]) -> list[tuple[int, int]]:
    """Contiguous ranges `(first, end)` of items for the ranks, in rank order.

    Args:
        first: first item of the step.
        shares: items of each rank; they sum to the recipe's global batch, and may be 0.
    """
    ends = list(itertools.accumulate(shares, initial=first))
    return list(itertools.pairwise(ends))


def _runs(song: CatalogueRow, stem: Role) -> tuple[tuple[int, int], ...] | None:
    """Where the stem is heard; None where that is not known."""
    return song.audible if stem == "vocals" else None


def _heard_frames(song: CatalogueRow, stem: Role) -> int:
    """Frames from which the stem is drawn."""
    runs = _runs(song, stem)
    return song.frames if runs is None else sum(end - first for first, end in runs)


def _start_frame(frames: int, crop_frames: int, place: float) -> int:
    starts = max(1, frames - crop_frames + 1)
    return min(int(place * starts), starts - 1)


def _words(seed: int, epoch: int, counter: tuple[int, int, int, int], count: int) -> np.ndarray:
    """`count` raw 64-bit words of Philox from a counter on; word 0 of the counter counts up as they are drawn."""
    generator = np.random.Philox(key=np.array([seed, epoch], np.uint64), counter=np.array(counter, np.uint64))
    return generator.random_raw(count)


def _uniform(seed: int, epoch: int, counter: tuple[int, int, int, int], count: int) -> list[float]:
    """Numbers in [0, 1) with 53 bits."""
    values: list[float] = ((_words(seed, epoch, counter, count) >> np.uint64(11)) * 2.0**-53).tolist()
    return values
