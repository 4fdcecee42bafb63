"""The corrected block against that of 2022, of equal size: core time forward and backward, and where it goes.

Both are ours: `seed_frame_transformer` keeps the errors of that year's stack, and else has our current layers.

One item, float32, one thread, the two in turns, by the CPU time of this process, which keeps freed memory as training
does. Linear maps, convolutions and attention are then computed alone, with the same sizes of what goes in; the rest is
norms, activations and sums. The products of matrices are counted, and the core's rate of them is measured beside.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from jobs.training.speed.memory import keep_freed_memory
from tests.bench.measurement import Benchmark
from tests.bench.models import core_s, in_turns, matrix_flop_per_s, one_thread
from vr_core.models.blocks.dense import DenseBlock
from vr_core.models.blocks.shape import BlockShape
from vr_core.models.layers.attention import FrameAttention
from vr_core.models.layers.frame_conv import FrameConv
from vr_core.models.seed_frame_transformer import SeedAttention, SeedBlock
from vr_core.specs.fronts import STEREO
from vr_core.specs.models import SeedFrameTransformerSpec

WIDTH, FEEDFORWARD, HEADS = 1024, 3072, 8
FRAMES = (128, 512, 1024)
RATIO_AT = 1024
TURNS = 5
"""At least, each of which may be beside other work."""
_PRODUCTS = (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm, torch.ops.aten.baddbmm)


def blocks(frames: int) -> dict[str, nn.Module]:
    """The first block of either stack; that of 2022 hears no more frames than it was made for."""
    torch.manual_seed(0)
    shape = BlockShape(
        width=WIDTH, heads=HEADS, feedforward=FEEDFORWARD, positions="relative", max_distance_frames=frames,
        causal=False, dropout=0.0,
    )  # fmt: skip
    seed = SeedFrameTransformerSpec(heads=HEADS, feedforward=FEEDFORWARD, crop_frames=frames, dropout=0.0)
    return {
        "corrected": DenseBlock(STEREO, "frame_transformer", shape, 0),
        "seed": SeedBlock(STEREO, WIDTH, seed, 0),
    }


def both_ways(module: nn.Module, *shape: int, inputs: tuple[Any, ...] = ()) -> Callable[[], object]:
    """A forward and a backward pass over noise `[item, frame, …]`, with the gradient of that too."""
    heard = torch.randn(1, *shape, requires_grad=True)

    def work() -> None:
        module.zero_grad()
        heard.grad = None
        found: Tensor = module(heard, *inputs)
        found.sum().backward()

    return work


def block_work(block: nn.Module, frames: int) -> Callable[[], object]:
    """The passes over a stereo pair of maps, without dropout."""
    return both_ways(block, frames, STEREO, WIDTH, inputs=(None,))


def products_flop(work: Callable[[], object]) -> int:
    """Products and sums of all products of matrices; torch's counter has too many for grouped convolutions."""
    with FlopCounterMode(display=False) as counter:
        work()
    counts = counter.get_flop_counts()["Global"]
    return sum(counts.get(product, 0) for product in _PRODUCTS)


def parts_s(block: nn.Module, frames: int) -> dict[str, float]:
    """CPU seconds of what a block is made of, each computed alone."""

    def alone_s(modules: Iterable[nn.Module]) -> dict[type[nn.Module], float]:
        found = {nn.Linear: 0.0, FrameConv: 0.0}
        for module in modules:
            # A sum of maps is a linear map that nobody calls.
            if type(module) in found:
                width = module.in_features if isinstance(module, nn.Linear) else module.weight.shape[0]
                found[type(module)] += core_s(both_ways(module, frames, width), TURNS)
        return found

    (attention,) = (part for part in block.modules() if isinstance(part, FrameAttention | SeedAttention))
    everywhere, within = alone_s(block.modules()), alone_s(attention.modules())
    return {
        "linear maps": everywhere[nn.Linear],
        "convolutions": everywhere[FrameConv],
        "attention between them": core_s(both_ways(attention, frames, WIDTH), TURNS) - sum(within.values()),
    }


def measure_one(frames: int) -> dict[str, dict[str, float]]:
    """By block, milliseconds of a core, and products of matrices with their share of the core's rate."""
    pair = blocks(frames)
    works = {name: block_work(block, frames) for name, block in pair.items()}
    whole_s, rate = in_turns(works, TURNS), matrix_flop_per_s()
    found = {}
    for name, block in pair.items():
        flop, parts = products_flop(works[name]), parts_s(block, frames)
        parts["the rest"] = whole_s[name] - sum(parts.values())
        found[name] = {"all": 1000 * whole_s[name]} | {part: 1000 * s for part, s in parts.items()} | {
            "products, GFLOP": flop / 1e9,
            "products at the core's rate": 1000 * flop / rate,
            "share of the core's rate": flop / rate / whole_s[name],
        }  # fmt: skip
    return found


def measure(quick: bool) -> dict[str, Any]:
    """Milliseconds of a core, by frames and block."""
    keep_freed_memory(torch.device("cpu"))
    with one_thread():
        found = {frames: measure_one(frames) for frames in ((RATIO_AT,) if quick else FRAMES)}
    return {"ratio": found[RATIO_AT]["seed"]["all"] / found[RATIO_AT]["corrected"]["all"]} | {
        f"{frames} frames, {name}, core ms": {part: float(f"{value:.3g}") for part, value in row.items()}
        for frames, rows in found.items()
        for name, row in rows.items()
    }


BENCHMARK = Benchmark(f"core time of the 2022 block over that of the corrected one, {RATIO_AT} frames", measure)
