"""The relative term of attention takes memory for pairs of frames, and none for pairs of frames times features.

What is computed is nothing but sizes, on tensors without memory.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vr_core.models.layers.attention import FrameAttention, past_logits, relative_logits

FEATURES = 32
"""Of the one head."""
MOST_BY_PLACE = 8
"""Numbers for each pair of frames, and for each feature of a frame; a gather has one a feature for each pair."""
NUMBER_BYTES = 4


class PeakBytes(TorchDispatchMode):
    """The most bytes that tensors made within it took at once, those of the backward pass among them."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._held: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self._held[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self._held = {key: held for key, held in self._held.items() if not held[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._held.values()))
        return found


def gathered_logits(q: Tensor, vectors: Tensor) -> Tensor:
    """As `relative_logits`, by a vector for each pair of frames."""
    frames = q.shape[-2]
    places = torch.arange(frames, device=q.device)
    return torch.einsum("bhik,hijk->bhij", q, vectors[:, places[None] - places[:, None] + frames - 1])


def of_logits(logits: Callable[[Tensor, Tensor], Tensor], distances: Callable[[int], int]) -> Callable[[int], Tensor]:
    def work(frames: int) -> Tensor:
        q = torch.empty(1, 1, frames, FEATURES, device="meta", requires_grad=True)
        vectors = torch.empty(1, distances(frames), FEATURES, device="meta", requires_grad=True)
        return logits(q, vectors)

    return work


def of_layer(*, causal: bool) -> Callable[[int], Tensor]:
    with torch.device("meta"):
        # Of 512 frames there is a vector for each distance; of 2,048 the far ones share one.
        layer = FrameAttention(FEATURES, 1, max_distance_frames=512, causal=causal, mdha=True)
    return lambda frames: layer(torch.empty(1, frames, FEATURES, device="meta"))


def peak_bytes(work: Callable[[int], Tensor], frames: int) -> int:
    with PeakBytes() as mode:
        work(frames).sum().backward()
    return mode.peak


def most_bytes(frames: int) -> int:
    return NUMBER_BYTES * MOST_BY_PLACE * (frames * FEATURES + frames**2)


def both_sides(frames: int) -> int:
    return 2 * frames - 1


WAYS = {
    "both sides": of_logits(relative_logits, both_sides),
    "the past": of_logits(past_logits, lambda frames: frames),
    "layer": of_layer(causal=False),
    "causal layer": of_layer(causal=True),
}


@pytest.mark.parametrize("frames", [512, 2048])
@pytest.mark.parametrize("way", WAYS)
def test_memory_is_by_pairs_of_frames_and_by_features_of_a_frame(way: str, frames: int) -> None:
    assert peak_bytes(WAYS[way], frames) <= most_bytes(frames)


@pytest.mark.parametrize("frames", [512, 2048])
def test_a_gather_of_vectors_takes_more(frames: int) -> None:
    assert peak_bytes(of_logits(gathered_logits, both_sides), frames) > most_bytes(frames)


def test_peak_is_of_what_is_held_at_once() -> None:
    def work(frames: int) -> Tensor:
        x = torch.ones(frames, requires_grad=True)
        for _ in range(8):
            x = x + 1  # the sum before it is held by nobody
        return x

    assert 2 * 4000 <= peak_bytes(work, 1000) <= 3 * 4000 + 8
