"""Objectives: which frames are hidden, how, and that an item's loss does not depend on the batch it stands in."""

import itertools
import typing

import pytest
import torch

from tests.vr_core.posed import SEPARATIONS, STFT, WEIGHTED, Identity, example, phased, told
from vr_core.audio.estimates import estimate, masks_of, stem_masks
from vr_core.audio.sound import Sound
from vr_core.draws import Draws
from vr_core.models.layers.magnitude import CompressedMagnitude
from vr_core.models.registry import build
from vr_core.objectives.masked_frames import hide_frames
from vr_core.objectives.objective import LOSS_SCALE, item_losses
from vr_core.objectives.registry import OBJECTIVES, objective_of
from vr_core.specs.heads import HeadSpec
from vr_core.specs.models import (
    BsRoformerSpec,
    CascadedNetSpec,
    DenseFrameTransformerSpec,
    FrameUNetSpec,
    MelRoformerSpec,
    MMDenseLstmSpec,
    MMDenseNetSpec,
    ModelSpec,
    PlainStackSpec,
    SeedFrameTransformerSpec,
    UNetSpec,
)
from vr_core.specs.objectives import MaskedFramesSpec, ObjectiveSpec
from vr_core.specs.stft import StftSpec


def test_every_tag_has_a_function() -> None:
    specs = typing.get_args(typing.get_args(ObjectiveSpec)[0])
    assert {spec.model_fields["name"].default for spec in specs} == set(OBJECTIVES)


def test_hidden_frames_follow_the_rates_and_only_they_change() -> None:
    spec = MaskedFramesSpec(rate=0.25, token_frames=4)
    x = torch.rand(400, 2, 3, 30) * 0.01 + 0.001
    hidden, shown = hide_frames(spec, x, Draws.of_items(1, range(400)))
    assert (shown == x).all(dim=(1, 2))[hidden == 0].all()
    tokens = hidden[:, ::4]
    assert torch.equal(tokens.repeat_interleave(4, dim=1)[:, :30], hidden)  # whole tokens, the last one cut short
    assert tokens.mean().item() == pytest.approx(0.25, abs=0.03)
    per_token = shown[:, :, :, ::4]
    ones = (per_token == 1).all(dim=(1, 2))
    kept = (per_token == x[:, :, :, ::4]).all(dim=(1, 2)) & tokens.bool()
    noise = tokens.bool() & ~ones & ~kept
    total = tokens.sum()
    assert ones.sum().item() / total == pytest.approx(0.8, abs=0.04)
    assert noise.sum().item() / total == pytest.approx(0.1, abs=0.03)
    assert kept.sum().item() / total == pytest.approx(0.1, abs=0.03)
    levels = per_token.permute(0, 3, 1, 2)[noise]
    assert levels.mean().item() == pytest.approx(0.5, abs=0.03)  # noise on the scale of the fills, not of the music


def test_at_least_one_token_is_hidden_in_every_item() -> None:
    x = torch.rand(50, 2, 3, 16)
    hidden, _ = hide_frames(MaskedFramesSpec(rate=0.001, token_frames=4), x, Draws.of_items(1, range(50)))
    assert (hidden.sum(dim=1) >= 4).all()


def test_masked_loss_counts_hidden_frames_only() -> None:
    spec = MaskedFramesSpec(rate=0.3, token_frames=2, ones=1.0, noise=0.0)
    x = torch.rand(5, 2, 3, 12)
    draws = Draws.of_items(2, range(5))
    hidden, _ = hide_frames(spec, x, draws)
    losses = item_losses(objective_of(spec), Identity(0.5), {"mixture": Sound(STFT, x)}, draws, training=False)["l1"]
    for i in range(5):
        frames = hidden[i].bool()
        assert losses[i].item() == pytest.approx((0.5 - x[i][:, :, frames]).abs().mean().item() * LOSS_SCALE, rel=1e-5)


def test_of_a_mixture_with_phase_nothing_of_a_filled_frame_is_heard() -> None:
    mixture, draws = phased(6, 16, 0), Draws.of_items(2, range(6))
    spec = MaskedFramesSpec(rate=0.5, token_frames=2, ones=0.4, noise=0.4)
    hidden, shown = hide_frames(spec, mixture.magnitude, draws)
    posed = objective_of(spec).pose({"mixture": mixture}, draws)
    heard = posed.heard.phased()
    torch.testing.assert_close(heard.abs(), shown)
    filled = 0
    for item, frame in itertools.product(range(6), range(16)):
        if torch.equal(shown[item, ..., frame], mixture.magnitude[item, ..., frame]):
            assert torch.equal(heard[item, ..., frame], mixture.phased()[item, ..., frame])
        else:
            assert hidden[item, frame]
            assert torch.equal(heard[item, ..., frame].real, shown[item, ..., frame])
            assert not heard[item, ..., frame].imag.any()
            filled += 1
    assert 0 < filled < 6 * 16
    assert objective_of(spec).pose({"mixture": Sound(STFT, mixture.magnitude)}, draws).heard.spectrum is None


MODELS = [
    DenseFrameTransformerSpec(width=8, blocks=2, heads=2, feedforward=8, dropout=0.3),
    DenseFrameTransformerSpec(width=STFT.bins, blocks=1, heads=2, feedforward=8, dropout=0.3),  # nothing projected
    PlainStackSpec(width=8, blocks=1, kernel_frames=3, dropout=0.3),
]
OWN_STFT = {"stft": StftSpec(n_fft=64, hop=16), "dropout": 0.3}
ROFORMER = {"width": 8, "blocks": 1, "heads": 2, "head_width": 4, "mask_expansion": 1}
HEARING_PHASE = [BsRoformerSpec(**ROFORMER, **OWN_STFT), MelRoformerSpec(mel_bands=4, **ROFORMER, **OWN_STFT)]


