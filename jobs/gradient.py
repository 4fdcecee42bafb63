"""The gradient of one micro-batch: the part of a step that every worker computes by itself, and adds up.

The loss of a step is the mean of its items' losses, so that the number of items is the only divisor, whoever computes
them: each worker adds up the gradients of its items' *sum*, times world / items, since
DistributedDataParallel divides what it adds up by the world. The shares may be any, and the counts of micro-batches.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dataprep.batches import CodedBatch, widen_magnitudes
from jobs.recipe import Recipe
from vr_core.draws import Draws
from vr_core.objectives import Magnitudes, item_losses

Losses = Callable[..., Tensor]
"""(model, batch, seed, training=) → losses `[item]`."""


def add_gradients(
    model: nn.Module, losses_of: Losses, batch: CodedBatch, *, seed: int, items: int, world: int, last: bool
) -> Tensor:
    """Add the gradients of a micro-batch to those that are there; with a step's last one, over all workers.

    Args:
        model: from `jobs.exchange.exchanging` where the world is more than one.
        losses_of: from `loss_function`.
        batch: some of the worker's items of the step.
        seed: of the recipe.
        items: of the whole step.
        world: workers that take part.
        last: the worker's last micro-batch of this step: what travels overlaps with its backward pass.

    Returns:
        Losses `[item]`, detached.
    """
    # The model itself, rather than `no_sync`: nothing travels either (the reducer waits for no gradient that its own
    # forward pass has not announced), and of a small model on a slow core that wrapper was 2.4 % of the time.
    net = model.module if world > 1 and not last else model
    losses = losses_of(net, batch, seed, training=True)
    (losses.sum() * (world / items)).backward()  # type: ignore[no-untyped-call]
    return losses.detach()


def loss_function(recipe: Recipe, device: torch.device, cast: Callable[[], Any]) -> Losses:
    """Losses `[item]` of a coded batch: widened on the device that trains, draws keyed by item.

    Where it is not told to train, the model is in evaluation mode meanwhile, whatever mode it is in.
    """
    dtype = weights_dtype(recipe)

    def losses(model: nn.Module, batch: CodedBatch, seed: int, *, training: bool) -> Tensor:
        mixture, instrumental = widen_magnitudes(batch, device)
        magnitudes = Magnitudes(mixture.to(dtype), None if instrumental is None else instrumental.to(dtype))
        draws = Draws.of_items(seed, [item.index for item in batch.items], device)
        with cast(), contextlib.nullcontext() if training else evaluating(model):
            found = item_losses(recipe.objective, model, magnitudes, draws, training=training)
        return found.to(dtype)

    return losses


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every part of `model` in evaluation mode for the block, and each as it was after it."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def has_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is worth taking by itself: a GPU with such units (torch also counts those that emulate it)."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def autocast(recipe: Recipe, device: torch.device, bf16: bool) -> Callable[[], Any]:
    """Mixed precision: bfloat16 where the recipe says so, or by itself where every worker has it (`bf16`)."""
    wanted = recipe.precision == "bfloat16" or (recipe.precision == "auto" and bf16)
    return lambda: torch.autocast(device.type, torch.bfloat16, enabled=wanted)


def weights_dtype(recipe: Recipe) -> torch.dtype:
    """What weights, optimiser and losses are kept in."""
    return torch.float64 if recipe.precision == "float64" else torch.float32
