"""tsurumeso's vocal-remover: files of v5 and v6."""

from vr_core.importing.layout import Layout, Shapes
from vr_core.importing.said import Said


def cascaded_net(shapes: Shapes, said: Said) -> Layout | None:
    """Two stages of U-Nets over bands, one over all."""
    return None
