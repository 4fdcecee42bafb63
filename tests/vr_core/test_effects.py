"""What is done to stems in training, on tones and clicks: each does what its name says, and to its items alone."""

import math

import pytest
import torch

from vr_core.audio.effects import altered, inverted, one_channel, tilted
from vr_core.audio.sound import Sound
from vr_core.audio.spectrogram import stft
from vr_core.specs.slots import Effects
from vr_core.specs.stft import StftSpec

STFT = StftSpec(n_fft=256, hop=64)
SAMPLES = 256 * 8
TIME_S = torch.arange(SAMPLES, dtype=torch.float64) / STFT.sample_rate_hz


def tone(hz: float) -> torch.Tensor:
    return torch.sin(2 * torch.pi * hz * TIME_S)


def click(at: int) -> torch.Tensor:
    """Without the frequency that is not stored."""
    signal = torch.zeros(SAMPLES, dtype=torch.float64)
    signal[at - 1 : at + 2] = torch.tensor([0.25, 0.5, 0.25])
    return signal


def analysed(*items: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return stft(torch.stack([torch.stack(pair) for pair in items]), STFT)[0]


def heard(spectrum: torch.Tensor) -> torch.Tensor:
    return Sound(STFT, spectrum.abs(), spectrum).signal()


def yes(*flags: int) -> torch.Tensor:
    return torch.tensor(flags, dtype=torch.bool)


def test_an_inverted_click_goes_down_where_it_went_up() -> None:
    before = analysed((click(500), click(700)), (click(500), click(700)))
    one, other = heard(inverted(before, yes(0, 1)))
    up, down = pytest.approx(0.5, abs=1e-3), pytest.approx(-0.5, abs=1e-3)
    assert (one[0, 500], one[1, 700]) == (up, up)
    assert (other[0, 500], other[1, 700]) == (down, down)


def test_a_lost_channel_is_silent_and_an_equal_one_has_the_mean() -> None:
    before = analysed(*[(click(500), click(700))] * 4)
    found = heard(one_channel(before, yes(1, 0, 0, 0), yes(0, 1, 0, 0), yes(0, 0, 1, 0)))
    left, right = heard(before)[0]
    silence, mean = torch.zeros_like(left), (left + right) / 2
    for item, wanted in enumerate([(left, silence), (silence, right), (mean, mean), (left, right)]):
        torch.testing.assert_close(found[item], torch.stack(wanted), atol=1e-12, rtol=0)
    assert found[0, 0, 500] == pytest.approx(0.5, abs=1e-3)
    assert found[2, 1, 500] == pytest.approx(0.25, abs=1e-3)


@pytest.mark.parametrize("slope_db", [3.0, -1.5, 0.0])
def test_a_tilt_is_so_many_decibels_an_octave_and_none_at_1_khz(slope_db: float) -> None:
    bin_hz = STFT.sample_rate_hz / STFT.n_fft
    for number in (6, 12, 24, 48, 96):
        before = analysed((tone(number * bin_hz), tone(number * bin_hz)))
        level = tilted(before, torch.tensor([slope_db], dtype=torch.float64), STFT)[0, 0, number, 8:-8].abs()
        wanted = slope_db * math.log2(number * bin_hz / 1000)
        assert 20 * torch.log10(level).mean().item() == pytest.approx(wanted, abs=1e-3)


def test_an_item_has_its_own_effects_bit_for_bit_whoever_is_beside_it() -> None:
    generator = torch.Generator().manual_seed(0)
    spectrum = torch.complex(*torch.randn(2, 5, 2, STFT.bins, 7, generator=generator))
    effects = [
        Effects(),
        Effects(invert=True),
        Effects(channels="left"),
        Effects(channels="equal", tilt_db=-2.0),
        Effects(invert=True, channels="right", tilt_db=1.3),
    ]
    together = altered(spectrum, effects, STFT)
    for item, effect in enumerate(effects):
        assert torch.equal(together[item], altered(spectrum[item : item + 1], [effect], STFT)[0])
        assert torch.equal(together[item], spectrum[item]) is (effect == Effects())
    assert torch.equal(together[1], -spectrum[1])
    assert torch.equal(together[2, 0], spectrum[2, 0])
    assert not together[2, 1].any()
    assert torch.equal(together[3, 0], together[3, 1])
    assert not together[4, 0].any()
    by_hand = tilted(spectrum[4:], torch.tensor([1.3], dtype=torch.float64), STFT)[0]
    torch.testing.assert_close(together[4, 1], -by_hand[1])
