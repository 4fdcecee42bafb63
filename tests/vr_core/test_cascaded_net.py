"""The network of tsurumeso's vocal-remover: published sizes and names, a slow forward pass, statistics, peaks."""

import pytest
import torch
import torch.nn.functional as F

from vr_core.audio.sound import Sound, heard_by
from vr_core.draws import Draws
from vr_core.models.per_item import require_per_item
from vr_core.models.registry import build
from vr_core.optim import WeightAverage
from vr_core.optimisers import adamw
from vr_core.specs.heads import MASK, HeadSpec
from vr_core.specs.models import CascadedNetSpec
from vr_core.specs.optim import OptimSpec
from vr_core.specs.stft import StftSpec

SMALL = StftSpec(n_fft=64, hop=32)
PUBLISHED = {"norm": "frozen_batch", "stft": StftSpec()}
COMPLEX = HeadSpec(kind="complex_mask")
BOTH = HeadSpec(stems=("instrumental", "vocals"))


@pytest.mark.parametrize(
    ("spec", "head", "parameters", "keys"),
    [
        ({"auxiliary": True}, MASK, 14_740_882, 689),
        ({"auxiliary": True, "channels": 96, "lstm": 512}, MASK, 129_170_978, 689),
        ({"auxiliary": True, "phase": True}, COMPLEX, 14_742_866, 689),
        ({}, BOTH, 14_740_898, 688),
    ],
    ids=["v5", "wide", "complex", "v6"],
)
def test_the_published_sizes(spec, head, parameters, keys):
    with torch.device("meta"):
        model = build(CascadedNetSpec(**PUBLISHED, **spec), 1025, head)
    state = model.state_dict()
    unused = state["aux_out.weight"].numel() if "aux_out.weight" in state else 0
    assert sum(p.numel() for p in model.parameters()) + unused == parameters
    assert len(state) == keys
    assert sum(name.endswith("num_batches_tracked") for name in state) == 107


def test_the_published_names_and_shapes():
    with torch.device("meta"):
        state = build(CascadedNetSpec(auxiliary=True, **PUBLISHED), 1025, MASK).state_dict()
    wanted = {
        "stg1_low_band_net.0.enc1.conv.0.weight": (16, 2, 3, 3), "stg1_low_band_net.1.conv.0.weight": (8, 16, 1, 1),
        "stg1_high_band_net.enc2.conv1.conv.1.running_mean": (16,),
        "stg2_low_band_net.0.enc1.conv.0.weight": (32, 10, 3, 3),
        "stg3_full_band_net.enc5.conv2.conv.0.weight": (256, 256, 3, 3),
        "stg3_full_band_net.aspp.conv1.1.conv.0.weight": (256, 256, 1, 1),
        "stg3_full_band_net.aspp.conv5.conv.1.num_batches_tracked": (),
        "stg3_full_band_net.aspp.bottleneck.conv.0.weight": (256, 1280, 1, 1),
        "stg3_full_band_net.dec4.conv1.conv.0.weight": (192, 448, 3, 3),
        "stg3_full_band_net.lstm_dec2.lstm.weight_ih_l0_reverse": (256, 512),
        "stg3_full_band_net.lstm_dec2.dense.0.weight": (512, 128), "stg3_full_band_net.lstm_dec2.dense.1.bias": (512,),
        "stg3_full_band_net.dec1.conv1.conv.0.weight": (32, 97, 3, 3), "out.weight": (2, 32, 1, 1),
        "aux_out.weight": (2, 24, 1, 1),
    }  # fmt: skip
    assert {name: tuple(state[name].shape) for name in wanted} == wanted


