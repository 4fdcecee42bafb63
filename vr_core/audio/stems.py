"""Which stems separation gives of what a model answers, and which of them sum to the mixture. No torch."""

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class GivenStems:
    """The stems of a mixture that a model's answer gives."""

    masked: tuple[str, ...]
    """Those that are the mixture times a mask."""
    rest: str
    """The one that is the mixture minus others, as these are written."""
    rest_of: tuple[str, ...]
    """These others: they and the rest sum to the mixture."""

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.masked, self.rest)

    @property
    def usual(self) -> tuple[str, ...]:
        """What is given unless somebody chooses: instrumental and vocals where both are there, else all."""
        pair = ("instrumental", "vocals")
        return pair if set(pair) <= set(self.names) else self.names

    @property
    def keeper(self) -> str:
        """The one that keeps what the model does not hear: the Nyquist bin, and all above its sample rate's band."""
        return "instrumental" if "instrumental" in self.masked else self.rest

    def needed(self, wanted: Collection[str]) -> tuple[str, ...]:
        """What must be computed for `wanted`: with the rest or the keeper, all that sum to the mixture."""
        whole = {*self.rest_of, self.rest} if {self.rest, self.keeper} & set(wanted) else set()
        return tuple(name for name in self.names if name in whole or name in wanted)


def given_stems(answered: tuple[str, ...]) -> GivenStems:
    """What a model that answers with these stems gives.

    Instrumental and vocals are the mixture's two halves: of one, the other is what it leaves. The instrumental is
    masked and the vocals are the rest whichever the model answers with, so that the two sum to the mixture. Of a model
    that knows neither, all stems and what they leave sum to it.
    """
    if {"instrumental", "vocals"} & set(answered):
        others = tuple(stem for stem in answered if stem not in ("instrumental", "vocals"))
        return GivenStems(("instrumental", *others), "vocals", ("instrumental",))
    return GivenStems(answered, "rest" if "rest" not in answered else "rest_of_mixture", answered)
