"""The only place where a model's answer becomes sound: training and separation both call it."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from vr_core.audio.sound import Sound
from vr_core.models.heads import Answer
from vr_core.models.layers.magnitude import CompressedMagnitude
from vr_core.specs.heads import HeadSpec

_FAINT = 1e-9
"""180 dB under a full-scale sine: no mixture of music is fainter where something is heard."""


def masks_of(head: HeadSpec, answer: Answer, magnitude: Float[Tensor, "I C F T"]) -> Inexact[Tensor, "I S C F T"]:
    """What the mixture is multiplied by, `[item, stem, channel, bin, frame]`, real or complex.

    An amplitude is taken as its ratio to the mixture, one at most: its phase is the mixture's, and a stem that is
    louder than the mixture cannot be told from one that is in another phase.

    Args:
        head: what was asked for.
        answer: of the model.
        magnitude: the mixture's.
    """
    if head.kind in ("amplitude", "compressed"):
        return (_amplitudes(head, answer) / magnitude.clamp_min(_FAINT)[:, None]).clamp(max=1)
    return answer[head.kind]


def _amplitudes(head: HeadSpec, answer: Answer) -> Float[Tensor, "I S C F T"]:
    values = answer[head.kind]
    return CompressedMagnitude.expanded(values) if head.kind == "compressed" else values


def stem_masks(
    head: HeadSpec, answer: Answer, magnitude: Float[Tensor, "I C F T"], stems: Sequence[str]
) -> Inexact[Tensor, "I stem C F T"]:
    """As `masks_of`, of some stems; the instrumental of a model that does not answer with it is what its vocals leave.

    A model of pretraining has one mask of the whole mixture, and that is taken for the instrumental's.

    Raises:
        ValueError: another stem that the model does not answer with.
    """
    masks = masks_of(head, answer, magnitude)

    def of(stem: str) -> Inexact[Tensor, "I C F T"]:
        if stem == "instrumental" and stem not in head.stems:
            return 1 - masks[:, head.stems.index("vocals")] if "vocals" in head.stems else masks[:, 0]
        return masks[:, head.stems.index(stem)]

    return torch.stack([of(stem) for stem in stems], dim=1)


def estimate(head: HeadSpec, answer: Answer, heard: Sound) -> dict[str, Sound]:
    """Stem → what the model says it is.

    Raises:
        ValueError: a complex mask on a mixture without phase.
    """
    if head.kind in ("amplitude", "compressed"):
        amplitudes = _amplitudes(head, answer)
        return {stem: Sound(heard.stft, amplitudes[:, i]) for i, stem in enumerate(head.stems)}
    masks = masks_of(head, answer, heard.magnitude)
    return {stem: _masked(masks[:, i], heard) for i, stem in enumerate(head.stems)}


def _masked(mask: Inexact[Tensor, "I C F T"], heard: Sound) -> Sound:
    if mask.is_complex():
        spectrum = mask * heard.phased()
        return Sound(heard.stft, spectrum.abs(), spectrum)
    spectrum_or_none = None if heard.spectrum is None else mask * heard.spectrum
    return Sound(heard.stft, mask * heard.magnitude, spectrum_or_none)
