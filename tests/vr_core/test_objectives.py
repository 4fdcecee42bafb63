"""Objectives: which frames are hidden, how, and that an item's loss does not depend on the batch it stands in."""

import itertools
import math
import typing

import numpy as np
import pytest
import torch

from tests.masking import Masking
from vr_core.audio.estimates import estimate, masks_of, stem_mask
from vr_core.audio.sound import Sound
from vr_core.audio.spectrogram import stft as analysed
from vr_core.draws import Draws
from vr_core.models.layers import CompressedMagnitude
from vr_core.models.registry import build
from vr_core.objectives.losses import LOSSES, WINDOWS, _modulus
from vr_core.objectives.masked_frames import hide_frames
from vr_core.objectives.objective import LOSS_SCALE, item_losses
from vr_core.objectives.registry import OBJECTIVES, objective_of
from vr_core.objectives.separate import Separate
from vr_core.specs.heads import HeadSpec
from vr_core.specs.models import (
    BsRoformerSpec,
    CascadedNetSpec,
    DenseFrameTransformerSpec,
    MelRoformerSpec,
    ModelSpec,
    PlainStackSpec,
)
from vr_core.specs.objectives import WITHOUT_PHASE, LossName, MaskedFramesSpec, ObjectiveSpec, SeparateSpec
from vr_core.specs.stft import StftSpec

STFT = StftSpec(n_fft=64, hop=32)


