"""Counter-based random numbers: the same values for the same (seed, epoch, item, layer) on any device, in any cut.

No model draws from a global generator. A `Draws` holds one 64-bit key an item; `fold` derives keys for a layer or a
position, and `uniform` numbers the elements of each item from zero. The mixing function is the 32-bit finaliser
"lowbias32" of Chris Wellons' hash prospector; three rounds of it over key halves and element number.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF


class Draws:
    """One stream of random numbers for each item of a batch."""

    def __init__(self, keys: Tensor) -> None:
        """Streams from keys `[item]` (int64), any values."""
        self.keys = keys

    @classmethod
    def of_items(cls, seed: int, items: Sequence[int], device: torch.device | str = "cpu") -> "Draws":
        """Streams of the items at these positions of the endless order; a position contains its epoch."""
        positions = torch.tensor(items, dtype=torch.int64, device=device)
        return cls(_mix(positions & _MASK, _mix(positions >> 32, torch.full_like(positions, seed))) | (positions << 32))

    def fold(self, number: int | Tensor) -> "Draws":
        """Streams for one layer (an int) or one position each (`[item]`), independent of these."""
        folded = torch.as_tensor(number, dtype=torch.int64, device=self.keys.device)
        low = _mix(self.keys & _MASK, folded)
        return Draws(low | (_mix(self.keys >> 32 & _MASK, low) << 32))

    def __getitem__(self, rows: Tensor) -> "Draws":
        """Streams of some items; `rows` as an index into `[item]`."""
        return Draws(self.keys[rows])

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """`[item, *shape]` float32 in [0, 1), in steps of 2^-24."""
        count = torch.arange(math.prod(shape), dtype=torch.int64, device=self.keys.device)
        low, high = self.keys & _MASK, self.keys >> 32 & _MASK
        bits = _mix(count[None, :] ^ low[:, None], high[:, None])
        return ((bits >> 8).to(torch.float32) * 2.0**-24).reshape(-1, *shape)

    def dropout(self, x: Tensor, rate: float) -> Tensor:
        """`x` `[item, ...]` with a share `rate` of its elements zeroed and the rest scaled by 1/(1-rate)."""
        keep = self.uniform(x.shape[1:]) >= rate
        return x * (keep.to(x.dtype) * (1.0 / (1.0 - rate)))


def _mix(value: Tensor, key: Tensor) -> Tensor:
    """32-bit hash of `value` under `key`, both int64 in [0, 2^32)."""
    x = _finalise(value)
    return _finalise((x + (key & _MASK)) & _MASK)


def _finalise(x: Tensor) -> Tensor:
    # int64 products wrap modulo 2^64; their low 32 bits are exact.
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _MASK
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _MASK
    return x ^ (x >> 16)
