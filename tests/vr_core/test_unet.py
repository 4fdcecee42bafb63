"""Jansson's U-Net: the sizes of its table, what is padded, where dropout is, and its layers written out slowly."""

import pytest
import torch
import torch.nn.functional as F

from tests.masking import mask_of
from vr_core.draws import Draws
from vr_core.models.registry import build
from vr_core.specs.heads import HeadSpec
from vr_core.specs.models import UNetSpec


def test_the_sizes_of_the_layers_are_the_papers() -> None:
    model, sizes = build(UNetSpec(), 512), []
    for layer in (*model.down, *model.up, model.output):
        layer.register_forward_hook(lambda _, __, out: sizes.append(tuple(out.shape[1:])))
    model(torch.rand(1, 2, 512, 128))
    assert sizes == [
        (16, 256, 64), (32, 128, 32), (64, 64, 16), (128, 32, 8), (256, 16, 4), (512, 8, 2),
        (256, 16, 4), (128, 32, 8), (64, 64, 16), (32, 128, 32), (16, 256, 64), (2, 512, 128),
    ]  # fmt: skip


@pytest.mark.parametrize(("bins", "frames"), [(16, 8), (13, 5), (9, 1)])
def test_the_answer_is_that_of_the_layers_written_out(bins: int, frames: int) -> None:
    torch.manual_seed(0)
    model = build(UNetSpec(channels=3, levels=3), bins, HeadSpec(stems=("vocals", "drums"))).double().eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    heard = torch.rand(2, 2, bins, frames, dtype=torch.float64)
    weights = model.state_dict()
    padded = torch.zeros(2, 2, -(-bins // 8) * 8, -(-frames // 8) * 8, dtype=torch.float64)
    padded[:, :, :bins, :frames] = heard
    x, ways_down = (torch.log10(padded + 3e-5) + 3.7) / 0.65, []

    def normed(x: torch.Tensor, name: str) -> torch.Tensor:
        mean = x.mean((1, 2, 3), keepdim=True)
        spread = ((x - mean) ** 2).mean((1, 2, 3), keepdim=True)
        scale, shift = (weights[f"{name}.norm.{key}"][:, None, None] for key in ("weight", "bias"))
        return (x - mean) / (spread + 1e-5).sqrt() * scale + shift

    def larger(x: torch.Tensor, name: str) -> torch.Tensor:
        """A transposed convolution as one of zeros between the numbers."""
        kernel = weights[f"{name}.weight"].flip(2, 3).transpose(0, 1)
        wide = torch.zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3], dtype=x.dtype)
        wide[:, :, ::2, ::2] = x
        return F.conv2d(F.pad(wide, (2, 2, 2, 2)), kernel)

    for i in range(3):
        x = normed(F.conv2d(x, weights[f"down.{i}.conv.weight"], stride=2, padding=2), f"down.{i}")
        x = torch.where(x > 0, x, 0.2 * x)
        ways_down.append(x)
    for i in range(2):
        x = normed(larger(x, f"up.{i}.conv"), f"up.{i}").clamp_min(0)
        x = torch.cat([x, ways_down[1 - i]], dim=1)
    x = (larger(x, "output") + weights["output.bias"][:, None, None])[:, :, :bins, :frames]
    expected = 1 / (1 + torch.exp(-x.reshape(2, 2, 2, bins, frames)))
    torch.testing.assert_close(model(heard)["mask"], expected, rtol=1e-10, atol=1e-12)


def test_dropout_is_after_the_first_three_layers_of_the_way_up() -> None:
    model, zeros = build(UNetSpec(channels=4, levels=6, dropout=0.5), 64), []
    for layer in (*model.up[1:], model.output):
        layer.register_forward_pre_hook(lambda _, given: zeros.append(given[0][:, : given[0].shape[1] // 2] == 0))
    mask_of(model, torch.rand(1, 2, 64, 64), Draws.of_items(0, [3]))
    with_draws = [float(z.float().mean()) for z in zeros]
    zeros.clear()
    mask_of(model, torch.rand(1, 2, 64, 64))
    without = [float(z.float().mean()) for z in zeros]
    # A rectifier leaves zeros as well; of the rest dropout takes a half.
    assert [a > b + 0.1 for a, b in zip(with_draws, without, strict=True)] == [True, True, True, False, False]


def test_it_hears_the_peak_of_the_song_where_that_is_asked_for() -> None:
    assert UNetSpec(scale="song_peak").front.scale == "song_peak"
    model = build(UNetSpec(channels=2, levels=2, scale="song_peak"), 8)
    assert torch.equal(model.compress(torch.ones(3)), torch.ones(3))