class Identity(Masking):
    """A model whose mask is one value everywhere."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def mask(self, magnitude: torch.Tensor) -> torch.Tensor:
        return torch.full_like(magnitude, self.value)


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


def test_separation_loss_is_l1_on_the_instrumentals_magnitude() -> None:
    x, y = torch.rand(3, 2, 4, 5), torch.rand(3, 2, 4, 5)
    sounds, draws = {"mixture": Sound(STFT, x), "instrumental": Sound(STFT, y)}, Draws.of_items(0, range(3))
    losses = item_losses(Separate(SeparateSpec()), Identity(0.25), sounds, draws, training=True)["l1"]
    torch.testing.assert_close(losses, (0.25 * x - y).abs().mean(dim=(1, 2, 3)) * LOSS_SCALE)


SEPARATIONS = [
    SeparateSpec(mask=mask, loss=loss, stems=stems)
    for mask in ("real", "complex")
    for loss in ("magnitude", "spectrum", "waveform")
    for stems in (("instrumental",), ("vocals", "instrumental"))
]
WEIGHTED = [
    SeparateSpec(mask=mask, losses={loss: 1.0})
    for mask in ("real", "complex")
    for loss in ("magnitude_mse", "multi_stft", "mel", "log_snr")
]
WEIGHTED += [
    SeparateSpec(
        mask=mask, losses={"waveform": 1.0, "multi_stft": 0.25, "log_snr": 3.0}, stems=("vocals", "instrumental")
    )
    for mask in ("real", "complex")
]
MODELS = [
    DenseFrameTransformerSpec(width=8, blocks=2, heads=2, feedforward=8, dropout=0.3),
    DenseFrameTransformerSpec(width=STFT.bins, blocks=1, heads=2, feedforward=8, dropout=0.3),  # nothing projected
    PlainStackSpec(width=8, blocks=1, kernel_frames=3, dropout=0.3),
]
OWN_STFT = {"stft": StftSpec(n_fft=64, hop=16), "dropout": 0.3}
ROFORMER = {"width": 8, "blocks": 1, "heads": 2, "head_width": 4, "mask_expansion": 1}
HEARING_PHASE = [BsRoformerSpec(**ROFORMER, **OWN_STFT), MelRoformerSpec(mel_bands=4, **ROFORMER, **OWN_STFT)]


def told(spec: ObjectiveSpec) -> str:
    keys = ("mask", "loss", "stems", "losses")
    return "-".join(str(x) for x in (spec.name, *(getattr(spec, key, "") for key in keys)))


def phased(items: int, frames: int, seed: int) -> Sound:
    generator = torch.Generator().manual_seed(seed)
    parts = torch.randn(2, items, 2, STFT.bins, frames, dtype=torch.float64, generator=generator) * 0.1
    spectrum = torch.complex(parts[0], parts[1])
    return Sound(STFT, spectrum.abs(), spectrum)


def example(items: int, frames: int = 10) -> dict[str, Sound]:
    stems = {stem: phased(items, frames, seed) for seed, stem in enumerate(("vocals", "instrumental"))}
    both = stems["vocals"].phased() + stems["instrumental"].phased()
    return stems | {"mixture": Sound(STFT, both.abs(), both)}


def naive_samples(spectrum: torch.Tensor) -> torch.Tensor:
    """Weighted overlap-add of `[channel, bin, frame]`, sample by sample, between the outer centres."""
    frames, size, hop = spectrum.shape[-1], STFT.n_fft, STFT.hop
    n = torch.arange(size, dtype=torch.float64)
    window = 0.5 - 0.5 * torch.cos(2 * torch.pi * n / size)
    total = torch.zeros(2, (frames - 1) * hop + size, dtype=torch.float64)
    weight = torch.zeros_like(total[0])
    for frame in range(frames):
        piece = torch.fft.irfft(torch.nn.functional.pad(spectrum[..., frame], (0, 1)) * size / 4, n=size)
        total[:, frame * hop : frame * hop + size] += piece * window
        weight[frame * hop : frame * hop + size] += window**2
    inner = slice(size // 2, size // 2 + (frames - 1) * hop)
    return total[:, inner] / weight[inner]


def naive_multi_stft(difference: np.ndarray) -> float:
    """Of `[channel, sample]`: frame by frame, silence around it."""
    found = []
    for size in (4096, 2048, 1024, 512, 256):
        n_fft, half = max(size, 2048), size // 2
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
        around = np.pad(difference, ((0, 0), (half, half)))
        frames = [around[:, at : at + size] for at in range(0, difference.shape[1] + 1, 147)]
        moduli = [np.abs(np.fft.rfft(frame * window, n_fft)) * 2 / window.sum() for frame in frames]
        found.append(np.mean(moduli))
    return float(np.mean(found)) * 1000


def naive_mel(difference: np.ndarray, stft: StftSpec) -> float:
    """Of `[channel, bin, frame]`: triangles on Slaney's scale, which is linear up to 1 kHz and logarithmic above."""
    top = stft.sample_rate_hz / 2
    mels = np.linspace(0, 15 + 27 * math.log(top / 1000) / math.log(6.4), stft.bins // 8 + 2)
    edges = np.where(mels < 15, mels * 1000 / 15, 1000 * np.exp((mels - 15) * math.log(6.4) / 27))
    hz = np.arange(difference.shape[1]) * stft.sample_rate_hz / stft.n_fft
    bands = []
    for low, middle, high in zip(edges, edges[1:], edges[2:], strict=False):
        weights = np.maximum(0, np.minimum((hz - low) / (middle - low), (high - hz) / (high - middle)))
        bands.append(np.tensordot(weights / weights.sum(), difference, (0, 1)))
    return float(np.abs(bands).mean()) * 1000


def naive_loss(name: str, estimated: torch.Tensor, wanted: torch.Tensor, stft: StftSpec = STFT) -> float:
    """Of `[channel, bin, frame]` complex."""
    levels = (estimated.abs() - wanted.abs()).numpy()
    if name == "magnitude":
        return float(np.abs(levels).mean()) * 1000
    if name == "magnitude_mse":
        return float((levels**2).mean()) * 1e6
    if name == "mel":
        return naive_mel(levels, stft)
    if name == "spectrum":
        difference = (estimated - wanted).numpy()
        return float(np.abs([difference.real, difference.imag]).mean()) * 1000
    samples, target = naive_samples(estimated).numpy(), naive_samples(wanted).numpy()
    if name == "waveform":
        return float(np.abs(samples - target).mean()) * 1000
    if name == "multi_stft":
        return naive_multi_stft(samples - target)
    assert name == "log_snr"
    return 10 * math.log10((((samples - target) ** 2).mean() + 1e-8) / ((target**2).mean() + 1e-8))


@pytest.mark.parametrize("spec", [*SEPARATIONS, *WEIGHTED], ids=told)
def test_every_separation_loss_is_that_of_a_slow_loop(spec: SeparateSpec) -> None:
    torch.manual_seed(1)
    model = build(PlainStackSpec(width=8, blocks=1), STFT.bins, spec.head).double().eval()
    sounds = example(3)
    found = item_losses(objective_of(spec), model, sounds, Draws.of_items(0, range(3)), training=False)
    assert [*found] == ([*spec.losses] or ["l1"])
    with torch.inference_mode():
        [answer] = model(sounds["mixture"].magnitude).values()
    assert answer.is_complex() == (spec.mask == "complex")
    for item, (name, losses) in itertools.product(range(3), found.items()):
        of_stems = [
            naive_loss(
                spec.loss if name == "l1" else name,
                answer[item, number] * sounds["mixture"].phased()[item],
                sounds[stem].phased()[item],
            )
            for number, stem in enumerate(spec.stems)
        ]
        wanted = sum(of_stems) / len(of_stems) * spec.losses.get(name, 1.0)
        # torchaudio's filters are of float32
        assert losses[item].item() == pytest.approx(wanted, rel=1e-5 if name == "mel" else 1e-9), name


def test_every_loss_of_the_schema_has_a_function_and_asks_for_phase_where_it_reads_it() -> None:
    assert typing.get_args(LossName) == tuple(LOSSES)
    for name, loss in LOSSES.items():
        with_phase, without = phased(2, 8, 0), Sound(STFT, phased(2, 8, 0).magnitude)
        assert SeparateSpec(losses={name: 1.0}).signals.phase is (name not in WITHOUT_PHASE)
        if name in WITHOUT_PHASE:
            assert torch.equal(loss(without, without), torch.zeros(2, dtype=torch.float64))
        else:
            with pytest.raises(ValueError, match="no phase"):
                loss(without, with_phase)
    assert SeparateSpec(losses={"magnitude": 1.0, "waveform": 0.1}).signals.phase


def test_one_loss_with_weight_one_is_the_loss_by_its_name() -> None:
    sounds, draws = example(3), Draws.of_items(0, range(3))
    for name in ("magnitude", "spectrum", "waveform"):
        by_name, weighted = (
            item_losses(Separate(spec), Identity(0.25), sounds, draws, training=False)
            for spec in (SeparateSpec(loss=name), SeparateSpec(losses={name: 1.0}))
        )
        assert torch.equal(by_name["l1"], weighted[name])
    with pytest.raises(ValueError, match=r"losses replaces loss: leave out loss spectrum"):
        SeparateSpec(loss="spectrum", losses={"mel": 1.0})


def test_a_silent_stem_has_a_bounded_ratio_and_a_full_scale_sine_is_one_in_every_window() -> None:
    silent = phased(2, 8, 0)
    silent = Sound(STFT, silent.magnitude * 0, silent.phased() * 0)
    estimated = Sound(STFT, silent.magnitude, silent.phased().requires_grad_())
    [loss] = LOSSES["log_snr"](estimated, silent).sum().reshape(1)
    loss.backward()
    assert loss.item() == 0
    assert torch.isfinite(torch.view_as_real(estimated.spectrum.grad)).all()
    stft = StftSpec()
    bin_hz = stft.sample_rate_hz / 256
    time_s = torch.arange(stft.n_fft * 8, dtype=torch.float64) / stft.sample_rate_hz
    tone, _ = analysed(torch.sin(2 * torch.pi * 8 * bin_hz * time_s).expand(1, 1, -1), stft)
    [*peaks] = (
        _modulus(Sound(stft, tone.abs(), tone).signal()[0], window)[0, :, 40].max().item() for window in WINDOWS
    )
    assert peaks == pytest.approx([1.0] * len(WINDOWS), rel=1e-3)


CUT = [(model, spec) for model in MODELS for spec in (MaskedFramesSpec(token_frames=3), *SEPARATIONS)]
CUT += [(model, spec) for model in HEARING_PHASE for spec in SEPARATIONS]  # mixtures are stored without phase
FROZEN = CascadedNetSpec(channels=4, lstm=4, norm="frozen_batch", phase=True, **OWN_STFT)
CUT += [(CascadedNetSpec(channels=4, lstm=4, dropout=0.3), spec) for _, spec in CUT[:13:3]]
CUT += [(FROZEN, spec) for spec in SEPARATIONS[::5]]
CUT += [(model, spec) for model in (MODELS[0], HEARING_PHASE[1]) for spec in WEIGHTED]


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
    mask = stem_mask(HeadSpec(stems=stems), {"mask": answer}, torch.ones(1, 2, 3, 4), "instrumental")
    assert mask.unique().tolist() == [0.5 if stems == ("vocals",) else 0.75]


def test_a_complex_mask_needs_a_mixture_with_phase() -> None:
    head = HeadSpec(kind="complex_mask")
    said = {"complex_mask": torch.ones(1, 1, 2, STFT.bins, 4, dtype=torch.complex128)}
    with pytest.raises(ValueError, match="no phase"):
        estimate(head, said, Sound(STFT, torch.ones(1, 2, STFT.bins, 4)))
