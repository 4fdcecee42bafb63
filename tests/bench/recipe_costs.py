"""What a recipe's model costs on this machine: size, memory, core-seconds of training, speed of separation.

Core-seconds are the CPU time of this process. It should be a fresh one, of one thread: memory is what the process takes
beyond what it had before the model, at its peak.
"""

import statistics
import time
from collections.abc import Callable
from unittest.mock import patch

import numpy as np
import psutil
import torch

from jobs.recipe import Recipe
from jobs.runs.creation import create_run
from jobs.scoring.streams import stems_at
from jobs.steps.gradient import total_of
from jobs.steps.state import TrainState
from jobs.steps.world import World
from jobs.training.loop import train
from jobs.training.speed.memory import forget_peak, keep_freed_memory, peak_bytes
from vr_core.audio.separate import WindowSpec
from vr_core.audio.sound import Sound, seen_by
from vr_core.draws import Draws
from vr_core.models.figures import figures_of
from vr_core.models.model import Model
from vr_core.models.registry import build
from vr_core.objectives.objective import item_losses
from vr_core.objectives.registry import objective_of
from vr_core.optimisers import optimisers_of
from vr_core.specs.configurations import Configuration, Figures
from vr_core.specs.fronts import STEREO
from vr_core.specs.stft import StftSpec
from vr_core.weights import WeightsMeta

ITEMS, CROP_FRAMES = 8, 128
"""Of the training step that is measured; frames of the usual STFT."""
TURNS = 3
"""Of which the least counts: other work on the machine only lengthens them."""
SONG_S = 30.0
WINDOWS = WindowSpec(frames=CROP_FRAMES, overlap_frames=CROP_FRAMES // 2)
"""In separation, the same for all models."""
LOOP_STEPS, LOOP_WARM_UP = 8, 2
STORED = StftSpec()
"""Of the usual data set."""


def size_of(recipe: Recipe) -> dict[str, float]:
    """Parameters, and GFLOP of a forward pass for a second of audio."""
    crop_s = CROP_FRAMES * STORED.hop / STORED.sample_rate_hz
    figures = figures_of(Configuration("", recipe.model, Figures(0, 0, 0), recipe.objective.head, crop_s))
    return {"parameters": figures.parameters, "gflop_per_s": round(figures.forward_flop_per_s / 1e9, 3)}


def model_of(recipe: Recipe) -> Model:
    """Fresh, of seed 0."""
    torch.manual_seed(0)
    return build(recipe.model, recipe.model.front.bins_on(STORED), recipe.objective.head)


def step_costs(recipe: Recipe) -> dict[str, float]:
    """Core-seconds and peak memory of a training step: losses of noise, gradients, the recipe's optimiser.

    From here on this process keeps freed memory.
    """
    keep_freed_memory(torch.device("cpu"))  # as the loop does
    forget_peak()
    before_bytes = psutil.Process().memory_info().rss
    model = model_of(recipe)
    optimisers = optimisers_of(model, recipe.optim)
    objective, front = objective_of(recipe.objective), recipe.model.front
    draws = Draws.of_items(0, range(ITEMS), torch.device("cpu"))
    noise = torch.Generator().manual_seed(0)

    def stored() -> Sound:
        shape = ITEMS, STEREO, STORED.bins, CROP_FRAMES
        spectrum = 1e-3 * torch.randn(shape, dtype=torch.complex64, generator=noise)
        return seen_by(front, Sound(STORED, spectrum.abs(), spectrum if recipe.needs_phase else None))

    def step() -> None:
        sounds = {name: stored() for name in recipe.objective.signals.sounds}
        terms = item_losses(objective, model, sounds, draws, training=True, front=front)
        total_of(list(terms.values())).mean().backward()  # type: ignore[no-untyped-call]
        for optimiser in optimisers.values():
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

    step()
    core_s = min(_timed(time.process_time, step) for _ in range(TURNS))
    return {"step_core_s": round(core_s, 4), "step_peak_bytes": peak_bytes() - before_bytes}


def separation_speeds(recipe: Recipe) -> dict[str, float]:
    """Multiples of real time by one thread and by two, from samples of a song to samples of its stems.

    One thread is measured by its CPU time, as if it had a core for itself; two are by wall time. Take another process
    than for `step_costs`: `vr separate` does not keep freed memory.
    """
    model = model_of(recipe).eval()
    meta = WeightsMeta(
        model=recipe.model, head=recipe.objective.head, stft=recipe.model.front.stft_on(STORED),
        crop_frames=CROP_FRAMES, step=0, run="none",
    )  # fmt: skip
    samples = round(SONG_S * STORED.sample_rate_hz)
    song = np.random.default_rng(0).uniform(-0.1, 0.1, (STEREO, samples)).astype(np.float32)
    wanted = ("instrumental", "vocals")

    def separate(frames: int) -> None:
        heard = song[:, :frames]
        for _ in stems_at(
            lambda rate_hz: iter([heard]), STORED.sample_rate_hz, model, meta, wanted, WINDOWS, "cpu", None
        ):
            pass

    found: dict[str, float] = {}
    for threads, clock_s in ((1, time.process_time), (2, time.perf_counter)):
        torch.set_num_threads(threads)
        separate(STORED.sample_rate_hz * 3)
        took_s = min(_timed(clock_s, lambda: separate(samples)) for _ in range(TURNS))
        found[f"times_real_time_{threads}"] = round(SONG_S / took_s, 2)
    return found


def loop_step_core_s(recipe: Recipe) -> float:
    """Core-seconds of a step of the product's own training, reading and optimiser included.

    Args:
        recipe: of `LOOP_STEPS` steps, into an empty folder.
    """
    ends_s: list[float] = []
    update = TrainState.update

    def noted(*arguments: object) -> None:
        update(*arguments)  # type: ignore[arg-type]
        ends_s.append(time.process_time())

    run = create_run(recipe)
    with patch.object(TrainState, "update", noted):
        train(run.recipe(), run.path, World.alone(torch.device("cpu")))
    each_s = [after - before for before, after in zip(ends_s, ends_s[1:], strict=False)]
    return round(statistics.median(each_s[LOOP_WARM_UP:]), 4)


def _timed(clock_s: Callable[[], float], work: Callable[[], object]) -> float:
    began_s = clock_s()
    work()
    return clock_s() - began_s
