"""From a block's name to its parts: one literal dict, the value of `model.block` is the key."""

from collections.abc import Callable

from vr_core.models.blocks.evolved import evolved, evolved_decoder
from vr_core.models.blocks.frame_transformer import frame_transformer
from vr_core.models.blocks.primer import primer, primer_ez
from vr_core.models.blocks.shape import BlockShape
from vr_core.models.layers.part import Part

BLOCKS: dict[str, Callable[[BlockShape], list[Part]]] = {
    "evolved": evolved,
    "evolved_decoder": evolved_decoder,
    "frame_transformer": frame_transformer,
    "primer": primer,
    "primer_ez": primer_ez,
}
