"""How fast a card computes what a run and a separation ask of it."""

import itertools
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.bench.attention import FRAMES, ways
from tests.bench.models import training_step
from tests.gpu.clock import device_s
from vr_core.audio.separate import WindowSpec, separate
from vr_core.models.figures import figures_of, unheard
from vr_core.models.model import Model
from vr_core.models.registry import build
from vr_core.specs.configurations import CONFIGURATIONS, Configuration

TRAINED = {"dense_frame_transformer/home": 8, "bs_roformer/256x12": 1}
"""Configuration → items of a step, of its usual crop."""
SEPARATED = ("dense_frame_transformer/home", "bs_roformer/256x12", "mel_roformer/384x6", "cascaded_net/v5")
SONG_S = 60.0
_MATRIX = 8192


def matrix_flop_per_s(device: torch.device, size: int = _MATRIX) -> float:
    """Products and sums a second of a bfloat16 product of matrices."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2.0 * size**3 / device_s(lambda: a @ b, device)


def model_of(configuration: Configuration, device: torch.device, *, recompute: bool = False) -> Model:
    """On the device, freshly drawn."""
    spec = configuration.model
    if recompute:
        spec = spec.model_copy(update={"recompute": True})
    return build(spec, spec.front.bins_on(configuration.stft), configuration.head).to(device)


def heard_by(configuration: Configuration, items: int, device: torch.device) -> Tensor:
    """Noise, `[item, channel, bin, frame]`."""
    front = configuration.model.front
    shape = unheard(front, front.bins_on(configuration.stft), configuration.crop_frames).shape[1:]
    noise = torch.randn(items, *shape, device=device, dtype=torch.complex64)
    return noise if front.phase else noise.abs()


def training_shares(device: torch.device) -> dict[str, Any]:
    """Share of the card's measured matrix rate that training reaches, eager and compiled; compiling apart."""
    rate = matrix_flop_per_s(device)
    found: dict[str, Any] = {"matrix_tflop_per_s": rate / 1e12}
    for name, items in TRAINED.items():
        configuration = CONFIGURATIONS[name]
        flop = 3 * items * figures_of(configuration).forward_flop_per_s * configuration.crop_s
        row: dict[str, Any] = {"items": items}
        for way in ("eager", "compiled"):
            torch.compiler.reset()
            try:
                model = model_of(configuration, device, recompute="roformer" in name).train()
                heard = heard_by(configuration, items, device)
                net = torch.compile(model) if way == "compiled" else None
                step, began_s = training_step(model, heard, net, bf16=True), time.perf_counter()
                step()
                row[f"{way}_first_s"] = time.perf_counter() - began_s
                row[f"{way}_s"] = device_s(step, device)
                row[f"{way}_share"] = flop / row[f"{way}_s"] / rate
            except RuntimeError as error:  # out of memory, or what cannot be compiled: the others go on
                row[way] = str(error)[:500]
        found[name] = row
    return found


def attention_ms(device: torch.device) -> dict[str, Any]:
    """Milliseconds of rotary and relative attention in bfloat16, forward and backward, one item."""
    found = {}
    for frames in FRAMES:
        steps = ways(frames, device, torch.bfloat16)
        found[f"{frames} frames"] = {name: 1000 * device_s(step, device) for name, step in steps.items()}
    return found


def separation(device: torch.device, seconds: float = SONG_S, names: tuple[str, ...] = SEPARATED) -> dict[str, Any]:
    """Seconds of audio that are separated in a second."""
    return {name: separated_per_s(CONFIGURATIONS[name], device, seconds) for name in names}


def separated_per_s(configuration: Configuration, device: torch.device, seconds: float) -> float:
    """The whole of `vr separate` but files: noise of so many seconds in blocks of a second."""
    model, stft = model_of(configuration, device).eval(), configuration.stft
    generator = np.random.default_rng(0)
    block = generator.standard_normal((2, stft.sample_rate_hz), dtype=np.float32) * 0.1
    frames = configuration.crop_frames
    windows = WindowSpec(frames=frames, overlap_frames=frames // 2, batch=4)
    peak = 1.0 if model.front.scale == "song_peak" else None

    def whole() -> None:
        blocks = itertools.repeat(block, round(seconds))
        with torch.inference_mode():
            for _ in separate(model, stft, blocks, windows, device, song_peak=peak):
                pass

    return seconds / device_s(whole, device, turns=1)


def short(configuration: Configuration, crop_s: float) -> Configuration:
    """The same with other crops."""
    return replace(configuration, crop_s=crop_s)
