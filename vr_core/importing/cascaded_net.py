"""tsurumeso's vocal-remover: files of v5 and v6, which come without a YAML."""

from vr_core.importing.layout import Layout, NotBuilt, Shapes, stft_of
from vr_core.importing.said import INSTRUMENTAL, VOCALS, Said
from vr_core.specs.models import CascadedNetSpec
from vr_core.specs.stft import StftSpec

_FRAMES = 256
"""Of its training's crops, the 64 of context at either side included."""
_MAPS = 2
"""Of a real mask: two channels."""


def cascaded_net(shapes: Shapes, said: Said) -> Layout | None:
    """Two stages of U-nets over bands, and one over all."""
    if not {"stg1_low_band_net.0.enc1.conv.0.weight", "out.weight"} <= shapes.keys():
        return None
    maps, channels = shapes["out.weight"][:2]
    phase = shapes["stg1_low_band_net.0.enc1.conv.0.weight"][1] > _MAPS
    lstm_gates, bins = shapes["stg3_full_band_net.lstm_dec2.lstm.weight_ih_l0"]
    n_fft = 4 * bins
    if n_fft & (n_fft - 1) and said.n_fft != n_fft:  # UVR's files have the same names and say nothing else of it
        raise NotBuilt(f"{2 * bins} bins, as UVR's models of several STFTs side by side have")
    stft, notes = stft_of(n_fft, StftSpec().hop, said)
    stems = maps // (_MAPS * (1 + phase))
    spec = CascadedNetSpec(
        channels=channels,
        lstm=lstm_gates // 2,  # four gates of one direction
        norm="frozen_batch",
        phase=phase,
        auxiliary="aux_out.weight" in shapes,
        # Without one of its own it trains on magnitudes as they are stored, where a data set has them.
        stft=stft if phase or stft != StftSpec() else None,
    )
    return Layout(
        model=spec,
        stft=stft,
        head="complex_mask" if phase else "mask",
        stem_count=stems,
        default_frames=_FRAMES,
        stems={1: (INSTRUMENTAL,), 2: (INSTRUMENTAL, VOCALS)}.get(stems),
        notes=notes,
    )
