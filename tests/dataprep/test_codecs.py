import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dataprep.errors import SongError
from dataprep.shards.codecs import CODECS, RANGE_DB
from dataprep.shards.columns import COLUMNS, has_phase
from vr_core.audio.spectrogram import istft, stft
from vr_core.specs.stft import StftSpec

SPEC = StftSpec()


def music(samples: int) -> torch.Tensor:
    """`[2, sample]` at 44.1 kHz: detuned chords over a band and a noisy beat, as dense as a mix.

    Two or three pure tones alone would not do: the errors of a handful of bins do not average out in 2,048 samples.
    """
    rng = np.random.default_rng(samples)
    t = np.arange(samples) / 44_100
    tone = np.zeros(samples)
    for f0 in 110 * 2 ** (rng.uniform(0, 36, 12) / 12):
        for k in range(1, 9):
            tone += np.sin(2 * np.pi * f0 * k * t + rng.uniform(0, 6)) / k**1.5
    band = np.convolve(rng.standard_normal(samples), np.exp(-np.arange(32) / 6), "same")
    mono = tone + 0.6 * band * (1 + 2 * np.exp(-((4 * t) % 1) * 8))
    stereo = np.stack([mono, 0.7 * np.roll(mono, 30) + 0.5 * rng.standard_normal(samples)])
    return torch.from_numpy((0.5 * stereo / np.abs(stereo).max()).astype(np.float32))


