"""RoFormers of both kinds: the published sizes and names, a slow loop, cuts, own STFT, recomputation."""

import math

import librosa
import pytest
import torch

from tests.masking import mask_of
from vr_core.draws import Draws
from vr_core.models.registry import build
from vr_core.models.roformer import Rotary
from vr_core.optim import parameter_groups
from vr_core.specs.heads import HeadSpec
from vr_core.specs.models import BsRoformerSpec, MelRoformerSpec
from vr_core.specs.optim import OptimSpec
from vr_core.specs.stft import StftSpec

SMALL = StftSpec(n_fft=64, hop=16)
BINS = SMALL.bins + 1
TINY = {"width": 12, "blocks": 2, "heads": 2, "head_width": 4, "stft": SMALL, "mask_expansion": 2}
SPECS = [BsRoformerSpec(**TINY), MelRoformerSpec(mel_bands=7, **TINY)]


def each(specs):
    return pytest.mark.parametrize("spec", specs, ids=lambda spec: spec.name)


def head(stems: int = 1, kind: str = "complex_mask") -> HeadSpec:
    return HeadSpec(kind=kind, stems=tuple(f"stem {i}" for i in range(stems)))


def spectrum(items: int, frames: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(items, 2, BINS, frames, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("spec", "width", "blocks", "stems", "parameters"),
    [
        (BsRoformerSpec, 384, 6, 1, 74_532_652), (BsRoformerSpec, 384, 12, 1, 98_194_828),
        (BsRoformerSpec, 256, 12, 1, 51_049_484), (BsRoformerSpec, 512, 12, 1, 159_758_092),
        (BsRoformerSpec, 192, 6, 1, 24_591_340), (BsRoformerSpec, 256, 12, 6, 174_656_564),
        (MelRoformerSpec, 384, 6, 1, 228_202_852), (MelRoformerSpec, 384, 12, 1, 251_869_636),
    ],
)  # fmt: skip
def test_the_published_sizes(spec, width, blocks, stems, parameters):
    with torch.device("meta"):
        model = build(spec(width=width, blocks=blocks), 1025, head(stems))
    stored = [buffer for name, buffer in model.named_buffers() if name.endswith("freqs")]  # published as parameters
    assert sum(tensor.numel() for tensor in [*model.parameters(), *stored]) == parameters
    assert len(model.band_split.to_features) == (62 if spec is BsRoformerSpec else 60)


ENDS_OF_BS = {
    "band_split.to_features.0.0.gamma": (8,),
    "band_split.to_features.61.1.weight": (384, 516), "mask_estimators.0.to_freqs.61.0.2.bias": (1032,),
    "final_norm.gamma": (384,),
}  # fmt: skip
ENDS_OF_MEL = {
    "band_split.to_features.0.0.gamma": (28,),
    "band_split.to_features.59.1.weight": (384, 520), "mask_estimators.0.to_freqs.59.0.2.bias": (1536,),
    "mask_estimators.0.to_freqs.59.0.4.weight": (1040, 1536), "layers.5.1.norm.gamma": (384,),
}  # fmt: skip


@pytest.mark.parametrize(("spec", "ends"), [(BsRoformerSpec, ENDS_OF_BS), (MelRoformerSpec, ENDS_OF_MEL)])
def test_the_published_names_and_shapes(spec, ends):
    with torch.device("meta"):
        state = build(spec(width=384), 1025, head()).state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    wanted = ends | {
        "layers.5.1.layers.0.0.norm.gamma": (384,), "layers.0.0.layers.0.0.to_qkv.weight": (1536, 384),
        "layers.0.0.layers.0.0.to_gates.bias": (8,), "layers.0.0.layers.0.0.to_out.0.weight": (384, 512),
        "layers.0.0.layers.0.0.rotary_embed.freqs": (32,), "layers.3.1.layers.0.0.rotary_embed.freqs": (32,),
        "layers.0.1.layers.0.1.net.0.gamma": (384,), "layers.0.1.layers.0.1.net.1.weight": (1536, 384),
        "layers.0.1.layers.0.1.net.4.bias": (384,),
        "mask_estimators.0.to_freqs.0.0.0.weight": (1536, 384),
    }  # fmt: skip
    assert {name: shapes[name] for name in wanted} == wanted
    # Of each of a layer's two transformers six tensors of attention and five of the feed-forward.
    assert len(shapes) == (62 * 7 + 12 * 11 + 1 if spec is BsRoformerSpec else 60 * 9 + 12 * 12)


def slow_rms(x, gamma):
    return x / x.square().sum(dim=-1, keepdim=True).sqrt() * math.sqrt(x.shape[-1]) * gamma


def slow_transformer(state, prefix, x, heads):
    """Of `[position, width]`, a head, a position and a pair at a time."""
    p = {name.removeprefix(prefix + ".layers.0."): value for name, value in state.items() if name.startswith(prefix)}
    normed = slow_rms(x, p["0.norm.gamma"])
    qkv = (normed @ p["0.to_qkv.weight"].T).reshape(len(x), 3, heads, -1)
    found = torch.zeros(len(x), heads, qkv.shape[-1], dtype=x.dtype)
    for h in range(heads):
        turned = []
        for which in (0, 1):
            rows = []
            for position in range(len(x)):
                vector = qkv[position, which, h].clone()
                for pair, freq in enumerate(p["0.rotary_embed.freqs"]):
                    a, b = qkv[position, which, h, 2 * pair], qkv[position, which, h, 2 * pair + 1]
                    angle = position * freq
                    vector[2 * pair] = a * torch.cos(angle) - b * torch.sin(angle)
                    vector[2 * pair + 1] = b * torch.cos(angle) + a * torch.sin(angle)
                rows.append(vector)
            turned.append(torch.stack(rows))
        weights = torch.softmax(turned[0] @ turned[1].T / math.sqrt(qkv.shape[-1]), dim=-1)
        gate = torch.sigmoid(normed @ p["0.to_gates.weight"][h] + p["0.to_gates.bias"][h])
        found[:, h] = weights @ qkv[:, 2, h] * gate[:, None]
    x = x + found.flatten(1) @ p["0.to_out.0.weight"].T
    hidden = slow_rms(x, p["1.net.0.gamma"]) @ p["1.net.1.weight"].T + p["1.net.1.bias"]
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    x = x + hidden @ p["1.net.4.weight"].T + p["1.net.4.bias"]
    return slow_rms(x, state[f"{prefix}.norm.gamma"]) if f"{prefix}.norm.gamma" in state else x


def bands_of(spec):
    """First and last bin of each band, without the spec's own code for mel bands."""
    if spec.name == "bs_roformer":
        return [(band[0], band[-1]) for band in spec.bands_of(BINS)]
    filters = librosa.filters.mel(sr=44_100, n_fft=SMALL.n_fft, n_mels=spec.mel_bands).copy()
    filters[0, 0] = filters[-1, -1] = 1
    return [(row.nonzero()[0][0], row.nonzero()[0][-1]) for row in filters]


def slow(state, spec, x_cft, stem):
    """The complex mask `[channel, bin, frame]` of one item and stem."""
    bands, frames = bands_of(spec), x_cft.shape[-1]
    x = torch.zeros(frames, len(bands), spec.width, dtype=torch.float64)
    for n, (first, last) in enumerate(bands):
        for t in range(frames):
            vector = torch.tensor(
                [part for f in range(first, last + 1) for c in range(2)
                 for part in (float(x_cft[c, f, t].real), float(x_cft[c, f, t].imag))], dtype=torch.float64
            )  # fmt: skip
            p = f"band_split.to_features.{n}"
            x[t, n] = state[f"{p}.1.weight"] @ slow_rms(vector, state[f"{p}.0.gamma"]) + state[f"{p}.1.bias"]
    for layer in range(spec.blocks):
        for along, axis in ((f"layers.{layer}.0", 1), (f"layers.{layer}.1", 0)):
            x = torch.stack([slow_transformer(state, along, row, spec.heads) for row in x.unbind(axis)], axis)
    if spec.name == "bs_roformer":
        x = slow_rms(x, state["final_norm.gamma"])
    said = {f: [] for f in range(BINS)}
    for n, (first, last) in enumerate(bands):
        p = f"mask_estimators.{stem}.to_freqs.{n}.0"
        values = x[:, n] @ state[f"{p}.0.weight"].T + state[f"{p}.0.bias"]
        for linear in range(1, spec.mask_hidden_layers + 1):
            values = torch.tanh(values) @ state[f"{p}.{2 * linear}.weight"].T + state[f"{p}.{2 * linear}.bias"]
        half = values.shape[-1] // 2
        values = values[:, :half] * torch.sigmoid(values[:, half:])
        for f in range(first, last + 1):
            at = (f - first) * 4
            said[f].append(
                torch.stack([torch.complex(values[:, at + 2 * c], values[:, at + 2 * c + 1]) for c in (0, 1)])
            )
    mask = torch.stack([sum(values) / len(values) for values in said.values()], dim=1)
    if spec.zero_dc:
        mask[:, 0] = 0
    return mask


@pytest.mark.parametrize("zero_dc", [True, False])
@each(SPECS)
def test_the_answer_is_that_of_a_slow_loop(spec, zero_dc):
    torch.manual_seed(0)
    spec = spec.model_copy(update={"zero_dc": zero_dc})
    model = build(spec, BINS, head(2)).double().eval()
    for p in model.parameters():
        p.data += 0.1 * torch.randn_like(p)
    x = spectrum(2, 5)
    with torch.inference_mode():
        answer = model(x)["complex_mask"]
        assert answer.shape == (2, 2, 2, BINS, 5)
        for item in range(2):
            for stem in range(2):
                wanted = slow(model.state_dict(), spec, x[item], stem)
                torch.testing.assert_close(answer[item, stem], wanted, rtol=1e-9, atol=1e-11)


def test_rotary_positions_keep_lengths_and_know_distances_alone():
    rotary = Rotary(8).double()
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64)
    turned_q, turned_k = (rotary(x.expand(1, 1, 20, 8)) for x in (q, k))
    torch.testing.assert_close(turned_q.norm(dim=-1), q.norm(dim=-1).expand(1, 1, 20))
    logits = (turned_q @ turned_k.transpose(-1, -2))[0, 0]
    for distance in range(-19, 20):
        diagonal = logits.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand(len(diagonal)))


