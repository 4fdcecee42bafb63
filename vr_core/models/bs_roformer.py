"""BS-RoFormer: bands side by side, and one norm before the masks (`vr_core/models/roformer.py` has the rest)."""

from vr_core.models.roformer import Roformer
from vr_core.specs.heads import HeadSpec
from vr_core.specs.models import BsRoformerSpec


class BsRoformer(Roformer):
    """Of Lu et al. 2023, with the published code's differences from the paper."""

    def __init__(self, spec: BsRoformerSpec, bins: int, head: HeadSpec) -> None:
        super().__init__(spec, bins, head, norm_each=False)
