"""`sync: diloco` in the training loop: as the papers say it, and exact when a run is resumed."""

import copy
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from dataprep.batches.loader import read_batch
from dataprep.batches.order import Order
from dataprep.shards.dataset import Dataset
from jobs.checkpoints.format import read_newest
from jobs.recipe import Recipe
from jobs.runs.folder import RunFolder
from jobs.runs.metrics import read_metrics
from jobs.steps.gradient import ItemLosses
from jobs.steps.world import World
from jobs.sync.local_steps import TRAVELS, LocalSteps
from tests.jobs import ranks
from tests.jobs.training import (
    curve,
    distance,
    finish,
    kill_after_checkpoint,
    last_weights,
    new_run,
    recipe_of,
    start,
)
from vr_core.models.registry import build
from vr_core.optim import learning_rate_factor, set_rates
from vr_core.optimisers import adamw

pytestmark = pytest.mark.xdist_group("ranks")

CPU = torch.device("cpu")
STEPS, EVERY, VALIDATION, BEHIND = 22, 4, 6, 2
CHANGES: dict[str, Any] = {
    "steps": STEPS, "sync": "diloco", "diloco": {"every_steps": EVERY, "behind_steps": BEHIND, "start_step": 0},
    "workers.count": 2, "workers.shares": "equal", "validation.every_steps": VALIDATION,
}  # fmt: skip