@each(SPECS)
@pytest.mark.parametrize("recompute", [False, True])
def test_an_item_is_the_same_in_any_batch_and_when_it_is_computed_again(recompute, spec):
    torch.manual_seed(0)
    model = build(spec.model_copy(update={"dropout": 0.4, "recompute": recompute}), BINS, head()).double()
    x = spectrum(4, 6)

    def gradient(pieces):
        model.zero_grad()
        at = 0
        for n in pieces:
            draws = Draws.of_items(5, range(10 + at, 10 + at + n))
            mask_of(model, x[at : at + n], draws).abs().square().sum().backward()
            at += n
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    whole = gradient([4])
    for cut in ([1, 3], [1] * 4):
        torch.testing.assert_close(gradient(cut), whole, rtol=1e-9, atol=1e-12)
    model.recompute = not recompute
    torch.testing.assert_close(gradient([4]), whole, rtol=1e-12, atol=1e-14)
    assert not torch.allclose(mask_of(model, x, Draws.of_items(5, range(4))), mask_of(model, x))


@each(SPECS)
@pytest.mark.parametrize("kind", ["mask", "complex_mask", "amplitude"])
def test_every_kind_of_answer_and_no_bin_of_zero_hertz(kind, spec):
    model = build(spec, BINS, head(3, kind)).double()
    values = model(spectrum(1, 4))[kind]
    assert values.shape == (1, 3, 2, BINS, 4)
    assert values.is_complex() == (kind == "complex_mask")
    assert not values[..., 0, :].abs().any()
    if kind == "mask":
        assert ((values[..., 1:, :] > 0) & (values[..., 1:, :] < 1)).all()


