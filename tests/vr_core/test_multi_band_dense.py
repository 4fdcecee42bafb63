"""The multi-band dense nets: their parts written out slowly, their sizes, and what becomes of amplitudes."""

import pytest
import torch
import torch.nn.functional as F

from vr_core.audio.estimates import masks_of
from vr_core.config import validate
from vr_core.models.multi_band_dense import (
    BinAffine,
    DenseBlock,
    DenseUNet,
    GatedOutput,
    LstmMap,
    NetShape,
    SameConv,
    sections_of,
)
from vr_core.models.registry import build
from vr_core.specs.heads import HeadSpec
from vr_core.specs.models import MMDenseLstmSpec, MMDenseNetSpec
from vr_core.specs.objectives import SeparateSpec
from vr_core.specs.stft import StftSpec


@pytest.mark.parametrize("kernel", [(3, 3), (4, 3), (2, 1)])
@pytest.mark.parametrize("dilated", [False, True])
def test_a_dense_block_is_a_sum_over_all_layers_before(kernel: tuple[int, int], dilated: bool) -> None:
    torch.manual_seed(0)
    block = DenseBlock(5, 2, 3, kernel, dilated=dilated).double()
    maps = [torch.randn(2, 5, 7, 6, dtype=torch.float64)]
    for layer in range(3):
        total = torch.zeros(2, 2, 7, 6, dtype=torch.float64)
        for source in range(layer + 1):
            norm, conv = block.norms[source], block.convs[source].conv
            mean = maps[source].mean((1, 2, 3), keepdim=True)
            spread = maps[source].var((1, 2, 3), keepdim=True, correction=0)
            heard = (maps[source] - mean) / (spread + norm.eps).sqrt() * norm.weight[:, None, None]
            heard = (heard + norm.bias[:, None, None]).clamp_min(0)
            dilation = 2**source if dilated else 1
            chosen = slice(2 * (layer - source), 2 * (layer - source) + 2)
            high, wide = (dilation * (size - 1) for size in kernel)
            padded = F.pad(heard, (wide // 2, wide - wide // 2, high // 2, high - high // 2))
            total += F.conv2d(padded, conv.weight[chosen], conv.bias[chosen], dilation=dilation)
        maps.append(total)
    torch.testing.assert_close(block(maps[0]), maps[-1], rtol=1e-10, atol=1e-12)


def test_a_kernel_of_even_size_looks_one_further_up_than_down() -> None:
    conv = SameConv(1, 1, (4, 1)).double()
    conv.conv.weight.data.fill_(1)
    conv.conv.bias.data.zero_()
    x = torch.zeros(1, 1, 9, 3, dtype=torch.float64)
    x[0, 0, 4, 1] = 1
    assert conv(x)[0, 0, :, 1].nonzero().flatten().tolist() == [2, 3, 4, 5]


def test_the_lstm_goes_over_frames_with_bins_as_features() -> None:
    torch.manual_seed(0)
    part = LstmMap(3, 5, 4)
    x = torch.randn(2, 3, 5, 7)
    found = part(x)
    assert found.shape == (2, 1, 5, 7)
    for item in range(2):
        one = (x[item] * part.conv.weight[0]).sum(0) + part.conv.bias  # [bin, frame]
        states, _ = part.lstm(one.T[None])
        torch.testing.assert_close(found[item, 0].T, states[0] @ part.linear.weight.T + part.linear.bias)


def test_each_bin_has_an_affine_map_on_the_way_in_and_out() -> None:
    torch.manual_seed(0)
    into, out = BinAffine(5), GatedOutput(3, 2, 5)
    for part in (into, out):
        part.scale.data, part.bias.data = torch.randn(5), torch.randn(5)
    x = torch.randn(2, 3, 5, 4)
    expected = torch.stack([(x[:, :, i] - into.bias[i]) / into.scale[i].abs() for i in range(5)], dim=2)
    torch.testing.assert_close(into(x), expected)
    maps = out.conv(out.norm(x))
    gated = maps[:, :2] / (1 + torch.exp(-maps[:, 2:]))
    expected = torch.stack([gated[:, :, i] * out.scale[i] + out.bias[i] for i in range(5)], dim=2)
    torch.testing.assert_close(out(x), expected)


def test_sizes_halve_upwards_rounded_and_come_back() -> None:
    net, sizes = DenseUNet(NetShape(4, (2,) * 5, (1,) * 5, (3, 3), {2: 4, 3: 2}), 13, outputs=6), []
    for block in (*net.down, net.bottom, *net.up):
        block.register_forward_hook(lambda _, __, out: sizes.append(tuple(out.shape[1:])))
    assert net(torch.rand(1, 2, 13, 9)).shape == (1, 6, 13, 9)
    assert sizes == [(2, 13, 9), (2, 7, 5), (3, 4, 3), (3, 7, 5), (2, 13, 9)]


def test_bands_are_the_published_ones_at_the_published_size_and_near_them_at_others() -> None:
    assert sections_of(1025, (512, 513)) == [512, 513]
    assert sections_of(2049, (380, 640, 1029)) == [380, 640, 1029]
    assert sections_of(1024, (380, 640, 1029)) == [190, 320, 514]
    with pytest.raises(ValueError, match="1 bins are too few for 3 bands"):
        sections_of(1, (380, 640, 1029))


@pytest.mark.parametrize("spec", [MMDenseNetSpec(), MMDenseLstmSpec()])
def test_amplitudes_are_rectified_and_no_louder_than_the_mixture_in_separation(spec) -> None:
    objective = validate(SeparateSpec, {"name": "separate", "mask": "amplitude"}, "x")
    torch.manual_seed(0)
    model, heard = build(spec, 16, objective.head), torch.rand(1, 2, 16, 8)
    model.output.bias.data.fill_(0.3)
    answer = model(heard)
    assert objective.head == HeadSpec(kind="amplitude")
    assert not objective.signals.phase
    assert (answer["amplitude"] >= 0).all()
    masks = masks_of(objective.head, answer, heard)
    torch.testing.assert_close(masks, (answer["amplitude"] / heard[:, None]).clamp(max=1))
    assert masks.max() == 1


def test_with_an_stft_of_its_own_it_hears_the_nyquist_bin() -> None:
    front = MMDenseLstmSpec(stft=StftSpec(n_fft=4096)).front
    assert (front.bins_on(StftSpec()), front.nyquist, front.takes_phase) == (2049, True, True)
    assert MMDenseLstmSpec().front.bins_on(StftSpec()) == 1024