def by_hand(recipe: Recipe, workers: dict[int, int]) -> torch.nn.Module:
    """Algorithm 1 of the paper in one process, worker after worker; `workers`: from which step on there are how many.

    Every worker's delta is rounded to bfloat16 and so is their sum; the outer step of a round comes `behind_steps`
    later, and at once where there is a validation.
    """
    data = Dataset.open(recipe.data)
    order = Order.of(data.manifest, recipe.objective, recipe.seed, recipe.batch.crop_frames)
    losses_of = ItemLosses(recipe, CPU, bf16=False)
    lr, momentum, items = recipe.diloco.lr, recipe.diloco.momentum, recipe.batch.items

    def worker(like: Any) -> Any:
        torch.manual_seed(recipe.seed)
        model = build(recipe.model, data.manifest.stft.bins).double()
        optimiser = adamw(model, recipe.optim)
        if like is not None:
            model.load_state_dict(like[0].state_dict())
            optimiser.load_state_dict(copy.deepcopy(like[1].state_dict()))  # it takes tensors, not copies
        return model, optimiser

    models = [worker(None) for _ in range(workers[0])]
    agreed, _ = worker(None)
    velocity = [torch.zeros_like(p) for p in agreed.parameters()]
    travelling: Any = None

    def settle() -> None:
        nonlocal travelling
        _, summed, then = travelling
        for number, (p, v, delta) in enumerate(zip(agreed.parameters(), velocity, summed, strict=True)):
            v.mul_(momentum).add_(delta)
            p.data -= lr * (delta + momentum * v)
            for (model, _), was in zip(models, then, strict=True):
                own = list(model.parameters())[number]
                own.data += p.data - was[number]
        travelling = None

    ended = 0
    for step in range(1, STEPS + 1):
        if step - 1 in workers and step > 1:
            if travelling:
                settle()
            count = workers[step - 1]
            models = [worker(models[rank if rank < len(models) else 0]) for rank in range(count)]
            for model, _ in models:
                model.load_state_dict(agreed.state_dict())
        mine = list(order.items((step - 1) * items, items))
        whole = step <= recipe.local_from_step
        for rank, (model, optimiser) in enumerate(models):
            share = items if whole else items // len(models) + (rank < items % len(models))
            batch, mine = read_batch(data, mine[:share]), mine if whole else mine[share:]
            optimiser.zero_grad()
            losses_of.total(model, batch, training=True).mean().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.optim.clip_norm)
            set_rates(optimiser, recipe.optim.lr, learning_rate_factor(step, STEPS, recipe.optim))
            optimiser.step()
        if whole:
            agreed.load_state_dict(models[0][0].state_dict())
            continue
        ends = step % EVERY == 0 or step % VALIDATION == 0 or step == STEPS
        if travelling and (ends or step == travelling[0] + BEHIND):
            settle()
        if ends:
            shares = [items // len(models) + (rank < items % len(models)) for rank in range(len(models))]
            then = [[p.detach().clone() for p in model.parameters()] for model, _ in models]
            summed = []
            for number, p in enumerate(agreed.parameters()):
                parts = [
                    ((p.detach() - was[number]) * (share / items)).to(TRAVELS)
                    for was, share in zip(then, shares, strict=True)
                ]
                total = parts[0]
                for part in parts[1:]:
                    total = total + part
                summed.append(total.double())
            travelling, ended = (step, summed, then), step
            if step % VALIDATION == 0 or step == STEPS:
                settle()
    assert ended == STEPS
    return agreed


def float64(tiny_data: Path, **more: Any) -> Recipe:
    """Without the average of weights: what is compared is what is trained."""
    return recipe_of(tiny_data, **{**CHANGES, "precision": "float64", "optim.ema_decay": 0, **more})


def off(run: RunFolder, wanted: torch.nn.Module) -> float:
    state = wanted.state_dict()
    return distance({name: read_newest(run)[0].weights[name].double() for name in state}, state)


@pytest.mark.parametrize("first", [0, 7])
def test_it_is_the_paper_s_algorithm_for_workers_with_other_shares(tiny_data: Path, tmp_path: Path, first: int) -> None:
    """Rounds of 4 and 2 steps, three items on one worker and two on the other, two steps behind; all of them, or from
    the eighth on, before which both have all five items."""
    recipe = float64(tiny_data, **{"diloco.start_step": first})
    run = new_run(tmp_path / "run", recipe)
    finish(start(run, 2, tmp_path / "meet"))
    assert off(run, by_hand(recipe, {0: 2})) < 1e-7  # weights are stored in float32
    steps = [m for m in read_metrics(run) if m["kind"] == "step"]
    assert [m["step"] for m in steps] == list(range(1, STEPS + 1))
    assert [m["shares"] for m in steps] == [[5, 5]] * first + [[3, 2]] * (STEPS - first)
    assert all(min(m["busy_s"]) > 0 for m in steps)


def test_before_local_steps_all_is_as_one_worker_alone_would_have_it(tiny_data: Path, tmp_path: Path) -> None:
    plain = new_run(tmp_path / "plain", recipe_of(tiny_data, **{**CHANGES, "sync": "plain", "workers.count": 1}))
    finish(start(plain, 1, tmp_path / "a"))
    run = new_run(tmp_path / "run", recipe_of(tiny_data, **{**CHANGES, "diloco.start_step": STEPS}))
    finish(start(run, 2, tmp_path / "b"))
    expected, found = last_weights(plain), last_weights(run)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert curve(run) == curve(plain)


def agree_on_sevens(folder: Path, rank: int, world: int) -> None:
    recipe = recipe_of(folder, **CHANGES)
    model = build(recipe.model, 33)
    for p in model.parameters():
        p.data.fill_(7 - rank)
    local = LocalSteps(recipe, model, dict(model.named_parameters()), 0, World(rank, world, CPU))
    local.agree()
    assert all((p == 7).all() for of in (model, local.agreed) for p in of.parameters())


def test_before_local_steps_the_first_worker_s_weights_become_all_s(tmp_path: Path) -> None:
    """Which differ where PCs round otherwise: here rank 0's are all 7."""
    finish(ranks.group(partial(agree_on_sevens, tmp_path), 2, tmp_path / "meet"))


class Counting(torch.nn.Module):
    """One weight, and buffers of three types; one of them is in no checkpoint."""

    def __init__(self, value: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.register_buffer("passes", torch.tensor(value))
        self.register_buffer("table", torch.full((3,), float(value)))
        self.register_buffer("odd", torch.tensor(value % 2 == 1))
        self.register_buffer("scratch", torch.tensor(value), persistent=False)


def all_have(value: int, local: LocalSteps, model: torch.nn.Module) -> bool:
    return all(bool((b == (value % 2 == 1 if b.dtype == torch.bool else value)).all())
               for of in (model, local.agreed) for b in of.buffers())  # fmt: skip


def buffers_of_a_rank(folder: Path, rank: int, world: int) -> None:
    """Rank 0's are all 7, those of the others 8: before local steps, after a round, and after others have left."""
    recipe = recipe_of(folder, **CHANGES)
    for meet in ("follow", "agree", "settle", "join"):
        model = Counting(7 + rank)
        local = LocalSteps(recipe, model, dict(model.named_parameters()), 0, World(rank, world, CPU))
        for own in model.buffers():
            own.copy_(torch.zeros_like(own))
        local.agreed.load_state_dict(Counting(4).state_dict())
        for own, value in zip(model.buffers(), Counting(7 + rank).buffers(), strict=True):
            own.copy_(value)
        if meet == "follow":
            local.follow()
        elif meet == "agree":
            local.agree()
        elif meet == "settle":
            local.begin(4, 4, [1] * world)
            local.settle()
        else:
            local.restore(local.state(), 4, [model.state_dict()] * 3)
        assert all_have(7 + rank if meet == "follow" else 7, local, model), meet
        kept = local.state()["agreed"]
        assert kept["passes"] == local.agreed.passes
        assert "table" in kept


@pytest.mark.parametrize("world", [1, 2])
def test_all_workers_go_on_with_the_first_one_s_buffers(world: int, tmp_path: Path) -> None:
    finish(ranks.group(partial(buffers_of_a_rank, tmp_path), world, tmp_path / "meet"))


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_workers_come_and_go_with_the_outer_step_of_all_who_were_there(
    tiny_data: Path, tmp_path: Path, before: int, after: int
) -> None:
    """From the checkpoint of step 16, whose deltas have not arrived."""
    run = new_run(tmp_path / "run", float64(tiny_data, **{"checkpoint.every_steps": 16}))
    kill_after_checkpoint(run, start(run, before, tmp_path / "a"), 16)
    for folder in run.checkpoints.glob("step-000000*"):
        if folder.name != "step-00000016":
            shutil.rmtree(folder)
    checkpoint = read_newest(run)[0]
    assert checkpoint.training["diloco"]["travelling"]
    finish(start(run, after, tmp_path / "b"))
    assert off(run, by_hand(run.recipe(), {0: before, 16: after})) < 1e-7


@pytest.mark.parametrize("sync", [{}, {"diloco.start_step": 11}], ids=["diloco", "diloco later"])
def test_killed_and_resumed_by_as_many_workers_ends_bit_for_bit_where_the_undisturbed_run_ends(
    tiny_data: Path, tmp_path: Path, sync: dict[str, Any]
) -> None:
    recipe = recipe_of(tiny_data, **{**CHANGES, **sync, "checkpoint.every_steps": 8})
    whole, broken = (new_run(tmp_path / name, recipe) for name in ("whole", "broken"))
    finish(start(whole, 2, tmp_path / "a"))
    kill_after_checkpoint(broken, start(broken, 2, tmp_path / "b"), 8)
    assert read_newest(broken)[0].row.step < STEPS, "killed too late to show anything"
    finish(start(broken, 2, tmp_path / "c"))
    expected, found = last_weights(whole), last_weights(broken)
    assert all(torch.equal(found[name], expected[name]) for name in expected)

    assert curve(broken) == curve(whole)


def test_a_worker_alone_trains_by_rounds_too(tiny_data: Path, tmp_path: Path) -> None:
    recipe = float64(tiny_data, **{"workers.count": 1})
    run = new_run(tmp_path / "run", recipe)
    finish(start(run, 1, tmp_path / "meet"))
    assert off(run, by_hand(recipe, {0: 1})) < 1e-7
