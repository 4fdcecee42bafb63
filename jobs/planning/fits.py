"""Whether a card has room to train a configuration, and for how many items at once: pure arithmetic."""

from dataclasses import dataclass
from typing import Literal

from vr_core.specs.configurations import Figures

RESERVED_BYTES = 1 << 30
"""Of a card, for the driver, kernels and what the allocator loses."""
TRAINED_BYTES = 20
"""Of a trained parameter in float32: itself, its gradient, AdamW's two moments, its moving average."""
FROZEN_BYTES = 4
LORA_SHARE = 0.02
"""Most that low-rank adaptation trains, as a share of the parameters."""

Way = Literal["whole", "lora", "no"]


@dataclass(frozen=True)
class Fit:
    """Of one configuration on one card."""

    way: Way
    """`lora`: there is room with a frozen body alone."""
    micro_batch: int
    """Most items at once; 0 with `no`."""
    recompute: bool
    """Whether it is so with `model.recompute`."""


def fit(figures: Figures, memory_bytes: float) -> Fit:
    """What a card of so much memory can train, in float32.

    All parameters go before LoRA, and what is kept before what is computed again: that takes a third more time.
    """
    free = memory_bytes - RESERVED_BYTES
    lora_bytes = FROZEN_BYTES + LORA_SHARE * TRAINED_BYTES
    ways: tuple[tuple[Way, float], ...] = (("whole", TRAINED_BYTES), ("lora", lora_bytes))
    for way, parameter_bytes in ways:
        for recompute, item_bytes in ((False, figures.item_bytes), (True, figures.recomputed_bytes)):
            room = free - parameter_bytes * figures.parameters
            if item_bytes is not None and room >= item_bytes:
                return Fit(way, int(room // item_bytes), recompute)
    return Fit("no", 0, False)
