"""Objectives: which frames are hidden, how, and that an item's loss does not depend on the batch it stands in."""

import typing

import pytest
import torch

from vr_core.draws import Draws
from vr_core.models.registry import build
from vr_core.objectives.masked_frames import hide_frames
from vr_core.objectives.objective import LOSS_SCALE, item_losses
from vr_core.objectives.registry import OBJECTIVES, objective_of
from vr_core.objectives.separate import Separate
from vr_core.specs.models import DenseFrameTransformerSpec
from vr_core.specs.objectives import MaskedFramesSpec, ObjectiveSpec, SeparateSpec


class Identity(torch.nn.Module):
    """A model whose mask is one value everywhere."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: torch.Tensor, draws: Draws | None = None) -> torch.Tensor:
        return torch.full_like(x, self.value)


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
    losses = item_losses(objective_of(spec), Identity(0.5), {"mixture": x}, draws, training=False)["l1"]
    for i in range(5):
        frames = hidden[i].bool()
        assert losses[i].item() == pytest.approx((0.5 - x[i][:, :, frames]).abs().mean().item() * LOSS_SCALE, rel=1e-5)


def test_separation_loss_is_l1_on_the_instrumentals_magnitude() -> None:
    x, y = torch.rand(3, 2, 4, 5), torch.rand(3, 2, 4, 5)
    sounds, draws = {"mixture": x, "instrumental": y}, Draws.of_items(0, range(3))
    losses = item_losses(Separate(SeparateSpec()), Identity(0.25), sounds, draws, training=True)["l1"]
    torch.testing.assert_close(losses, (0.25 * x - y).abs().mean(dim=(1, 2, 3)) * LOSS_SCALE)


@pytest.mark.parametrize("spec", [MaskedFramesSpec(token_frames=3), SeparateSpec()], ids=lambda s: s.name)
@pytest.mark.parametrize("cut", [[6], [1, 5], [2, 3, 1], [1] * 6])
def test_the_gradient_is_the_same_for_any_cut_with_dropout_on(spec: ObjectiveSpec, cut: list[int]) -> None:
    """The sum over pieces equals one batch, in float64."""
    torch.manual_seed(0)
    model = build(DenseFrameTransformerSpec(width=8, blocks=2, heads=2, feedforward=8, dropout=0.3), bins=16).double()
    x = torch.rand(6, 2, 16, 10, dtype=torch.float64) * 0.1
    y = x * torch.rand_like(x)

    def gradient(pieces: list[int]) -> torch.Tensor:
        model.zero_grad()
        at = 0
        for n in pieces:
            piece = slice(at, at + n)
            draws = Draws.of_items(3, range(100 + at, 100 + at + n))
            sounds = {"mixture": x[piece], "instrumental": y[piece]}
            losses = item_losses(objective_of(spec), model, sounds, draws, training=True)["l1"]
            (losses.sum() / 6).backward()
            at += n
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    torch.testing.assert_close(gradient(cut), gradient([6]), rtol=1e-9, atol=1e-12)
