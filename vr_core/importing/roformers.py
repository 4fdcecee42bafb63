"""RoFormers as the community trains them: every setting but hop, chunk and stems follows from the shapes."""

import re
from typing import Any

from vr_core.errors import ConfigError
from vr_core.importing.layout import Layout, NotBuilt, Shapes, stft_of
from vr_core.importing.said import Said
from vr_core.specs.models import BsRoformerSpec, MelRoformerSpec
from vr_core.specs.stft import StftSpec

HOP = 441
"""Of nearly all published files."""
CHUNK_S = 8
_BIN_NUMBERS = 4
"""Real numbers of a bin in a band: two channels, real and imaginary."""
_WITHOUT_TENSORS = {
    "stft_normalized": "normalised spectrograms (stft_normalized)",
    "skip_connection": "a RoFormer with sums of earlier blocks (skip_connection)",
}
"""Keys of a YAML that change what a model computes and none of its tensors → what it is then."""


def bs_roformer(shapes: Shapes, said: Said) -> Layout | None:
    """Bands side by side, one norm at the end."""
    if not _has_bands(shapes) or "final_norm.gamma" not in shapes:
        return None
    bands = [width // _BIN_NUMBERS for width in _band_widths(shapes)]
    stft, notes = _stft(2 * (sum(bands) - 1), said)
    usual = tuple(map(len, BsRoformerSpec(stft=stft).bands_of(sum(bands))))
    spec = BsRoformerSpec(
        **_common(shapes), bands=() if tuple(bands) == usual else tuple(bands), stft=stft, zero_dc=_zero_dc(said)
    )
    stated = {"mask_estimator_depth": spec.mask_hidden_layers + 1, "freqs_per_bands": bands}
    return _layout(spec, shapes, stated, notes)


def mel_roformer(shapes: Shapes, said: Said) -> Layout | None:
    """Mel bands, which overlap; a norm after each transformer."""
    if not _has_bands(shapes) or "layers.0.0.norm.gamma" not in shapes:
        return None
    stft, notes = _stft(said.n_fft or StftSpec().n_fft, said)
    widths = _band_widths(shapes)
    spec = MelRoformerSpec(**_common(shapes), mel_bands=len(widths), stft=stft, zero_dc=_zero_dc(said))
    own = [_BIN_NUMBERS * len(band) for band in spec.bands_of(stft.bins + 1)]
    if own != widths:
        raise ConfigError(
            f"{said.origin}: an STFT of {stft.n_fft} at {stft.sample_rate_hz} Hz gives other mel bands than the "
            "tensors have; give the file's YAML with --config, or its size with --n-fft"
        )
    stated = {"mask_estimator_depth": spec.mask_hidden_layers, "num_bands": len(widths)}
    return _layout(spec, shapes, stated, notes)


def _has_bands(shapes: Shapes) -> bool:
    return "band_split.to_features.0.0.gamma" in shapes and "mask_estimators.0.to_freqs.0.0.0.weight" in shapes


def _band_widths(shapes: Shapes) -> list[int]:
    count = _count(shapes, r"band_split\.to_features\.(\d+)\.")
    widths = [shapes[f"band_split.to_features.{i}.0.gamma"][0] for i in range(count)]
    if any(width % _BIN_NUMBERS for width in widths):
        raise NotBuilt("a mono RoFormer")
    return widths


def _zero_dc(said: Said) -> bool:
    return bool(said.model.get("zero_dc", True))


def _stft(n_fft: int, said: Said) -> tuple[StftSpec, tuple[str, ...]]:
    for key, what in _WITHOUT_TENSORS.items():
        if said.model.get(key):
            raise NotBuilt(what)
    window = said.model.get("stft_win_length", n_fft)
    if window != n_fft:
        raise NotBuilt(f"windows of {window} samples in an STFT of {n_fft} (stft_win_length)")
    return stft_of(n_fft, HOP, said)


def _common(shapes: Shapes) -> dict[str, Any]:
    """Settings that both have."""
    first = "layers.0.0.layers.0"
    if "layers.0.2.layers.0.0.norm.gamma" in shapes:
        raise NotBuilt("linear attention (linear_transformer_depth)")
    if any(name.startswith(("layers.0.0.layers.1.", "layers.0.1.layers.1.")) for name in shapes):
        raise NotBuilt("several transformers in a row over time or bands (time_transformer_depth)")
    width = shapes["band_split.to_features.0.1.weight"][0]
    heads = shapes[f"{first}.0.to_gates.weight"][0]
    hidden = _count(shapes, r"mask_estimators\.0\.to_freqs\.0\.0\.(\d+)\.weight") // 2
    return {
        "width": width,
        "blocks": _count(shapes, r"layers\.(\d+)\."),
        "heads": heads,
        "head_width": shapes[f"{first}.0.to_qkv.weight"][0] // (3 * heads),
        "expansion": shapes[f"{first}.1.net.1.weight"][0] // width,
        "mask_hidden_layers": hidden,
        "mask_expansion": shapes["mask_estimators.0.to_freqs.0.0.0.weight"][0] // width if hidden else 4,
    }


def _layout(
    spec: BsRoformerSpec | MelRoformerSpec, shapes: Shapes, stated: dict[str, Any], notes: tuple[str, ...]
) -> Layout:
    stems = _count(shapes, r"mask_estimators\.(\d+)\.")
    stft = spec.stft
    return Layout(
        model=spec,
        stft=stft,
        head="complex_mask",
        stem_count=stems,
        default_frames=CHUNK_S * stft.sample_rate_hz // stft.hop + 1,
        stated={
            "dim": spec.width, "depth": spec.blocks, "heads": spec.heads, "dim_head": spec.head_width,
            "num_stems": stems, "stereo": True, "time_transformer_depth": 1, "freq_transformer_depth": 1,
            "linear_transformer_depth": 0, "dim_freqs_in": stft.bins + 1, **stated,
        },
        notes=notes,
    )  # fmt: skip


def _count(shapes: Shapes, pattern: str) -> int:
    """One more than the greatest number in this place of a name."""
    return max((int(found[1]) for name in shapes if (found := re.match(pattern, name))), default=-1) + 1
