"""From a model's spec to the model: one literal dict, the YAML tag is the key."""

from collections.abc import Callable
from typing import Any

from torch import nn

from vr_core.models.dense_frame_transformer import DenseFrameTransformer
from vr_core.models.plain_stack import PlainStack
from vr_core.specs.models import ModelSpec

MODELS: dict[str, Callable[[Any, int], nn.Module]] = {
    "dense_frame_transformer": DenseFrameTransformer,
    "plain_stack": PlainStack,
}


def build(spec: ModelSpec, bins: int) -> nn.Module:
    """The model of `spec` for spectrograms of `bins` bins, freshly initialised from torch's global generator.

    Its `forward(magnitude, draws=None)` maps `[batch, channel, bin, frame]` to a mask of the same shape in (0, 1); its
    `layer_prefixes()` names the layers from the input to the output.
    """
    return MODELS[spec.name](spec, bins)
