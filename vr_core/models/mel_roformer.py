"""Mel-band RoFormer: bands on the mel scale, which overlap (`vr_core/models/roformer.py` has the rest).

Wang et al., "Mel-band RoFormer for music source separation", 2023 (arXiv:2310.01809). A bin is in one band or in two;
what its bands say of it is averaged, before any sigmoid. As in the published code, and other than in BS-RoFormer, a
norm follows each transformer, none stands before the masks, and a mask has one hidden layer more.
"""

from vr_core.models.roformer import Roformer
from vr_core.specs.heads import HeadSpec
from vr_core.specs.models import MelRoformerSpec


class MelRoformer(Roformer):
    """As published, with bands for any STFT (`MelRoformerSpec.bands_of`)."""

    def __init__(self, spec: MelRoformerSpec, bins: int, head: HeadSpec) -> None:
        super().__init__(spec, bins, head, norm_each=True)
