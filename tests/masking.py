"""Models of tests that answer with one mask."""

from abc import abstractmethod

from torch import Tensor

from vr_core.draws import Draws
from vr_core.models.heads import Answer
from vr_core.models.model import Model
from vr_core.specs.heads import MASK


class Masking(Model):
    head = MASK

    def forward(self, magnitude: Tensor, draws: Draws | None = None) -> Answer:
        return {"mask": self.mask(magnitude)[:, None]}

    @abstractmethod
    def mask(self, magnitude: Tensor) -> Tensor: ...

    def features(self, heard: Tensor, draws: Draws | None = None) -> Tensor:
        return heard.abs().permute(0, 3, 1, 2).flatten(2)

    def layer_prefixes(self) -> tuple[str, ...]:
        return ()


def mask_of(model: Model, magnitude: Tensor, draws: Draws | None = None) -> Tensor:
    """`[item, channel, bin, frame]`."""
    return model(magnitude, draws)[model.head.kind][:, 0]
