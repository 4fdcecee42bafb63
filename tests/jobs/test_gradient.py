"""The gradient of a step is that of one device computing all its items, in float64, whatever the cut."""

import json
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dataprep.batches.loader import read_batch
from dataprep.batches.order import Order
from dataprep.shards.dataset import Dataset
from jobs.recipe import Recipe
from jobs.steps.gradient import ItemLosses
from jobs.steps.phases import phases_of
from jobs.steps.shares import Speed
from jobs.steps.state import TrainState
from jobs.steps.step_plan import StepPlan
from jobs.steps.world import World
from jobs.sync.busy_clock import BusyClock
from jobs.sync.ddp import Ddp
from tests.jobs import ranks
from tests.jobs.training import ROFORMER, TINY, finish, recipe_of
from vr_core.config import load, plain
from vr_core.lora import adapt
from vr_core.models.model import Model
from vr_core.models.registry import build
from vr_core.optimisers import optimisers_of
from vr_core.specs.objectives import LossName

pytestmark = pytest.mark.xdist_group("ranks")

CPU = torch.device("cpu")
ITEMS = 11


def model_of(recipe: Recipe, data: Dataset) -> Model:
    torch.manual_seed(0)
    model = build(recipe.model, recipe.model.front.bins_on(data.manifest.stft), recipe.objective.head).double()
    if recipe.lora is not None:
        adapt(model, recipe.lora)
        for name, parameter in model.named_parameters():
            if name.endswith("lora_b"):  # zero at the start, which would leave no gradient for the other
                parameter.data.normal_(std=0.1)
    return model


def gradient_of_a_rank(folder: Path, speeds: list[tuple[float, float, int]], rank: int, world: int) -> None:
    recipe = load(Recipe, folder / "recipe.yaml")
    data = Dataset.open(recipe.data)
    model = model_of(recipe, data)
    state = TrainState(recipe, model, optimisers_of(model, recipe.optim))
    sync = Ddp(recipe.sync, ItemLosses(recipe, CPU, bf16=False), World(rank, world, CPU), BusyClock(CPU))
    sync.enter(state)
    everywhere = np.ones((world, len(data.manifest.shards)), bool)
    [phase] = phases_of(recipe)
    plan = StepPlan(recipe, data.manifest, {phase: [Speed(*speed) for speed in speeds]}, everywhere, rank, 0)
    for step in range(2):  # the second one goes through other buckets
        model.zero_grad()
        batches = plan.micro_batches(step)
        sync.clock.begin()
        for number in plan.pieces(step):
            sync.backward(read_batch(data, batches[number]), plan, step, last=number == len(batches) - 1)
        pieces = [len(batch) for batch in batches]
        assert sync.clock.busy_s() > 0
    save_file(
        {name: p.grad for name, p in model.named_parameters() if p.requires_grad},
        folder / f"gradient-{rank}.safetensors",
    )
    (folder / f"pieces-{rank}.json").write_text(json.dumps(pieces))


def alone(recipe: Recipe) -> dict[str, torch.Tensor]:
    """Every item by itself, one after the other, each mean divided by the number of items: the plain definition."""
    data = Dataset.open(recipe.data)
    order = Order.of(data.manifest, recipe.objective, recipe.seed, recipe.batch.crop_frames)
    model = model_of(recipe, data)
    losses_of = ItemLosses(recipe, CPU, bf16=False)
    for item in order.items(recipe.batch.items, recipe.batch.items):
        [loss] = losses_of.total(model, read_batch(data, [item]), training=True)
        (loss / recipe.batch.items).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def together(recipe: Recipe, folder: Path, speeds: list[tuple[float, float, int]]) -> tuple[list[dict], list[list]]:
    (folder / "recipe.yaml").write_text(json.dumps(plain(recipe)))
    finish(ranks.group(partial(gradient_of_a_rank, folder, speeds), len(speeds), folder / "meet"))
    pieces = [json.loads((folder / f"pieces-{rank}.json").read_text()) for rank in range(len(speeds))]
    return [load_file(folder / f"gradient-{rank}.safetensors") for rank in range(len(speeds))], pieces


@pytest.mark.parametrize(
    ("model", "objective", "speeds", "pieces"),
    [
        (TINY["model"], {"name": "separate"}, [(0, 1, 3), (0, 2.5, 2)], [[3, 3, 2], [2, 1]]),
        # Items with other numbers of masked frames: a mean over all masked frames would weigh them otherwise.
        (TINY["model"], {"name": "masked_frames", "token_frames": 3, "rate": 0.3}, [(0, 1, 9), (0, 9, 1), (0, 4, 1)],
         [[8], [1], [1, 1]]),
        ({"name": "plain_stack", "width": 16, "blocks": 2}, {"name": "separate", "silent_vocals": 0.3},
         [(0, 1, 4), (0, 1, 4)], [[3, 3], [3, 2]]),
        # Stems that are altered, several vocals, and a sum of losses.
        (TINY["model"], {"name": "separate", "silent_vocals": 0.3, "more_vocals": 0.5, "invert": 0.5, "tilt_db": 3,
                         "lose_channel": 0.5, "stem_gain_db": 6, "losses": {"mel": 1, "multi_stft": 2}},
         [(0, 1, 4), (0, 1, 4)], [[3, 3], [3, 2]]),
        # Low-rank factors of a RoFormer, and every loss that there is.
        (ROFORMER["model"], {"name": "separate", "mask": "complex", "losses": dict.fromkeys(get_args(LossName), 1)},
         [(0, 1, 3), (0, 2.5, 2)], [[3, 3, 2], [2, 1]]),
    ],
)  # fmt: skip
def test_any_cut_gives_the_gradient_of_one_device(
    tiny_data: Path, tmp_path: Path, model: dict[str, Any], objective: dict[str, Any], speeds: list, pieces: list
) -> None:
    more = {"batch.items": ITEMS}
    if "dropout" in model:
        more["model.dropout"] = 0.1
    if model["name"] == "bs_roformer":
        more |= {"lora": {"rank": 2}, "init": "/of/another/run", "batch.crop_frames": 16}
    recipe = recipe_of(tiny_data, model=model, objective=objective, precision="float64", **more)
    wanted = alone(recipe)
    gradients, cut = together(recipe, tmp_path, speeds)
    assert cut == pieces
    whole = torch.cat([g.flatten() for g in wanted.values()])
    for found in gradients:
        assert found.keys() == wanted.keys()
        difference = torch.cat([(found[name] - wanted[name]).flatten() for name in wanted])
        assert difference.norm() / whole.norm() < 1e-12


def test_bf16_rounds_what_travels_and_nothing_else(tiny_data: Path, tmp_path: Path) -> None:
    recipe = recipe_of(tiny_data, precision="float64", sync="bf16", **{"batch.items": ITEMS})
    wanted = alone(recipe)
    (first, second), _ = together(recipe, tmp_path, [(0, 1, 3), (0, 3, 2)])
    assert all(torch.equal(first[name], second[name]) for name in wanted), "all workers go on with the same"
    whole, rounded = (torch.cat([g[name].flatten() for name in wanted]) for g in (wanted, first))
    assert 0 < (rounded - whole).norm() / whole.norm() < 2**-7
