"""What positions cost in attention: rotary ones against the relative term of the dense frame transformer.

One thread, float32, forward and backward, in CPU seconds of this process. Both have the same queries, keys and values:
8 heads of 64 numbers, one item. Rotary positions leave the logits alone, so that torch's fused attention computes them;
the relative term is a product of its own (`relative_logits` of `vr_core.models.layers.attention`) and keeps all logits
for the backward pass.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.bench.measurement import Benchmark
from tests.bench.models import core_s
from vr_core.models.layers.attention import Rotary, relative_logits

HEADS, HEAD_WIDTH = 8, 64
FRAMES = (128, 512, 1024)
RATIO_AT = 512


def rotary_attention(q: Tensor, k: Tensor, v: Tensor, rotary: nn.Module) -> Tensor:
    """As in the RoFormers, `[item, head, frame, feature]`."""
    return F.scaled_dot_product_attention(rotary(q), rotary(k), v)


def relative_attention(q: Tensor, k: Tensor, v: Tensor, vectors: Tensor) -> Tensor:
    """As in the dense frame transformer; `vectors` are `[head, distance, feature]`."""
    q = q * HEAD_WIDTH**-0.5
    return torch.softmax(q @ k.transpose(-1, -2) + relative_logits(q, vectors), dim=-1) @ v


def ways(frames: int, device: torch.device, dtype: torch.dtype = torch.float32) -> dict[str, Callable[[], object]]:
    """Name → a forward and a backward pass over one item of so many frames."""
    torch.manual_seed(0)
    shape = (1, HEADS, frames, HEAD_WIDTH)
    q, k, v = (torch.randn(shape, device=device, dtype=dtype, requires_grad=True) for _ in range(3))
    vectors = torch.randn(HEADS, 2 * frames - 1, HEAD_WIDTH, device=device, dtype=dtype, requires_grad=True)
    rotary = Rotary(HEAD_WIDTH).to(device, dtype)

    def both(attend: Callable[[], Tensor]) -> Callable[[], object]:
        def step() -> None:
            for tensor in (q, k, v, vectors):
                tensor.grad = None
            attend().sum().backward()

        return step

    return {
        "rotary": both(lambda: rotary_attention(q, k, v, rotary)),
        "relative": both(lambda: relative_attention(q, k, v, vectors)),
        "without positions": both(lambda: F.scaled_dot_product_attention(q, k, v)),
    }


def measure(quick: bool) -> dict[str, Any]:
    """Milliseconds of a core, by frames and way."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = {
            frames: {name: 1000 * core_s(work) for name, work in ways(frames, torch.device("cpu")).items()}
            for frames in ((RATIO_AT,) if quick else FRAMES)
        }
    finally:
        torch.set_num_threads(threads)
    return {"ratio": found[RATIO_AT]["relative"] / found[RATIO_AT]["rotary"]} | {
        f"{frames} frames, core ms": {name: float(f"{ms:.3g}") for name, ms in row.items()}
        for frames, row in found.items()
    }


BENCHMARK = Benchmark(f"core time of the relative term over that of rotary positions, {RATIO_AT} frames", measure)
