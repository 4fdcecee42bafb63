"""Pretraining: hide runs of frames of a mixture and predict their magnitudes."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vr_core.audio.estimates import estimate
from vr_core.audio.sound import Sound, Sounds
from vr_core.draws import Draws
from vr_core.models.heads import Answer
from vr_core.objectives.objective import LOSS_SCALE, Posed
from vr_core.specs.objectives import MaskedFramesSpec

# Streams of an item's draws that belong to the objective; a model's layers count up from zero.
_CHOICE, _FILL, _NOISE = 1_000_001, 1_000_002, 1_000_003


class MaskedFrames:
    """L1 between the model's answer and the magnitudes that were hidden from it, over the hidden frames."""

    def __init__(self, spec: MaskedFramesSpec) -> None:
        """`spec` says how much is hidden, and how."""
        self._spec = spec

    def pose(self, sounds: Sounds, draws: Draws) -> Posed:
        """The mixture with frames hidden."""
        mixture = sounds["mixture"]
        hidden_it, shown = hide_frames(self._spec, mixture.magnitude, draws)
        spectrum = mixture.spectrum
        if spectrum is not None:  # what fills a frame has phase zero: nothing is left of the frame
            filled = (shown != mixture.magnitude).any(dim=1, keepdim=True).any(dim=2, keepdim=True)
            spectrum = torch.where(filled, shown.to(spectrum.dtype), spectrum)
        return Posed(Sound(mixture.stft, shown, spectrum), {"mixture": mixture}, hidden_it)

    def judge(self, answer: Answer, posed: Posed) -> dict[str, Float[Tensor, " item"]]:
        """As `Objective.judge`."""
        assert posed.counted is not None
        [(stem, estimated)] = estimate(self._spec.head, answer, posed.heard).items()
        error_it = (estimated.magnitude - posed.targets[stem].magnitude).abs().mean(dim=(1, 2))
        return {"l1": (error_it * posed.counted).sum(dim=1) / posed.counted.sum(dim=1) * LOSS_SCALE}


def hide_frames(
    spec: MaskedFramesSpec, magnitude: Float[Tensor, "item channel bin frame"], draws: Draws
) -> tuple[Float[Tensor, "item frame"], Float[Tensor, "item channel bin frame"]]:
    """Choose tokens (runs of `token_frames` frames) and fill them: BERT's 80/10/10 rule on frames.

    Fills are set on scaled magnitudes. The lineage set its "ones" before scaling, so that for eleven days they were
    near zero and a mask times the input could not recover what they hid.

    Args:
        spec: rates.
        magnitude: the mixtures.
        draws: one stream an item.

    Returns:
        Which frames are counted, 0 or 1 (at least one token an item), and what the model is shown.
    """
    items, channels, bins, frames = magnitude.shape
    tokens = -(-frames // spec.token_frames)
    choice = draws.fold(_CHOICE).uniform((tokens,))
    chosen = choice < spec.rate
    chosen |= choice == choice.min(dim=1, keepdim=True).values
    fill = draws.fold(_FILL).uniform((tokens,))
    ones, noisy = chosen & (fill < spec.ones), chosen & (fill >= spec.ones) & (fill < spec.ones + spec.noise)

    def per_frame(by_token: Bool[Tensor, "item token"]) -> Bool[Tensor, "item frame"]:
        return by_token.repeat_interleave(spec.token_frames, dim=1)[:, :frames]

    shown = torch.where(per_frame(ones)[:, None, None, :], 1.0, magnitude)
    for item, token in noisy.nonzero().tolist():
        first = token * spec.token_frames
        width = min(spec.token_frames, frames - first)
        row = torch.tensor([item], device=magnitude.device)
        noise = draws[row].fold(_NOISE).fold(token).uniform((channels, bins, spec.token_frames))[0]
        shown[item, :, :, first : first + width] = noise[..., :width].to(shown.dtype)
    return per_frame(chosen).to(magnitude.dtype), shown
