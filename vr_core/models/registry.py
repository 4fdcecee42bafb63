"""From a model's spec to the model: one literal dict, the YAML tag is the key."""

from collections.abc import Callable
from typing import Any

from vr_core.models.bs_roformer import BsRoformer
from vr_core.models.cascaded_net import CascadedNet
from vr_core.models.dense_frame_transformer import DenseFrameTransformer
from vr_core.models.frame_unet import FrameUNet
from vr_core.models.mel_roformer import MelRoformer
from vr_core.models.mmdenselstm import MMDenseLstm
from vr_core.models.mmdensenet import MMDenseNet
from vr_core.models.model import Model
from vr_core.models.plain_stack import PlainStack
from vr_core.models.seed_frame_transformer import SeedFrameTransformer
from vr_core.models.unet import UNet
from vr_core.specs.heads import MASK, HeadSpec
from vr_core.specs.models import ModelSpec

MODELS: dict[str, Callable[[Any, int, HeadSpec], Model]] = {
    "bs_roformer": BsRoformer,
    "cascaded_net": CascadedNet,
    "dense_frame_transformer": DenseFrameTransformer,
    "frame_unet": FrameUNet,
    "mel_roformer": MelRoformer,
    "mmdenselstm": MMDenseLstm,
    "mmdensenet": MMDenseNet,
    "plain_stack": PlainStack,
    "seed_frame_transformer": SeedFrameTransformer,
    "unet": UNet,
}


def build(spec: ModelSpec, bins: int, head: HeadSpec = MASK) -> Model:
    """The model of `spec` for spectrograms of `bins` bins, freshly initialised from torch's global generator.

    It answers what `head` asks for.
    """
    model = MODELS[spec.name](spec, bins, head)
    model.answer_scale = spec.answer_scale
    return model