def test_bands_add_up_at_any_size_of_stft():
    for n_fft in (64, 256, 512, 1024, 2048, 4096):
        stft = StftSpec(n_fft=n_fft, hop=n_fft // 4)
        bands = BsRoformerSpec(stft=stft).bands_of(stft.bins + 1)
        assert [f for band in bands for f in band] == list(range(stft.bins + 1))
    with pytest.raises(ValueError, match="add up to 30 bins, the STFT has 33"):
        BsRoformerSpec(stft=SMALL, bands=(10, 20))


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
@pytest.mark.parametrize("n_fft", [512, 2048, 6144])
@pytest.mark.parametrize("mel_bands", [1, 2, 30, 60, 64])
def test_mel_bands_are_where_librosa_has_filters(mel_bands, n_fft, rate):
    stft = StftSpec(n_fft=n_fft, hop=n_fft // 4, sample_rate_hz=rate)
    filters = librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=mel_bands).copy()
    filters[0, 0] = filters[-1, -1] = 1
    bands = MelRoformerSpec(mel_bands=mel_bands, stft=stft).bands_of(stft.bins + 1)
    assert [list(band) for band in bands] == [row.nonzero()[0].tolist() for row in filters]


def test_more_mel_bands_than_bins_are_refused():
    with pytest.raises(ValueError, match="mel_bands: 60 are too many for 33 bins"):
        MelRoformerSpec(stft=SMALL)


@each(SPECS)
def test_every_parameter_is_in_one_layer(spec):
    model = build(spec, BINS, head(2))
    for name, _ in model.named_parameters():
        assert sum(name.startswith(prefix) for prefix in model.layer_prefixes()) == 1, name
    parameter_groups(model, OptimSpec())
    assert not [name for name, parameter in model.named_parameters() if "rotary" in name]


def test_what_it_hears_of_a_data_set_with_another_stft():
    stored, front = StftSpec(), BsRoformerSpec().front
    assert (front.bins_on(stored), front.stft_on(stored).hop) == (1025, 441)
    # 127 hops of 1,024 hold 1 + (127 · 1,024 - 2,048) / 441 whole windows.
    assert front.frames_on(stored, 128) == 291
    assert front.frames_on(stored, 2) == 0
