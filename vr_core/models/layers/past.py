"""The frames that a causal model has heard, so that it can be given a song in pieces of any length."""

import torch
from torch import Tensor, nn

from vr_core.errors import ModelError


class Past:
    """What each layer needs of earlier frames, kept from one piece to the next.

    A convolution keeps as many frames as its kernel reaches back, attention all its keys and values: memory grows with
    the song by `2 · width` numbers a frame and attention. A `Past` is of one batch of songs and one model. No gradient
    reaches earlier pieces.
    """

    def __init__(self) -> None:
        """Nothing has been heard."""
        self._kept: dict[tuple[nn.Module, str], Tensor] = {}

    def frames(self, layer: nn.Module, name: str, dim: int) -> int:
        """How many frames of `name` are kept for a layer, along `dim`."""
        kept = self._kept.get((layer, name))
        return 0 if kept is None else kept.shape[dim]

    def joined(self, layer: nn.Module, name: str, new: Tensor, dim: int, most: int | None = None) -> Tensor:
        """What is kept for a layer with `new` after it along `dim`; of that, the last `most` are kept for next time."""
        kept = self._kept.get((layer, name))
        whole = new if kept is None else torch.cat([kept, new], dim=dim)
        count = whole.shape[dim]
        first = 0 if most is None else max(0, count - most)
        last = whole.narrow(dim, first, count - first).detach()
        # A view would hold all that it is a part of.
        self._kept[layer, name] = last.clone() if kept is None or first else last
        return whole


def require_causal(past: Past | None, *, causal: bool) -> None:
    """Check that what was heard can be told from what comes.

    Raises:
        ModelError: there is a past, and the model is not causal.
    """
    if past is not None and not causal:
        raise ModelError(
            "a model that hears later frames cannot be given a song in pieces; train one with model.causal"
        )
