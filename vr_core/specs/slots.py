"""What an objective needs of a data set: signals of an item, and the sounds that are made of them. Without torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Stem = Literal["vocals", "instrumental", "mixture"]


class Effects(NamedTuple):
    """What is done to one signal of one item (`vr_core.audio.effects`)."""

    invert: bool = False
    """The opposite polarity."""
    channels: Literal["both", "left", "right", "equal"] = "both"
    """Which is heard: one alone, or the mean on both."""
    tilt_db: float = 0.0
    """Gain an octave."""


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
    any_gain_db: float = 0.0
    """A gain wherever it is from, drawn uniformly from ± so many decibels."""
    invert: float = 0.0
    """Share of items whose signal has the opposite polarity."""
    lose_channel: float = 0.0
    """Share of items whose signal is on the left alone, on the right alone, or equal on both, each as often."""
    tilt_db: float = 0.0
    """Its spectrum gets a slope, drawn uniformly from ± so many decibels an octave."""
    beside: str = ""
    """Name of the slot that this one is added to in training: absent where that one is, and in validation."""

    @property
    def has_effects(self) -> bool:
        """Whether `Effects` are drawn for it."""
        return bool(self.invert or self.lose_channel or self.tilt_db)


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
    def altered(self) -> bool:
        """Whether sounds are more than sums of one or two slots as they are stored: they are added with phase then.

        By the objective and not by the batch, so that an item does not depend on the items beside it.
        """
        return any(slot.has_effects or slot.beside for slot in self.slots)

    @property
    def stems(self) -> tuple[Stem, ...]:
        """Stems that are read, each once, the anchor's first."""
        return tuple(dict.fromkeys(slot.stem for slot in self.slots))
