"""What an objective needs of a data set: signals of an item, and the sounds that are made of them. Without torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Stem = Literal["vocals", "instrumental", "mixture"]


@dataclass(frozen=True)
class Slot:
    """One signal of an item, and how the order of items draws it.

    The first slot of an objective is the anchor: crops are cut along its songs, and an epoch visits all of them. The
    others have the anchor's song and place, or, for a share of the items, those of another song.
    """

    name: str
    """Key of its frames in an item and in a batch; two slots may read the same stem."""
    stem: Stem
    """Which stem of a song."""
    elsewhere: float = 0.0
    """Share of items whose signal is from another song or place; also where the anchor's song has no such stem."""
    gain_db: float = 0.0
    """One from elsewhere gets a gain, drawn uniformly from ± so many decibels."""
    swap_channels: float = 0.0
    """Share of items whose left and right are exchanged."""
    silent: float = 0.0
    """Share of items without it."""


@dataclass(frozen=True)
class Signals:
    """All that an objective needs of an item."""

    slots: tuple[Slot, ...]
    """The anchor first."""
    sounds: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Name of a sound → the slots that add up to it."""
    phase: bool = False
    """Whether complex spectrograms are needed; magnitudes alone cost much less."""

    @property
    def stems(self) -> tuple[Stem, ...]:
        """Stems that are read, each once, the anchor's first."""
        return tuple(dict.fromkeys(slot.stem for slot in self.slots))
