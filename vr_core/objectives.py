"""What a training step minimises: losses of single items, as functions of a model and magnitudes.

The loss of an item is the mean over its counted elements (masked frames, or all); what the loop minimises is the mean
of the items' losses, so that the number of items is the only divisor however the batch is cut.

Losses are stated in thousandths of full scale. Magnitudes of music are 1e-4 to 1e-2 of a full-scale sine, and with
gradients that small AdamW's epsilon of 1e-8 would act as a brake and clipping by norm would never act: measured on the
shared songs, the same stack after 600 steps was 3 dB worse.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vr_core.draws import Draws
from vr_core.specs import MaskedFramesSpec, ObjectiveSpec, SeparateSpec

THOUSANDTHS = 1000.0

# Streams of an item's draws that belong to the objective; a model's layers count up from zero.
_CHOICE, _FILL, _NOISE = 1_000_001, 1_000_002, 1_000_003


@dataclass(frozen=True)
class Magnitudes:
    """Magnitudes of a batch, `[item, channel, bin, frame]` each; `instrumental` only where the objective needs it."""

    mixture: Tensor
    instrumental: Tensor | None


def separation_losses(
    spec: SeparateSpec, model: nn.Module, magnitudes: Magnitudes, draws: Draws, model_draws: Draws | None
) -> Tensor:
    """L1 between mask × mixture and the instrumental, over all elements: `[item]`."""
    if magnitudes.instrumental is None:
        raise ValueError("the objective separate needs the instrumental's magnitudes")
    estimate = model(magnitudes.mixture, model_draws) * magnitudes.mixture
    return (estimate - magnitudes.instrumental).abs().mean(dim=(1, 2, 3)) * THOUSANDTHS


def masked_frame_losses(
    spec: MaskedFramesSpec, model: nn.Module, magnitudes: Magnitudes, draws: Draws, model_draws: Draws | None
) -> Tensor:
    """L1 between the model's answer and the magnitudes that were hidden from it, over the hidden frames: `[item]`."""
    target = magnitudes.mixture
    hidden_it, shown = hide_frames(spec, target, draws)
    error_it = (model(shown, model_draws) * shown - target).abs().mean(dim=(1, 2))
    return (error_it * hidden_it).sum(dim=1) / hidden_it.sum(dim=1) * THOUSANDTHS


def hide_frames(spec: MaskedFramesSpec, magnitude: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """Choose tokens (runs of `token_frames` frames) and fill them: BERT's 80/10/10 rule on frames.

    Fills are set on scaled magnitudes. The lineage set its "ones" before scaling, so that for eleven days they were
    near zero and a mask times the input could not recover what they hid.

    Args:
        spec: rates.
        magnitude: `[item, channel, bin, frame]`.
        draws: one stream an item.

    Returns:
        Which frames are counted, `[item, frame]` float 0 or 1 (at least one token an item), and what the model is
        shown, `[item, channel, bin, frame]`.
    """
    items, channels, bins, frames = magnitude.shape
    tokens = -(-frames // spec.token_frames)
    choice = draws.fold(_CHOICE).uniform((tokens,))
    chosen = choice < spec.rate
    chosen |= choice == choice.min(dim=1, keepdim=True).values
    fill = draws.fold(_FILL).uniform((tokens,))
    ones, noisy = chosen & (fill < spec.ones), chosen & (fill >= spec.ones) & (fill < spec.ones + spec.noise)

    def per_frame(by_token: Tensor) -> Tensor:
        return by_token.repeat_interleave(spec.token_frames, dim=1)[:, :frames]

    shown = torch.where(per_frame(ones)[:, None, None, :], 1.0, magnitude)
    for item, token in noisy.nonzero().tolist():
        first = token * spec.token_frames
        width = min(spec.token_frames, frames - first)
        row = torch.tensor([item], device=magnitude.device)
        noise = draws[row].fold(_NOISE).fold(token).uniform((channels, bins, spec.token_frames))[0]
        shown[item, :, :, first : first + width] = noise[..., :width].to(shown.dtype)
    return per_frame(chosen).to(magnitude.dtype), shown


# name → losses `[item]` of (spec, model, magnitudes, the items' draws, the same for the model or None in evaluation)
OBJECTIVES: dict[str, Callable[[Any, nn.Module, Magnitudes, Draws, Draws | None], Tensor]] = {
    "masked_frames": masked_frame_losses,
    "separate": separation_losses,
}


def item_losses(
    spec: ObjectiveSpec, model: nn.Module, magnitudes: Magnitudes, draws: Draws, *, training: bool
) -> Tensor:
    """Losses `[item]` of a batch under the objective of `spec`; with dropout where `training`."""
    return OBJECTIVES[spec.name](spec, model, magnitudes, draws, draws if training else None)
