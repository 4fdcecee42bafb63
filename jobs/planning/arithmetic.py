"""What a recipe's model is in numbers, without computing anything: parameters, arithmetic and bytes of an item."""

import math
from dataclasses import dataclass

import torch

from dataprep.preparing.song import SongSettings
from dataprep.shards.columns import CHANNELS, bin_bytes
from dataprep.shards.manifest import read_manifest
from jobs.recipe import Recipe
from jobs.recipes.checks import require_hearable
from vr_core.lora import adapt
from vr_core.models.figures import forward_flop, unheard
from vr_core.models.registry import build
from vr_core.optim import parameter_groups
from vr_core.small_files import expanded


@dataclass(frozen=True)
class Arithmetic:
    """Of one recipe."""

    bins: int
    shapes: tuple[tuple[int, ...], ...]
    """Of the trained parameters."""
    item_flop: float
    """Forward and backward: `passes_of` times the forward pass's products and sums."""
    item_bytes: int
    """As stored: of each signal that the objective reads, by the data set's codecs."""

    @property
    def parameters(self) -> int:
        """Trained ones."""
        return sum(math.prod(shape) for shape in self.shapes)


def passes_of(recipe: Recipe) -> int:
    """A step's arithmetic in forward passes: that pass, gradients of what layers hear, and gradients of their weights.

    LoRA computes none of the weights that stay. What is recomputed is a second forward pass.
    """
    recomputed = bool(getattr(recipe.model, "recompute", False))
    return 2 + (recipe.lora is None) + recomputed


def arithmetic_of(recipe: Recipe) -> Arithmetic:
    """Counted on tensors without memory; bins and codecs are the data set's where the recipe names one."""
    data = expanded(recipe.data) if recipe.data is not None else None
    assumed = SongSettings(mixture_codec="polar8" if recipe.needs_phase else "magnitude8")
    stored = read_manifest(data) if data is not None else assumed
    stft = stored.stft
    require_hearable(recipe, stored)
    front, stored_frames = recipe.model.front, recipe.batch.crop_frames
    with torch.device("meta"):
        model = build(recipe.model, front.bins_on(stft), recipe.objective.head)
        flop = forward_flop(model, unheard(front, front.bins_on(stft), front.frames_on(stft, stored_frames)))
        if recipe.lora is not None:
            adapt(model, recipe.lora)
    parameter_groups(model, recipe.optim)  # takes frozen ones out
    return Arithmetic(
        bins=stft.bins,
        shapes=tuple(tuple(p.shape) for p in model.parameters() if p.requires_grad),
        item_flop=float(passes_of(recipe) * flop),
        item_bytes=sum(bin_bytes(stored.codec_of(slot.stem)) for slot in recipe.objective.signals.slots)
        * CHANNELS
        * stft.bins
        * stored_frames,
    )