class Slow:
    """The network by its definition, from a state dict; float64, without dropout."""

    def __init__(self, state, spec):
        self.state, self.spec = state, spec

    def norm(self, x, prefix):
        weight, bias = (self.state[f"{prefix}.{name}"] for name in ("weight", "bias"))
        places = (1, -1, *[1] * (x.ndim - 2))
        if self.spec.norm == "item":
            mean = torch.stack([item.mean() for item in x])
            var = torch.stack([((item - item.mean()) ** 2).mean() for item in x])
            places_of_statistics = (-1, *[1] * (x.ndim - 1))
        else:
            mean, var = (self.state[f"{prefix}.running_{name}"] for name in ("mean", "var"))
            places_of_statistics = places
        x = (x - mean.reshape(places_of_statistics)) / (var.reshape(places_of_statistics) + 1e-5).sqrt()
        return x * weight.reshape(places) + bias.reshape(places)

    def conv(self, x, prefix, stride=1, dilation=(1, 1), leak=0.0):
        """Tap by tap."""
        weight = self.state[f"{prefix}.conv.0.weight"]
        reach = [(size // 2) * by for size, by in zip(weight.shape[2:], dilation, strict=True)]
        bins, frames = x.shape[2:]
        padded = F.pad(x, (reach[1], reach[1], reach[0], reach[0]))
        total = 0
        for i in range(weight.shape[2]):
            for j in range(weight.shape[3]):
                piece = padded[:, :, i * dilation[0] :, j * dilation[1] :][:, :, :bins:stride, :frames:stride]
                total = total + torch.einsum("oc,bcft->boft", weight[:, :, i, j], piece)
        x = self.norm(total, f"{prefix}.conv.1")
        return torch.where(x > 0, x, leak * x)

    def doubled(self, x):
        """Linear between the outermost values, which stay, along both axes."""
        for axis in (2, 3):
            n = x.shape[axis]
            rows = []
            for i in range(2 * n):
                place = i * (n - 1) / (2 * n - 1)
                below = min(int(place), n - 1)
                above, share = min(below + 1, n - 1), place - below
                rows.append(x.select(axis, below) * (1 - share) + x.select(axis, above) * share)
            x = torch.stack(rows, axis)
        return x

    def lstm(self, x_tbd, prefix, suffix):
        w_in, w_back, b_in, b_back = (
            self.state[f"{prefix}.{kind}_l0{suffix}"] for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        said = cell = torch.zeros(x_tbd.shape[1], w_back.shape[1], dtype=x_tbd.dtype)
        out = {}
        for t in reversed(range(len(x_tbd))) if suffix else range(len(x_tbd)):
            take, keep, new, show = (x_tbd[t] @ w_in.T + b_in + said @ w_back.T + b_back).chunk(4, dim=1)
            cell = torch.sigmoid(keep) * cell + torch.sigmoid(take) * torch.tanh(new)
            said = torch.sigmoid(show) * torch.tanh(cell)
            out[t] = said
        return torch.stack([out[t] for t in range(len(x_tbd))])

    def unet(self, x, prefix):
        levels = [self.conv(x, f"{prefix}.enc1")]
        for level in range(2, 6):
            half = self.conv(levels[-1], f"{prefix}.enc{level}.conv1", stride=2, leak=0.01)
            levels.append(self.conv(half, f"{prefix}.enc{level}.conv2", leak=0.01))
        x = levels.pop()
        mean = self.conv(x.mean(dim=2, keepdim=True), f"{prefix}.aspp.conv1.1").repeat(1, 1, x.shape[2], 1)
        dilated = [
            self.conv(x, f"{prefix}.aspp.conv{3 + i}", dilation=by) for i, by in enumerate([(4, 2), (8, 4), (12, 6)])
        ]
        x = self.conv(torch.cat([mean, self.conv(x, f"{prefix}.aspp.conv2"), *dilated], 1), f"{prefix}.aspp.bottleneck")
        for level in (4, 3, 2, 1):
            if level == 1:
                flat = self.conv(x, f"{prefix}.lstm_dec2.conv")[:, 0].permute(2, 0, 1)
                both = torch.cat([self.lstm(flat, f"{prefix}.lstm_dec2.lstm", s) for s in ("", "_reverse")], -1)
                dense = both @ self.state[f"{prefix}.lstm_dec2.dense.0.weight"].T
                dense = (dense + self.state[f"{prefix}.lstm_dec2.dense.0.bias"]).permute(1, 2, 0)
                x = torch.cat([x, self.norm(dense, f"{prefix}.lstm_dec2.dense.1").relu()[:, None]], 1)
            x = self.conv(torch.cat([self.doubled(x), levels.pop()], 1), f"{prefix}.dec{level}.conv1")
        return x

    def values(self, x):
        """Before the sigmoid, of a number of bins and frames that can be halved."""
        half = x.shape[2] // 2
        low, high = x[:, :, :half], x[:, :, half:]
        low_1 = self.conv(self.unet(low, "stg1_low_band_net.0"), "stg1_low_band_net.1")
        high_1 = self.unet(high, "stg1_high_band_net")
        low_2 = self.unet(torch.cat([low, low_1], 1), "stg2_low_band_net.0")
        low_2 = self.conv(low_2, "stg2_low_band_net.1")
        high_2 = self.unet(torch.cat([high, high_1], 1), "stg2_high_band_net")
        everything = torch.cat([x, torch.cat([low_1, high_1], 2), torch.cat([low_2, high_2], 2)], 1)
        return torch.einsum(
            "oc,bcft->boft", self.state["out.weight"][:, :, 0, 0], self.unet(everything, "stg3_full_band_net")
        )


def lively(spec, bins, head):
    """A model whose statistics are not those of its making, and whose channels do not die out."""
    torch.manual_seed(0)
    model = build(spec, bins, head).double()
    for name, tensor in model.state_dict().items():
        if name.endswith("running_mean"):
            tensor.uniform_(-0.05, 0.05)
        elif name.endswith("running_var"):
            tensor.uniform_(0.1, 0.4)
        elif name.endswith("num_batches_tracked"):
            tensor.fill_(7)
        elif ".conv.1." in name or ".dense.1." in name or name == "out.weight":
            tensor.add_(0.3 * torch.randn_like(tensor))
    return model


@pytest.mark.parametrize("norm", ["item", "frozen_batch"])
@pytest.mark.parametrize(
    ("phase", "head"), [(False, MASK), (True, COMPLEX), (False, BOTH)], ids=["real", "complex", "two stems"]
)
def test_the_answer_is_that_of_a_slow_forward_pass(norm, phase, head):
    spec = CascadedNetSpec(channels=4, lstm=8, norm=norm, phase=phase, stft=SMALL, auxiliary=True)
    model = lively(spec, 33, head).eval()
    x = torch.randn(2, 2, 33, 32, dtype=torch.complex128, generator=torch.Generator().manual_seed(1))
    heard = x if phase else x.abs()
    with torch.inference_mode():
        [found] = model(heard).values()
        planes = torch.cat([x.real, x.imag], 1) if phase else x.abs()
        values = Slow(model.state_dict(), spec).values(planes[:, :, :32])
        if phase:
            wanted = torch.complex(values[:, :2], values[:, 2:])[:, None]
            wanted = wanted * torch.tanh(wanted.abs()) / (wanted.abs() + 1e-8)
        else:
            wanted = torch.sigmoid(values).unflatten(1, (len(head.stems), 2))
    assert values.std() > 0.02  # else nothing is compared
    assert values.abs().mean() < 3
    torch.testing.assert_close(found[..., :32, :], wanted, rtol=1e-7, atol=1e-9)
    assert torch.equal(found[..., 32, :], found[..., 31, :])  # the Nyquist bin's


def test_other_numbers_of_bins_and_frames_are_padded_with_zeros():
    spec = CascadedNetSpec(channels=4, lstm=4, norm="frozen_batch")
    model = lively(spec, 40, MASK).eval()
    x = torch.rand(1, 2, 40, 21, dtype=torch.float64)
    with torch.inference_mode():
        found = model(x)["mask"][:, 0]
        wanted = torch.sigmoid(Slow(model.state_dict(), spec).values(F.pad(x, (0, 11, 0, 24))))
    torch.testing.assert_close(found, wanted[:, :, :40, :21], rtol=1e-7, atol=1e-9)


def test_statistics_of_a_file_stay_as_they_are_in_training():
    model = lively(CascadedNetSpec(channels=4, lstm=4, norm="frozen_batch", auxiliary=True, dropout=0.0), 32, MASK)
    require_per_item(model)
    buffers = {name: tensor.clone() for name, tensor in model.named_buffers()}
    assert {"stg3_full_band_net.enc1.conv.1.num_batches_tracked", "aux_out.weight"} < set(buffers)
    x = torch.rand(2, 2, 32, 16, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(model.train()(x)["mask"], model.eval()(x)["mask"])
    model.train()
    average, optimiser = WeightAverage(model, decay=0.9), adamw(model, OptimSpec(lr=1e-2))
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    for step in (1, 2):
        optimiser.zero_grad()
        model(x, Draws.of_items(0, range(2)))["mask"].square().sum().backward()
        optimiser.step()
        average.update(model, step)
    moved = [name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])]
    assert len(moved) > 0.9 * len(before)  # some single map may be below zero everywhere
    for name, tensor in buffers.items():
        assert torch.equal(dict(model.named_buffers())[name], tensor)
        assert torch.equal(average.weights[name], tensor)


def test_dropout_takes_whole_channels_of_an_item():
    model = lively(CascadedNetSpec(channels=8, lstm=4, dropout=0.5), 32, MASK)
    pyramid = model.stg3_full_band_net.aspp
    x = torch.rand(3, 64, 2, 3, dtype=torch.float64)
    plain, dropped = pyramid(x, None), pyramid(x, Draws.of_items(0, range(3)))
    shares = (dropped / plain)[(plain > 0).all(dim=(2, 3))]
    assert set(shares.flatten().round(decimals=9).tolist()) == {0.0, 2.0}
    assert (shares == shares[:, :1, :1]).all()


def test_an_item_is_heard_in_parts_of_its_own_peak():
    front = CascadedNetSpec().front
    assert (front.context_frames, front.scale) == (64, "song_peak")
    magnitude = torch.rand(3, 2, 8, 5) + 0.1
    magnitude[1] *= 1e-3
    magnitude[2] = 0
    heard = heard_by(front, Sound(SMALL, magnitude))
    for item in (0, 1):
        torch.testing.assert_close(heard[item], magnitude[item] / magnitude[item].max())
    assert not heard[2].any()
    spectrum = torch.polar(magnitude, torch.rand_like(magnitude))
    phased = heard_by(CascadedNetSpec(phase=True).front, Sound(SMALL, magnitude, spectrum))
    torch.testing.assert_close(phased[0], spectrum[0] / magnitude[0].max())
