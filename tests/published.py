"""Small models of published architectures, with weights and songs that follow from names and seeds.

No import of ours: the environment of `tests.bench.equal`, which has the published packages, reads this as well.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

RECORDED = Path(__file__).parent / "recorded" / "published"
"""`NAME.safetensors` for each case, with one tensor `said`, and the digest of names and shapes."""


class Case(NamedTuple):
    """One model: how the published package makes it, and what ours is asked for."""

    kind: str
    published: dict[str, Any]
    spec: dict[str, Any]
    head: dict[str, Any]
    hop: int
    frames: int


_ROFORMER = {
    "dim": 16, "depth": 2, "stereo": True, "time_transformer_depth": 1, "freq_transformer_depth": 1, "heads": 2,
    "dim_head": 8, "stft_hop_length": 441, "flash_attn": False, "mask_estimator_depth": 2,
}  # fmt: skip
_OURS = {"width": 16, "blocks": 2, "heads": 2, "head_width": 8, "zero_dc": False}
"""audio-separator 0.47.1 has `zero_dc` and does not heed it."""

CASES = {
    "bs_roformer": Case("bs_roformer", _ROFORMER, _OURS, {"kind": "complex_mask"}, 441, 22),
    "bs_roformer-2-stems": Case(
        "bs_roformer", _ROFORMER | {"num_stems": 2}, _OURS,
        {"kind": "complex_mask", "stems": ("vocals", "instrumental")}, 441, 22,
    ),
    "mel_roformer": Case("mel_roformer", _ROFORMER, _OURS, {"kind": "complex_mask"}, 441, 22),
    "cascaded_net": Case(
        "cascaded_net", {"n_fft": 2048, "nout": 8, "nout_lstm": 8},
        {"channels": 8, "lstm": 8, "norm": "frozen_batch", "auxiliary": True, "stft": {"n_fft": 2048, "hop": 1024}},
        {"kind": "mask"}, 1024, 32,
    ),
}  # fmt: skip


def song(case: Case) -> Tensor:
    """`[channel, sample]`: noise, and zeros for its last hop, as our own STFT puts them there."""
    samples = (case.frames - 1) * case.hop
    noise = torch.randn(2, samples, generator=torch.Generator().manual_seed(1)) * 0.1
    noise[:, -case.hop :] = 0
    return noise


def fill(state: Mapping[str, Tensor]) -> None:
    """Other values into all trained tensors and statistics, by the order of their names; counts and rotary stay."""
    for number, name in enumerate(sorted(state)):
        tensor = state[name]
        noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(number))
        if not tensor.is_floating_point() or name.endswith("rotary_embed.freqs"):
            continue
        if name.endswith("running_var"):
            tensor.copy_(0.5 + 0.1 * noise.abs())
        elif tensor.ndim > 1:
            tensor.copy_(noise * (tensor.shape[0] / tensor.numel()) ** 0.5)
        else:
            tensor.copy_(0.1 * noise + float(name.endswith(("gamma", ".1.weight"))))


def digest(state: Mapping[str, Tensor]) -> str:
    """Of names and shapes."""
    lines = [f"{name} {list(state[name].shape)}" for name in sorted(state)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
