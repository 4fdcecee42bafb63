"""Which columns each codec stores: all that reading a manifest or a shard needs to know of it.

How frames become columns, and columns frames again, is `dataprep.shards.codecs`, which needs torch.
"""

from collections.abc import Mapping

CHANNELS = 2
COLUMNS: Mapping[str, Mapping[str, str]] = {
    "polar8": {"magnitude": "uint8", "phase": "uint8"},
    "complex16": {"real": "float16", "imag": "float16"},
    "magnitude8": {"magnitude": "uint8"},
}
"""Codec → {column: element type, as numpy, torch and Arrow call it}."""
_ELEMENT_BYTES = {"uint8": 1, "float16": 2}


def has_phase(codec: str) -> bool:
    """Whether complex spectrograms can be made of what it stores."""
    return len(COLUMNS[codec]) > 1


def bin_bytes(codec: str) -> int:
    """What a bin of a channel takes."""
    return sum(_ELEMENT_BYTES[kind] for kind in COLUMNS[codec].values())
