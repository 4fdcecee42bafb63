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
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from dataprep.errors import ManifestError
from dataprep.roles import Role, Split
from dataprep.shards.manifest import Manifest
from vr_core.specs.objectives import ObjectiveSpec, SeparateSpec


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


@dataclass(frozen=True)
class Item:
    """One training example: reads that are added up."""

    index: int
    """Position in the endless order; keys everything that is drawn for this item later on."""
    epoch: int
    crop_frames: int
    reads: tuple[Read, ...]


# Which of an item's numbers decides what; new ones are added at the end, so that the others keep their values.
_START, _REMIX, _VOCALS, _GAIN, _SWAP_INSTRUMENTAL, _SWAP_VOCALS, _SILENT, _DRAWS = range(8)


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
        self._anchor = roles_of(objective)[0]
        self._songs = [song for song in songs if self._anchor in song.roles]
        self._vocals = [song for song in songs if "vocals" in song.roles]
        # Songs without a voice lend none; where all are silent there is nothing else.
        self._vocals = [song for song in self._vocals if _heard_frames(song)] or self._vocals
        if not self._songs or (self._anchor == "instrumental" and not self._vocals):
            raise ManifestError(
                f"no song for training has what the objective {objective.name} needs: "
                + (
                    "instrumental and vocals"
                    if self._anchor == "instrumental"
                    else "a mixture (stored unless turned off)"
                )
                + "; `vr data inspect` shows what is there"
            )
        self._slot_ends = list(itertools.accumulate(max(1, song.frames // crop_frames) for song in self._songs))
        self._vocals_ends = list(itertools.accumulate(_heard_frames(song) or song.frames for song in self._vocals))
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
        u = _uniform(self.seed, epoch, (0, place, 0, 0), _DRAWS)
        # The slot's share of all starts, not of the frames: every start is as likely as any other.
        start = self._start(song, (slot - self._slot_ends[number] + slots + u[_START]) / slots)
        anchor = Read(song.id, self._anchor, start, min(self.crop_frames, song.frames))
        reads: tuple[Read, ...] = (anchor,)
        if isinstance(self.objective, SeparateSpec):
            reads = self._augmented(self.objective, song, anchor, u)
        return Item(index, epoch, self.crop_frames, reads)

    def _augmented(self, spec: SeparateSpec, song: CatalogueRow, anchor: Read, u: Sequence[float]) -> tuple[Read, ...]:
        """Instrumental, and vocals of its own or from anywhere."""
        swap = u[_SWAP_INSTRUMENTAL] < spec.swap_channels
        instrumental = Read(anchor.song, anchor.role, anchor.start_frame, anchor.frames, swap=swap)
        if u[_SILENT] < spec.silent_vocals:
            return (instrumental,)
        other, start, gain = song, anchor.start_frame, 1.0
        if u[_REMIX] < spec.remix or "vocals" not in song.roles:
            # One number chooses the song, weighted by how long it is heard, and with what is left of it the place.
            at = u[_VOCALS] * self._vocals_ends[-1]
            number = min(bisect.bisect_right(self._vocals_ends, at), len(self._vocals) - 1)
            other = self._vocals[number]
            place = 1 - (self._vocals_ends[number] - at) / (_heard_frames(other) or other.frames)
            start = self._heard_start(other, place) if other.audible else self._start(other, place)
            gain = 10 ** ((2 * u[_GAIN] - 1) * spec.gain_db / 20)
        frames = min(self.crop_frames, other.frames - start)
        return instrumental, Read(other.id, "vocals", start, frames, gain, u[_SWAP_VOCALS] < spec.swap_channels)

    def _start(self, song: CatalogueRow, place: float) -> int:
        """First frame of a crop, `place` in [0, 1) running over all starts of a song."""
        return _start_frame(song.frames, self.crop_frames, place)

    def _heard_start(self, song: CatalogueRow, place: float) -> int:
        """First frame of a crop in whose middle vocals are heard, `place` running over all frames where they are."""
        left = min(int(place * _heard_frames(song)), _heard_frames(song) - 1)
        for first, end in song.audible or ():
            if left < end - first:
                break
            left -= end - first
        return min(max(first + left - self.crop_frames // 2, 0), max(song.frames - self.crop_frames, 0))

    def _permuted_slots(self, epoch: int) -> np.ndarray:
        words = _words(self.seed, epoch, (0, 0, 1, 0), self.items_per_epoch)
        return np.argsort(words, kind="stable")


def roles_of(objective: ObjectiveSpec) -> tuple[Role, ...]:
    """Stems that an objective reads; crops are cut along the first."""
    return ("instrumental", "vocals") if isinstance(objective, SeparateSpec) else ("mixture",)


def shards_read(manifest: Manifest, objective: ObjectiveSpec) -> frozenset[str]:
    """Shards that a run with this objective may read: those of songs for training and validation."""
    return frozenset(
        song.stems[role].shard
        for song in manifest.songs
        if song.split in ("train", "valid")
        for role in roles_of(objective)
        if role in song.stems
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
    """Crops for validation, the same in every run: spread evenly over the split's songs, with their own vocals.

    Returns:
        `count` items, or none where no song of the split has the stems that the objective needs.
    """
    roles = roles_of(objective)
    songs = [song for song in sorted(catalogue_of(manifest, split)) if set(roles) <= set(song.roles)]
    if not songs:
        return ()
    ends = list(itertools.accumulate(song.frames for song in songs))
    items = []
    for index in range(count):
        at = (index + 0.5) / count * ends[-1]
        number = bisect.bisect_right(ends, at)
        song = songs[number]
        start = _start_frame(song.frames, crop_frames, 1 - (ends[number] - at) / song.frames)
        reads = tuple(Read(song.id, role, start, min(crop_frames, song.frames)) for role in roles)
        items.append(Item(index, 0, crop_frames, reads))
    return tuple(items)


def cut(first: int, shares: Sequence[int]) -> list[tuple[int, int]]:
    """Contiguous ranges `(first, end)` of items for the ranks, in rank order.

    Args:
        first: first item of the step.
        shares: items of each rank; they sum to the recipe's global batch, and may be 0.
    """
    ends = list(itertools.accumulate(shares, initial=first))
    return list(itertools.pairwise(ends))


def _heard_frames(song: CatalogueRow) -> int:
    """Frames from which vocals are drawn."""
    return song.frames if song.audible is None else sum(end - first for first, end in song.audible)


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
