"""The U-Net over bins: the sizes of its table, what joins frames, and its layers written out slowly."""

import pytest
import torch
import torch.nn.functional as F

from tests.masking import mask_of
from vr_core.draws import Draws
from vr_core.errors import ModelError
from vr_core.models.frame_unet import FrameUNet
from vr_core.models.registry import build
from vr_core.specs.heads import HeadSpec
from vr_core.specs.models import FrameUNetSpec

TINY = FrameUNetSpec(channels=3, levels=2, heads=2, expansion=2, max_distance_frames=5, dropout=0.5)


def random_of(spec: FrameUNetSpec, bins: int, head: HeadSpec | None = None) -> FrameUNet:
    torch.manual_seed(0)
    model = build(spec, bins, head or HeadSpec()).double().eval()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    assert isinstance(model, FrameUNet)
    return model


def test_the_sizes_of_the_levels_are_those_of_its_table() -> None:
    model, sizes = build(FrameUNetSpec(), 1024), []
    for level in (model.input, *model.down, *model.up, model.output):
        level.register_forward_hook(lambda _, __, out: sizes.append((out.shape[3], out.shape[1], out.shape[2])))
    model(torch.rand(1, 2, 1024, 7))
    assert sizes == [
        (1024, 8, 7), (1024, 9, 7), (512, 17, 7), (256, 25, 7), (128, 33, 7), (64, 41, 7),
        (128, 33, 7), (256, 25, 7), (512, 17, 7), (1024, 9, 7), (1024, 2, 7),
    ]  # fmt: skip
    widths = [block.parts[0].norm.normalized_shape[0] for block in (level.block for level in model.down)]
    assert widths == [1024, 512, 256, 128, 64]


def test_levels_of_more_bins_than_told_have_no_block() -> None:
    model = build(TINY.model_copy(update={"block_bins": 8}), 16)
    assert [level.block is not None for level in model.down] == [False, True, True]
    assert [level.level.block is not None for level in model.up] == [True, False]


@pytest.mark.parametrize(("bins", "frames"), [(16, 5), (13, 3), (15, 1)])
def test_the_answer_is_that_of_the_layers_written_out(bins: int, frames: int) -> None:
    model = random_of(TINY, bins, HeadSpec(stems=("vocals", "drums")))
    heard = torch.rand(2, 2, bins, frames, dtype=torch.float64)
    weights, width = model.state_dict(), -(-bins // 4) * 4

    def conv(x: torch.Tensor, name: str, stride: int = 1) -> torch.Tensor:
        """Of each frame by itself, `[item, map, bin]`."""
        kernel = weights[f"{name}.weight"][:, :, 0]
        columns = [
            F.conv1d(x[:, :, t], kernel, weights[f"{name}.bias"], stride, kernel.shape[-1] // 2) for t in range(frames)
        ]
        return torch.stack(columns, dim=2)

    def normed(x: torch.Tensor, name: str) -> torch.Tensor:
        mean, spread = x.mean(3, keepdim=True), x.var(3, keepdim=True, unbiased=False)
        return (x - mean) / (spread + 1e-5).sqrt() * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def level(x: torch.Tensor, name: str, stride: int, block: torch.nn.Module) -> torch.Tensor:
        y = conv(normed(x, f"{name}.residual.first_norm").clamp_min(0), f"{name}.residual.first", stride)
        y = conv(normed(y, f"{name}.residual.second_norm").clamp_min(0), f"{name}.residual.second")
        changed = f"{name}.residual.shortcut.weight" in weights
        y = y + (conv(x, f"{name}.residual.shortcut", stride) if changed else x)
        found = block(torch.stack([y[:, :, t] for t in range(frames)], dim=1))
        return torch.cat([y, found.unsqueeze(1)], dim=1)

    def larger(x: torch.Tensor, name: str) -> torch.Tensor:
        """Bin b of the maps becomes bins 2b and 2b + 1, each by a matrix of its own."""
        kernel, y = weights[f"{name}.weight"][:, :, 0], torch.empty(0)
        y = torch.stack([torch.einsum("bctf,co->botf", x, kernel[:, :, tap]) for tap in (0, 1)], dim=-1).flatten(3)
        return y + weights[f"{name}.bias"][:, None, None]

    x = torch.cat([heard, torch.zeros(2, 2, width - bins, frames, dtype=heard.dtype)], dim=2).transpose(2, 3)
    x = (torch.log10(x + 3e-5) + 3.7) / 0.65
    with torch.no_grad():
        x, ways = conv(x, "input"), []
        for i in range(3):
            x = level(x, f"down.{i}", 1 if i == 0 else 2, model.down[i].block)
            ways.append(x)
        for i in range(2):
            x = torch.cat([larger(x, f"up.{i}.larger"), ways[1 - i]], dim=1)
            x = level(x, f"up.{i}.level", 1, model.up[i].level.block)
        x = conv(normed(x, "output.0"), "output.1")[..., :bins].transpose(2, 3)
        expected = 1 / (1 + torch.exp(-x.reshape(2, 2, 2, bins, frames)))
        torch.testing.assert_close(model(heard)["mask"], expected, rtol=1e-10, atol=1e-12)


def test_blocks_alone_join_frames() -> None:
    model, heard = random_of(TINY.model_copy(update={"block_bins": 1}), 16), torch.rand(1, 2, 16, 6).double()
    other = heard.clone()
    other[..., 3] += 1
    changed = (mask_of(model, heard) != mask_of(model, other)).flatten(0, 2).any(0)
    assert changed.tolist() == [False, False, False, True, False, False]


def test_each_block_has_dropout_of_its_own() -> None:
    model = random_of(TINY, 16)
    blocks = [*(level.block for level in model.down), *(level.level.block for level in model.up)]
    assert [block.first_layer for block in blocks] == [0, 4, 8, 12, 16]
    heard, draws = torch.rand(1, 2, 16, 6).double(), Draws.of_items(0, [0])
    assert not torch.equal(mask_of(model, heard), mask_of(model, heard, draws))


def test_a_level_whose_block_cannot_be_made_is_named() -> None:
    with pytest.raises(ModelError, match="level of 2 bins: feedforward must be a multiple of 8 .* another expansion"):
        build(TINY.model_copy(update={"block": "evolved", "levels": 3}), 16)


def test_padding_takes_no_block_away() -> None:
    model = build(TINY.model_copy(update={"block_bins": 14}), 14)  # padded to 16
    assert all(level.block is not None for level in model.down)


@pytest.mark.parametrize(("levels", "heads"), [(8, 8), (1, 12)])
def test_heads_that_do_not_divide_a_level_are_told(levels: int, heads: int) -> None:
    with pytest.raises(ModelError, match=f"a multiple of heads, got width .* and heads {heads}; give fewer"):
        build(FrameUNetSpec(levels=levels, heads=heads), 1024)