CUT = [(model, spec) for model in MODELS for spec in (MaskedFramesSpec(token_frames=3), *SEPARATIONS)]
CUT += [(model, spec) for model in HEARING_PHASE for spec in SEPARATIONS]  # mixtures are stored without phase
FROZEN = CascadedNetSpec(channels=4, lstm=4, norm="frozen_batch", phase=True, **OWN_STFT)
CUT += [(CascadedNetSpec(channels=4, lstm=4, dropout=0.3), spec) for _, spec in CUT[:13:3]]
CUT += [(FROZEN, spec) for spec in SEPARATIONS[::5]]
CUT += [(model, spec) for model in (MODELS[0], HEARING_PHASE[1]) for spec in WEIGHTED]
FRAMES_OF = {"heads": 2, "dropout": 0.3}
LINEAGE = [
    UNetSpec(channels=2, levels=2, dropout=0.3), MMDenseNetSpec(), MMDenseLstmSpec(),
    SeedFrameTransformerSpec(blocks=1, feedforward=8, crop_frames=16, **FRAMES_OF),
    FrameUNetSpec(channels=2, levels=2, **FRAMES_OF),
    *(
        DenseFrameTransformerSpec(
            width=8, blocks=1, feedforward=8, block=block, positions=positions, causal=causal, **FRAMES_OF
        )
        for block, positions, causal in (
            ("evolved", "scalar", False), ("evolved_decoder", "relative", True), ("primer_ez", "rotary", False),
            ("primer", "relative", True),
        )
    ),
]  # fmt: skip
CUT += [(model, SEPARATIONS[0]) for model in LINEAGE]


@pytest.mark.parametrize(("model", "spec"), CUT, ids=lambda x: told(x) if hasattr(x, "signals") else x.name)
def test_the_gradient_is_the_same_for_any_cut_with_dropout_on(model: ModelSpec, spec: ObjectiveSpec) -> None:
    """The sum over pieces equals one batch, in float64."""
    torch.manual_seed(0)
    net, front = build(model, model.front.bins_on(STFT), spec.head).double(), model.front
    whole = example(6)
    if front.stft:
        whole = {name: sound.at(front.stft, nyquist=front.nyquist) for name, sound in whole.items()}

    def gradient(pieces: list[int]) -> torch.Tensor:
        net.zero_grad()
        at = 0
        for n in pieces:
            piece = slice(at, at + n)
            draws = Draws.of_items(3, range(100 + at, 100 + at + n))
            sounds = {k: Sound(s.stft, s.magnitude[piece], s.phased()[piece]) for k, s in whole.items()}
            terms = item_losses(objective_of(spec), net, sounds, draws, training=True, front=front)
            (sum(terms.values()).sum() / 6).backward()
            at += n
        return torch.cat([p.grad.flatten() for p in net.parameters()])

    for cut in ([1, 5], [2, 3, 1], [1] * 6):
        torch.testing.assert_close(gradient(cut), gradient([6]), rtol=1e-9, atol=1e-12)


def test_an_amplitude_is_a_ratio_of_at_most_one_in_separation_and_itself_in_training() -> None:
    head, heard = HeadSpec(kind="amplitude", stems=("vocals",)), phased(1, 4, 0)
    said = {"amplitude": heard.magnitude[:, None] * torch.tensor([0.0, 0.5, 1.0, 3.0], dtype=torch.float64)}
    masks = masks_of(head, said, heard.magnitude)[0, 0]
    torch.testing.assert_close(masks[0, 0], torch.tensor([0.0, 0.5, 1.0, 1.0], dtype=torch.float64))
    assert torch.equal(estimate(head, said, heard)["vocals"].magnitude, said["amplitude"][:, 0])


def test_a_compressed_magnitude_is_what_the_network_sees_of_it() -> None:
    head, heard = HeadSpec(kind="compressed", stems=("vocals",)), phased(1, 4, 0)
    wanted = heard.magnitude[:, None] * torch.tensor([0.0, 0.5, 1.0, 3.0], dtype=torch.float64)
    said = {"compressed": CompressedMagnitude()(wanted)}
    torch.testing.assert_close(estimate(head, said, heard)["vocals"].magnitude, wanted[:, 0], rtol=1e-9, atol=1e-15)
    masks = masks_of(head, said, heard.magnitude)[0, 0]
    torch.testing.assert_close(masks[0, 0], torch.tensor([0.0, 0.5, 1.0, 1.0], dtype=torch.float64))
    silent = {"compressed": torch.full_like(wanted, -9.0)}
    assert not estimate(head, silent, heard)["vocals"].magnitude.any()


@pytest.mark.parametrize(
    "stems", [("instrumental",), ("vocals",), ("vocals", "instrumental"), ("instrumental", "vocals")]
)
def test_the_instrumental_is_what_was_asked_for_or_what_the_vocals_leave(stems: tuple[str, ...]) -> None:
    values = {"instrumental": 0.75, "vocals": 0.5}
    answer = torch.stack([torch.full((1, 2, 3, 4), values[stem]) for stem in stems], dim=1)
    mask = stem_masks(HeadSpec(stems=stems), {"mask": answer}, torch.ones(1, 2, 3, 4), ["instrumental"])[:, 0]
    assert mask.unique().tolist() == [0.5 if stems == ("vocals",) else 0.75]


def test_a_complex_mask_needs_a_mixture_with_phase() -> None:
    head = HeadSpec(kind="complex_mask")
    said = {"complex_mask": torch.ones(1, 1, 2, STFT.bins, 4, dtype=torch.complex128)}
    with pytest.raises(ValueError, match="no phase"):
        estimate(head, said, Sound(STFT, torch.ones(1, 2, STFT.bins, 4)))
