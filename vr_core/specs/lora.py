"""What low-rank adaptation is made from: the schema, without torch."""

from typing import Annotated

from pydantic import Field

from vr_core.config import Spec
from vr_core.specs.bounds import Count, Positive

BLOCKS = "blocks"
"""In place of a pattern: every linear layer of a model between its first layer and its heads."""


class LoraSpec(Spec):
    """Low-rank adaptation (Hu et al. 2021, "LoRA", arXiv:2106.09685): the model stays, and small factors are trained.

    A layer of fewer inputs or outputs than `rank` + 1 is passed over: its factors would be larger than itself.
    """

    patterns: Annotated[tuple[str, ...], Field(min_length=1)] = (BLOCKS,)
    """Linear layers that get factors, as shell patterns of their names: `*.to_qkv`; or `blocks`."""
    rank: Count = 8
    alpha: Positive = 16.0
    """What the factors add counts `alpha` / `rank` times (section 4.1)."""
    whole: tuple[str, ...] = ()
    """Parameters that are trained as they are besides, as shell patterns: `mask_estimators.*`."""
