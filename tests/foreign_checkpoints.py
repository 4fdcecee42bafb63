"""Checkpoints as the community's trainers write them, from a list of names and shapes that none of our models made."""

import math
from collections.abc import Sequence

import torch

BS_BANDS = [2] * 24 + [4] * 12 + [12] * 8 + [24] * 8 + [48] * 8 + [128, 129]


def mel_band_bins(bands: int = 60, n_fft: int = 2048, rate_hz: int = 44_100) -> list[int]:
    """Bins of each band: where librosa's filters are above zero, the first and the last bin besides."""
    import librosa

    inside = librosa.filters.mel(sr=rate_hz, n_fft=n_fft, n_mels=bands) > 0
    inside[0, 0] = inside[-1, -1] = True
    return [int(row.sum()) for row in inside]


def roformer(
    kind: str, *, dim: int = 16, depth: int = 1, heads: int = 2, stems: int = 1, bands: Sequence[int] = BS_BANDS
) -> dict[str, torch.Tensor]:
    """A `bs` or `mel` RoFormer's state dict of small random values."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(depth):
        for axis in (0, 1):
            at = f"layers.{layer}.{axis}"
            shapes |= {
                f"{at}.layers.0.0.rotary_embed.freqs": (32,),
                f"{at}.layers.0.0.norm.gamma": (dim,),
                f"{at}.layers.0.0.to_qkv.weight": (3 * 64 * heads, dim),
                f"{at}.layers.0.0.to_gates.weight": (heads, dim),
                f"{at}.layers.0.0.to_gates.bias": (heads,),
                f"{at}.layers.0.0.to_out.0.weight": (dim, 64 * heads),
                f"{at}.layers.0.1.net.0.gamma": (dim,),
                f"{at}.layers.0.1.net.1.weight": (4 * dim, dim),
                f"{at}.layers.0.1.net.1.bias": (4 * dim,),
                f"{at}.layers.0.1.net.4.weight": (dim, 4 * dim),
                f"{at}.layers.0.1.net.4.bias": (dim,),
            }
            if kind == "mel":
                shapes[f"{at}.norm.gamma"] = (dim,)
    if kind == "bs":
        shapes["final_norm.gamma"] = (dim,)
    for i, bins in enumerate(bands):
        shapes |= {
            f"band_split.to_features.{i}.0.gamma": (4 * bins,),
            f"band_split.to_features.{i}.1.weight": (dim, 4 * bins),
            f"band_split.to_features.{i}.1.bias": (dim,),
        }
        for stem in range(stems):
            widths = [dim, *[4 * dim] * (1 if kind == "bs" else 2), 8 * bins]
            for j, (a, b) in enumerate(zip(widths, widths[1:], strict=False)):
                at = f"mask_estimators.{stem}.to_freqs.{i}.0.{2 * j}"
                shapes |= {f"{at}.weight": (b, a), f"{at}.bias": (b,)}
    generator = torch.Generator().manual_seed(0)
    state = {n: torch.randn(s, generator=generator) / math.sqrt(s[-1]) for n, s in shapes.items()}
    return {n: 1 + 0.1 * t if n.endswith("gamma") else _FREQS.clone() if n.endswith("freqs") else t
            for n, t in state.items()}  # fmt: skip


_FREQS = 10_000.0 ** -(torch.arange(0, 64, 2) / 64)
