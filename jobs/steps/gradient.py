"""The gradient of one micro-batch: the part of a step that every worker computes by itself, and adds up.

The loss of a step is the mean of its items' losses, so that the number of items is the only divisor, whoever computes
them: each worker adds up the gradients of its items' *sum*, times world / items, since
DistributedDataParallel divides what it adds up by the world. The shares may be any, and the counts of micro-batches.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from dataprep.batches.loader import CodedBatch, sounds_of
from jobs.recipe import Recipe
from jobs.steps.world import World
from vr_core.audio.sound import seen_by
from vr_core.draws import Draws
from vr_core.objectives.objective import item_losses
from vr_core.objectives.registry import objective_of


class ItemLosses:
    """Losses of a coded batch's items under a recipe's objective: widened where they are used, draws keyed by item."""

    def __init__(self, recipe: Recipe, device: torch.device, *, bf16: bool) -> None:
        """Of `recipe` on `device`; `bf16` says whether every rank has such units (`everywhere_bf16`)."""
        self.seed, self.bf16 = recipe.seed, bf16
        self._objective = objective_of(recipe.objective)
        signals, self._front = recipe.objective.signals, recipe.model.front
        self._signals = replace(signals, phase=recipe.needs_phase)
        self._device, self._dtype = device, weights_dtype(recipe)
        self._mixed = mixed(recipe, bf16)

    def terms(
        self, model: nn.Module, batch: CodedBatch, *, training: bool, seed: int | None = None
    ) -> dict[str, Tensor]:
        """Term of the objective → losses `[item]`; the recipe's seed unless another one is given.

        Where it is not told to train, the model is in evaluation mode meanwhile, whatever mode it is in.
        """
        sounds = sounds_of(batch, self._signals, self._device, self._dtype)
        sounds = {name: seen_by(self._front, sound) for name, sound in sounds.items()}
        seed = self.seed if seed is None else seed
        draws = Draws.of_items(seed, [item.index for item in batch.items], self._device)
        mode = contextlib.nullcontext() if training else evaluating(model)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._mixed), mode:
            found = item_losses(self._objective, model, sounds, draws, training=training, front=self._front)
        return {name: losses.to(self._dtype) for name, losses in found.items()}

    def total(self, model: nn.Module, batch: CodedBatch, *, training: bool, seed: int | None = None) -> Tensor:
        """The sum of the terms, `[item]`: what is minimised."""
        return total_of(list(self.terms(model, batch, training=training, seed=seed).values()))


def total_of(terms: Sequence[Tensor]) -> Tensor:
    """Terms added up, in order."""
    first, *rest = terms
    for term in rest:
        first = first + term
    return first


def add_gradients(
    model: nn.Module, losses_of: ItemLosses, batch: CodedBatch, *, items: int, world: int, last: bool
) -> dict[str, Tensor]:
    """Add the gradients of a micro-batch to those that are there; with a step's last one, over all ranks.

    Args:
        model: wrapped by `World.data_parallel` where the world is more than one.
        losses_of: of the recipe.
        batch: some of the rank's items of the step.
        items: of the whole step.
        world: ranks that take part.
        last: the rank's last micro-batch of this step: what travels overlaps with its backward pass.

    Returns:
        Term of the objective → losses `[item]`, detached.
    """
    # The model itself, rather than `no_sync`: nothing travels either (the reducer waits for no gradient that its own
    # forward pass has not announced), and of a small model on a slow core that wrapper was 2.4 % of the time.
    net = model.module if world > 1 and not last else model
    terms = losses_of.terms(net, batch, training=True)  # type: ignore[arg-type]
    (total_of(list(terms.values())).sum() * (world / items)).backward()  # type: ignore[no-untyped-call]
    return {name: losses.detach() for name, losses in terms.items()}


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


def everywhere_bf16(world: World) -> bool:
    """Whether every rank `has_bf16`: what one card cannot do none does, so that every item is computed alike."""
    return bool(world.least(torch.tensor(int(has_bf16(world.device)), device=world.device)))


def mixed(recipe: Recipe, bf16: bool) -> bool:
    """Whether to compute in bfloat16: where the recipe says so, or by itself where every rank has it (`bf16`)."""
    return recipe.precision == "bfloat16" or (recipe.precision == "auto" and bf16)


def weights_dtype(recipe: Recipe) -> torch.dtype:
    """What weights, optimiser and losses are kept in."""
    return torch.float64 if recipe.precision == "float64" else torch.float32