def coded(codec: str, spectrogram: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    columns, peak = CODECS[codec].encode(spectrogram.numpy())
    tensors = {name: torch.from_numpy(column)[None] for name, column in columns.items()}
    return tensors, torch.full((1, spectrogram.shape[-1]), peak)


def snr_db(signal: torch.Tensor, estimate: torch.Tensor) -> float:
    return float(10 * torch.log10(signal.square().sum() / (signal - estimate).square().sum()))


@pytest.mark.parametrize(("codec", "least_db"), [("polar8", 38.0), ("complex16", 60.0)])
@pytest.mark.parametrize("remainder", [0, 1, 512, 1016, 1023])
def test_audio_survives_the_codec_to_its_last_sample(codec, least_db, remainder):
    samples = 60 * 1024 + remainder
    signal = music(samples)
    spectrogram, _ = stft(signal, SPEC)
    without_nyquist = istft(spectrogram, samples, SPEC)
    columns, scale = coded(codec, spectrogram)
    decoded = istft(CODECS[codec].widen(columns, scale)[0], samples, SPEC)
    assert snr_db(without_nyquist, decoded) >= least_db
    assert snr_db(without_nyquist[:, -2048:], decoded[:, -2048:]) >= least_db


def naive_polar8(spectrogram: np.ndarray) -> np.ndarray:
    """Quantised and back in double precision, bin by bin."""
    magnitude, peak = np.abs(spectrogram).astype(np.float64), float(np.abs(spectrogram).max())
    with np.errstate(divide="ignore"):
        code = np.clip(np.round(255 + 20 * np.log10(magnitude / peak) * 254 / RANGE_DB), 0, 255)
    level = np.where(code > 0, peak * 10 ** (-(255 - code) * RANGE_DB / 254 / 20), 0)
    return level * np.exp(2j * np.pi / 256 * np.round(np.angle(spectrogram.astype(np.complex128)) * 128 / np.pi))


def test_each_codec_makes_the_columns_that_are_read():
    assert [*CODECS] == [*COLUMNS]
    for name, codec in CODECS.items():
        made, _ = codec.encode(np.ones((2, 16, 5), np.complex64))
        assert {column: str(values.dtype) for column, values in made.items()} == COLUMNS[name]


def test_polar8_is_the_stated_quantiser():
    rng = np.random.default_rng(0)
    levels = 10 ** rng.uniform(-6.5, 0, (2, 40, 9))
    spectrogram = (levels * np.exp(1j * rng.uniform(-np.pi, np.pi, levels.shape))).astype(np.complex64)
    spectrogram[0, 0, 0], spectrogram[0, 1, 0], spectrogram[1, 0, 0] = 0, -1, 1j
    columns, scale = coded("polar8", torch.from_numpy(spectrogram))
    assert columns["magnitude"].shape == (1, 9, 80)
    widened = CODECS["polar8"].widen(columns, scale)[0].numpy()
    expected = naive_polar8(spectrogram)
    # A value on the border between two codes may fall either way in single precision.
    different = np.abs(widened - expected) > 1e-5 * np.abs(expected)
    assert different.mean() < 0.01
    assert widened[0, 0, 0] == 0
    assert (np.abs(expected) == 0).sum() > 10  # what is far below the range is zero


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_widened_magnitudes_follow_scale_and_agree_with_complex_values(codec):
    rng = np.random.default_rng(1)
    values = rng.standard_normal((2, 64, 300)) + 1j * rng.standard_normal((2, 64, 300))
    columns, scale = coded(codec, torch.from_numpy(values.astype(np.complex64)))
    scale = scale * torch.rand(scale.shape, generator=torch.Generator().manual_seed(2))
    magnitude = CODECS[codec].widen_magnitude(columns, scale)
    assert magnitude.shape == (1, 2, 64, 300)
    assert magnitude.dtype == torch.float32
    step = 10 ** (RANGE_DB / 254 / 2 / 20)
    expected = torch.from_numpy(np.abs(values)).float() * scale[0] / np.float32(np.abs(values).max())
    ratio = (magnitude[0] / expected).numpy()
    assert ((ratio < step * 1.01) & (ratio > 1 / step / 1.01)).all()
    if has_phase(codec):
        torch.testing.assert_close(CODECS[codec].widen(columns, scale).abs(), magnitude, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("codec", ["polar8", "complex16"])
@pytest.mark.parametrize("threads", [1, 2])
def test_mixed_magnitudes_equal_the_sum_of_complex_values(codec, threads):
    rng = np.random.default_rng(3)

    def stem() -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        values = 10 ** rng.uniform(-4, 0, (2, 512, 150)) * np.exp(2j * np.pi * rng.uniform(size=(2, 512, 150)))
        return coded(codec, torch.from_numpy(values.astype(np.complex64)))

    (first, first_scale), (second, second_scale) = stem(), stem()
    second_scale = second_scale * 0.3
    second_scale[:, 40:60] = 0
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        one, both = CODECS[codec].mix_magnitudes(first, first_scale, second, second_scale)
        x = CODECS[codec].widen(first, first_scale).to(torch.complex128)
        y = CODECS[codec].widen(second, second_scale).to(torch.complex128)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(one.double(), x.abs(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(both.double(), (x + y).abs(), rtol=1e-4, atol=1e-6)
    assert torch.equal(both[..., 40:60], one[..., 40:60])


def test_opposite_signals_cancel_to_zero():
    values = np.full((2, 8, 3), 0.5 + 0.25j, np.complex64)
    first, scale = coded("polar8", torch.from_numpy(values))
    second, _ = coded("polar8", torch.from_numpy(-values))
    _, both = CODECS["polar8"].mix_magnitudes(first, scale, second, scale)
    assert float(both.abs().max()) < 1e-6


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_silence_stays_silence(codec):
    columns, scale = coded(codec, torch.zeros(2, 16, 5, dtype=torch.complex64))
    assert float(scale.max()) == 0
    assert float(CODECS[codec].widen_magnitude(columns, scale).max()) == 0


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_values_that_are_not_finite_are_refused(codec):
    values = np.ones((2, 16, 5), np.complex64)
    values[1, 3, 2] = np.inf
    with pytest.raises(SongError, match="not finite"):
        CODECS[codec].encode(values)


def test_magnitude8_stores_no_phase():
    columns, scale = coded("magnitude8", torch.ones(2, 16, 5, dtype=torch.complex64))
    assert set(columns) == {"magnitude"}
    with pytest.raises(TypeError, match="no phase"):
        CODECS["magnitude8"].widen(columns, scale)


@given(st.floats(1e-30, 1e30), st.integers(1, 5))
def test_any_level_is_stored_relative_to_its_peak(level, frames):
    values = torch.full((2, 4, frames), level, dtype=torch.complex64)
    columns, scale = coded("polar8", values)
    assert int(columns["magnitude"].min()) == 255
    torch.testing.assert_close(CODECS["polar8"].widen_magnitude(columns, scale)[0], values.abs(), rtol=1e-6, atol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("codec", sorted(CODECS))
def test_a_gpu_widens_to_equal_values(codec):
    values = torch.randn(2, 64, 300, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    columns, scale = coded(codec, values)
    on_gpu = CODECS[codec].widen_magnitude({n: c.cuda() for n, c in columns.items()}, scale.cuda())
    torch.testing.assert_close(on_gpu.cpu(), CODECS[codec].widen_magnitude(columns, scale), rtol=1e-6, atol=0)


def test_a_mix_of_polar8_has_the_same_bits_on_every_processor():
    """As numpy's float32 gives it, which rounds each operation to the nearest number."""
    rng = np.random.default_rng(5)
    magnitude, phase, other, angle = rng.integers(0, 256, (4, 1, 64, 4096), dtype=np.uint8)
    scale, other_scale = rng.random((2, 1, 64), dtype=np.float32)
    named = [
        {"magnitude": torch.from_numpy(m), "phase": torch.from_numpy(p)}
        for m, p in ((magnitude, phase), (other, angle))
    ]
    _, both = CODECS["polar8"].mix_magnitudes(
        named[0], torch.from_numpy(scale), named[1], torch.from_numpy(other_scale)
    )

    codes = np.arange(256)
    levels = np.where(codes == 0, 0.0, 10 ** ((codes - 255) * RANGE_DB / 254 / 20)).astype(np.float32)
    opening = (2 + 2 * np.cos(codes * 2 * np.pi / 256)).astype(np.float32)
    x, y = levels[magnitude] * scale[..., None], levels[other] * other_scale[..., None]
    expected = np.sqrt(opening[phase - angle] * x * y + (y - x) * (y - x))
    assert np.array_equal(both.permute(0, 3, 1, 2).reshape(expected.shape).numpy(), expected)


def test_a_mix_of_complex16_has_the_same_bits_on_every_processor():
    rng = np.random.default_rng(6)
    halves = rng.standard_normal((4, 1, 64, 4096)).astype(np.float16)
    scale, other_scale = rng.random((2, 1, 64), dtype=np.float32)
    real, imag, other_real, other_imag = halves
    first = {"real": torch.from_numpy(real), "imag": torch.from_numpy(imag)}
    second = {"real": torch.from_numpy(other_real), "imag": torch.from_numpy(other_imag)}
    one, both = CODECS["complex16"].mix_magnitudes(
        first, torch.from_numpy(scale), second, torch.from_numpy(other_scale)
    )

    x, y = (part.astype(np.float32) * scale[..., None] for part in (real, imag))
    u, v = (part.astype(np.float32) * other_scale[..., None] for part in (other_real, other_imag))
    for found, expected in ((one, np.sqrt(x * x + y * y)), (both, np.sqrt((x + u) ** 2 + (y + v) ** 2))):
        assert np.array_equal(found.permute(0, 3, 1, 2).reshape(expected.shape).numpy(), expected)
