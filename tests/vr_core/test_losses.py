"""Losses of separation, each against a slow loop in float64."""

import itertools
import math
import typing

import numpy as np
import pytest
import torch

from tests.vr_core.posed import SEPARATIONS, STFT, WEIGHTED, Identity, example, phased, told
from vr_core.audio.sound import Sound
from vr_core.audio.spectrogram import stft as analysed
from vr_core.draws import Draws
from vr_core.models.registry import build
from vr_core.objectives.losses import LOSSES, WINDOWS, _modulus
from vr_core.objectives.objective import LOSS_SCALE, item_losses
from vr_core.objectives.registry import objective_of
from vr_core.objectives.separate import Separate
from vr_core.specs.models import PlainStackSpec
from vr_core.specs.objectives import WITHOUT_PHASE, LossName, SeparateSpec
from vr_core.specs.stft import StftSpec


def test_separation_loss_is_l1_on_the_instrumentals_magnitude() -> None:
    x, y = torch.rand(3, 2, 4, 5), torch.rand(3, 2, 4, 5)
    sounds, draws = {"mixture": Sound(STFT, x), "instrumental": Sound(STFT, y)}, Draws.of_items(0, range(3))
    losses = item_losses(Separate(SeparateSpec()), Identity(0.25), sounds, draws, training=True)["l1"]
    torch.testing.assert_close(losses, (0.25 * x - y).abs().mean(dim=(1, 2, 3)) * LOSS_SCALE)


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


def test_the_samples_of_a_sound_are_computed_once() -> None:
    """Several losses compare them."""
    sound = phased(1, 4, 0)
    assert sound.signal() is sound.signal()
