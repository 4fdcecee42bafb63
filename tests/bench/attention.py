"""What positions cost in attention, and what is saved by keeping keys and values of earlier frames.

One thread, float32, in CPU seconds of this process. The ways have the same queries, keys and values, of 8 heads of 64
numbers and one item, forward and backward. Rotary positions leave the logits alone, and a number for each distance is a
mask: torch's fused attention computes both. The relative term is a product of its own (`relative_logits` of
`vr_core.models.layers.attention`) and keeps all logits for the backward pass; as a mask of the fused attention it is
only measured. A song in pieces is that of a causal stack of the size of the recipes songs-*, a frame at a time.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.bench.measurement import Benchmark
from tests.bench.models import core_s, one_thread
from vr_core.models.layers.attention import FrameAttention, relative_logits
from vr_core.models.layers.past import Past
from vr_core.models.registry import build
from vr_core.specs.models import DenseFrameTransformerSpec

HEADS, HEAD_WIDTH = 8, 64
FRAMES = (128, 512, 1024)
RATIO_AT = 512
PIECES = 128
"""Frames of the song in pieces."""
_STACK = DenseFrameTransformerSpec(
    width=128, blocks=3, heads=4, feedforward=384, max_distance_frames=128, dropout=0, causal=True
)


def relative_as_mask(q: Tensor, k: Tensor, v: Tensor, vectors: Tensor) -> Tensor:
    """The relative term as the mask of the fused attention; `vectors` are `[head, distance, feature]`."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=relative_logits(q * HEAD_WIDTH**-0.5, vectors))


def ways(frames: int, device: torch.device, dtype: torch.dtype = torch.float32) -> dict[str, Callable[[], object]]:
    """Name → a forward and a backward pass over one item of so many frames."""
    torch.manual_seed(0)
    shape = (1, HEADS, frames, HEAD_WIDTH)
    q, k, v = (torch.randn(shape, device=device, dtype=dtype, requires_grad=True) for _ in range(3))
    relative, scalar, rotary = (
        FrameAttention(HEADS * HEAD_WIDTH, HEADS, frames, positions=positions).to(device, dtype)
        for positions in ("relative", "scalar", "rotary")
    )

    def both(attend: Callable[[], Tensor]) -> Callable[[], object]:
        def step() -> None:
            for tensor in (q, k, v, relative.distance, scalar.distance):
                tensor.grad = None
            attend().sum().backward()

        return step

    return {
        "rotary": both(lambda: rotary.attended(rotary.rotary(q), rotary.rotary(k), v)),
        "scalar": both(lambda: scalar.attended(q, k, v)),
        "relative": both(lambda: relative.attended(q, k, v)),
        "relative, as a mask": both(lambda: relative_as_mask(q, k, v, relative.distance)),
        "without positions": both(lambda: F.scaled_dot_product_attention(q, k, v)),
    }


def pieces_ms(frames: int = PIECES) -> dict[str, float]:
    """Milliseconds of a core for a frame of a song that comes frame by frame: kept, or computed anew each time."""
    model, heard = build(_STACK, 1024).eval(), torch.rand(1, 2, 1024, frames)

    def kept() -> None:
        past = Past()
        for frame in heard.split(1, dim=3):
            model(frame, past=past)

    def anew() -> None:
        for end in range(1, frames + 1):
            model(heard[..., :end])

    with torch.inference_mode():
        return {name: 1000 * core_s(work) / frames for name, work in (("kept", kept), ("computed anew", anew))}


def measure(quick: bool) -> dict[str, Any]:
    """Milliseconds of a core, by frames and way."""
    with one_thread():
        found = {
            f"{frames} frames, core ms": {
                name: 1000 * core_s(work) for name, work in ways(frames, torch.device("cpu")).items()
            }
            for frames in ((RATIO_AT,) if quick else FRAMES)
        }
        found["a frame of a song in pieces, core ms"] = pieces_ms()
    row = found[f"{RATIO_AT} frames, core ms"]
    return {"ratio": row["relative"] / row["rotary"]} | {
        name: {key: float(f"{value:.3g}") for key, value in row.items()} for name, row in found.items()
    }


BENCHMARK = Benchmark(f"core time of the relative term over that of rotary positions, {RATIO_AT} frames", measure)
