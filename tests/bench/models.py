"""What each configuration of `vr models` costs on one core: CPU seconds for a second of audio.

Single-threaded, in float32, by the CPU time of this process: other work on the machine takes caches and the other half
of a core, but not the time that is counted. Beside each configuration the same core multiplies matrices, and the share
is what of that rate the configuration's own arithmetic reaches, as `vr_core.models.figures` counts it. A forward pass
is that of one window in separation, which overlaps windows by half and so computes twice as much; a training step is
forward, backward and AdamW of one item, with its dropout. Neither reads, decodes or transforms audio.
"""

import contextlib
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tests.bench.measurement import Benchmark
from vr_core.draws import Draws
from vr_core.models.figures import figures_of, unheard
from vr_core.models.model import Model
from vr_core.models.registry import build
from vr_core.optimisers import adamw
from vr_core.specs.configurations import CONFIGURATIONS, Configuration
from vr_core.specs.optim import OptimSpec

WINDOW_S, CROP_S = 2.0, 1.0
"""Of a forward pass, of a training step."""
TRAINED_PARAMETERS = 30_000_000
"""Larger ones are not trained on one core, and are measured in full runs alone."""
_LEAST_S, _MATRIX = 1.0, 1024


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """torch computes in one thread meanwhile."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def core_s(work: Callable[[], object], turns: int = 1) -> float:
    """CPU seconds of `work`: the least of as many turns as take a second, and of so many at least."""
    return in_turns({"work": work}, turns)["work"]


def in_turns(works: Mapping[str, Callable[[], object]], turns: int) -> dict[str, float]:
    """As `core_s` of each, a turn of one after a turn of the other."""
    found: dict[str, list[float]] = {name: [] for name in works}
    while min(map(sum, found.values())) < _LEAST_S or min(map(len, found.values())) < turns:
        for name, work in works.items():
            began = time.process_time()
            work()
            found[name].append(time.process_time() - began)
    return {name: min(spent) for name, spent in found.items()}


def matrix_flop_per_s() -> float:
    """Products and sums in a CPU second of float32 matrix multiplication."""
    a, b = torch.rand(_MATRIX, _MATRIX), torch.rand(_MATRIX, _MATRIX)
    return float(2 * _MATRIX**3 / core_s(lambda: a @ b))


def measure_one(configuration: Configuration, *, trained: bool) -> dict[str, float]:
    """Costs of one configuration, with the share of the matrix rate of the same minute.

    Args:
        configuration: any.
        trained: measure a training step too.
    """
    model = build(configuration.model, configuration.model.front.bins_on(configuration.stft), configuration.head).eval()
    window = replace(configuration, crop_s=WINDOW_S)
    heard, rate = _noise(window), matrix_flop_per_s()
    with torch.inference_mode():
        forward_s = core_s(lambda: model(heard)) / WINDOW_S
    flop_per_s = figures_of(window).forward_flop_per_s
    found = {
        "core_s_per_s": forward_s, "gflop_per_s": flop_per_s / 1e9, "matrix_gflop_per_core_s": rate / 1e9,
        "share": flop_per_s / forward_s / rate,
    }  # fmt: skip
    if trained:
        step = training_step(model.train(), _noise(replace(configuration, crop_s=CROP_S)))
        found["training_core_s_per_s"] = core_s(step) / CROP_S
    return found


def training_step(
    model: Model, heard: Tensor, net: nn.Module | None = None, *, bf16: bool = False
) -> Callable[[], object]:
    """Forward, backward and AdamW with the dropout of a step.

    Args:
        model: on the device of `heard`.
        heard: a batch.
        net: what computes in place of the model, such as what it was compiled to.
        bf16: compute the forward pass under autocast to bfloat16.
    """
    optimiser, steps = adamw(model, OptimSpec()), itertools.count()

    def step() -> None:
        first = next(steps) * len(heard)
        draws = Draws.of_items(0, range(first, first + len(heard)), heard.device)
        optimiser.zero_grad()
        with torch.autocast(heard.device.type, torch.bfloat16, enabled=bf16):
            answer = (model if net is None else net)(heard, draws)[model.head.kind]
        answer.abs().float().mean().backward()
        optimiser.step()

    return step


def _noise(configuration: Configuration) -> Tensor:
    """A window of the configuration's crop, `[1, channel, bin, frame]`."""
    front = configuration.model.front
    shape = unheard(front, front.bins_on(configuration.stft), configuration.crop_frames).shape
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.complex64)
    return noise if front.phase else noise.abs()


def measure(quick: bool) -> dict[str, Any]:
    """All configurations, or the small ones: their median share of the matrix rate."""
    found = {}
    with one_thread():
        for name, configuration in CONFIGURATIONS.items():
            small = configuration.figures.parameters < TRAINED_PARAMETERS
            if small or not quick:
                found[name] = measure_one(configuration, trained=small)
    return {"ratio": statistics.median(row["share"] for row in found.values())} | {
        name: {key: float(f"{value:.4g}") for key, value in row.items()} for name, row in found.items()
    }


BENCHMARK = Benchmark("the share of a core's matrix rate that models reach in separation, median", measure)
