"""Results at a song's own rate: as long as the song, not shifted, and what the model cannot hear kept."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dataprep.audio.decoders import AudioSource
from dataprep.audio.files import open_audio, read_audio
from jobs.scoring.separate import OutputSettings, SeparatedSong, make_files, separate_song
from tests.jobs.separations import META, RATE_HZ, Gain
from vr_core.audio.separate import WindowSpec, separate
from vr_core.models.registry import build

MODEL_HZ = 44_100
WIDE = META.model_copy(update={"stft": META.stft.model_copy(update={"sample_rate_hz": MODEL_HZ})})


def parts(
    path: Path,
    signal: np.ndarray,
    rate_hz: int,
    model: torch.nn.Module,
    subtype: str = "FLOAT",
    normalise: bool = False,
) -> tuple[np.ndarray, np.ndarray, SeparatedSong]:
    """Instrumental and vocals `[channel, sample]` of a signal, by a model of 44.1 kHz, at the signal's rate."""
    soundfile.write(path / "song.wav", signal.T, rate_hz, "FLOAT")
    song = partial(open_audio, AudioSource(path / "song.wav"))
    output = OutputSettings(path, subtype=subtype, picture=False, normalise=normalise)
    (path / "made").mkdir(exist_ok=True)
    files = make_files(song, rate_hz, "song", model, WIDE, output, path / "made")
    instrumental, vocals = (soundfile.read(file)[0].T for file in (files.stems["instrumental"], files.stems["vocals"]))
    assert soundfile.info(files.stems["vocals"]).samplerate == files.sample_rate_hz == rate_hz
    return instrumental, vocals, files


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return (0.2 * np.random.default_rng(seed).standard_normal((2, samples))).astype(np.float32)


@settings(max_examples=30)
@given(
    rate_hz=st.sampled_from([8000, 22_050, 32_000, 44_056, 48_000, 88_200, 96_000, 192_000, 768_000]),
    samples=st.integers(1, 30_000),
)
@example(rate_hz=48_000, samples=2**20)
@example(rate_hz=48_000, samples=2**20 + 1)
@example(rate_hz=768_000, samples=2**20 + 5)
def test_results_are_as_long_as_the_song_and_sum_to_it(tmp_path_factory, rate_hz, samples):
    signal = noise(samples)
    instrumental, vocals, files = parts(tmp_path_factory.mktemp("song"), signal, rate_hz, Gain(0.3))
    assert instrumental.shape == vocals.shape == signal.shape
    assert np.abs(instrumental + vocals - signal).max() < 2**-23
    assert files.seconds == samples / rate_hz


@pytest.mark.parametrize("rate_hz", [48_000, 44_056, 96_000, 32_000])
def test_vocals_are_not_shifted_by_a_hundredth_of_a_sample(tmp_path, rate_hz):
    """All is vocals: a tone below the model's band comes back as it was, and noise correlates best with itself."""
    at_s = np.arange(2 * rate_hz) / rate_hz
    tone = np.stack([0.5 * np.sin(2 * np.pi * 3000 * at_s), 0.5 * np.cos(2 * np.pi * 5000 * at_s)]).astype(np.float32)
    _, vocals, _ = parts(tmp_path, tone, rate_hz, Gain(0.0))
    inner = slice(4000, -4000)
    shift = 0.01 * 2 * np.pi * 3000 / rate_hz * 0.5
    assert np.abs(vocals - tone)[0, inner].max() < shift / 10
    assert np.abs(vocals - np.roll(tone, 1, axis=1))[0, inner].max() > 10 * shift

    signal = noise(2 * rate_hz)
    _, vocals, _ = parts(tmp_path, signal, rate_hz, Gain(0.0))
    for heard, true in zip(vocals, signal, strict=True):
        correlation = np.fft.irfft(np.fft.rfft(heard) * np.conj(np.fft.rfft(true)))
        assert np.argmax(correlation) == 0
        # A fraction of a sample would make one neighbour higher than the other.
        assert abs(correlation[1] - correlation[-1]) < 1e-3 * correlation[0]


def test_what_lies_above_the_models_band_stays_in_the_instrumental(tmp_path):
    at_s = np.arange(96_000) / 96_000
    high = 0.3 * np.sin(2 * np.pi * 30_000 * at_s)
    low = 0.3 * np.sin(2 * np.pi * 1000 * at_s)
    signal = np.stack([high + low, high]).astype(np.float32)
    instrumental, vocals, _ = parts(tmp_path, signal, 96_000, Gain(0.0))
    inner = slice(4000, -4000)
    assert np.abs(instrumental[:, inner] - high[inner]).max() < 1e-4
    assert np.abs(vocals[0, inner] - low[inner]).max() < 1e-4
    assert np.abs(vocals[1, inner]).max() < 1e-4


def test_the_common_gain_is_of_the_results_and_not_of_the_song(tmp_path):
    """A song beyond full scale of two halves that are within it."""
    at_s = np.arange(48_000) / 96_000
    halves = 0.8 * np.sin(2 * np.pi * np.outer([1000, 30_000], at_s) + [[0.0], [1.0]])
    signal = np.stack([halves.sum(0)] * 2).astype(np.float32)
    assert np.abs(signal).max() > 1.5
    faded = signal * np.hanning(48_000).astype(np.float32)
    _, _, files = parts(tmp_path, faded, 96_000, Gain(0.0), "PCM_16", normalise=True)
    assert (files.gain_db, files.clipped_samples) == (0, {"instrumental": 0, "vocals": 0})
    *_, files = parts(tmp_path, 2 * faded, 96_000, Gain(0.0), "PCM_16", normalise=True)
    assert files.gain_db == pytest.approx(20 * np.log10(1 / 1.6), abs=0.01)


@pytest.mark.parametrize("bits", [16, 24])
@pytest.mark.parametrize("mask", [0.3, 3.5])
def test_pcm_sums_within_half_a_step_at_another_rate_too(tmp_path, bits, mask):
    """Also where the stems are louder than the song, whose own steps then are finer than theirs."""
    signal = noise(30_000) / 4
    instrumental, vocals, files = parts(tmp_path, signal, 48_000, Gain(mask), f"PCM_{bits}")
    assert files.clipped_samples == {"instrumental": 0, "vocals": 0}
    assert np.abs(instrumental + vocals - signal).max() <= 2.0**-bits


def test_a_song_of_steps_is_the_exact_sum(tmp_path):
    signal = noise(30_000)
    on_steps = np.round(signal * 2**15) / 2**15
    instrumental, vocals, _ = parts(tmp_path, on_steps.astype(np.float32), 48_000, Gain(0.3), "PCM_16")
    assert np.array_equal(instrumental + vocals, on_steps)


def test_a_song_at_the_models_rate_is_bit_for_bit_what_the_model_gives(tmp_path):
    """As it was before songs kept their rate: the model's instrumental, and the mixture minus it."""
    torch.manual_seed(1)
    model = build(META.model, META.stft.bins).eval()
    soundfile.write(tmp_path / "song.wav", noise(20_000, 3).T, RATE_HZ, "FLOAT")
    source = AudioSource(tmp_path / "song.wav")
    windows = WindowSpec(frames=META.crop_frames, overlap_frames=META.crop_frames // 2)
    blocks = list(separate(model, META.stft, open_audio(source, RATE_HZ), windows))
    instrumental = np.concatenate([block["instrumental"] for block in blocks], axis=1)
    files = separate_song(
        partial(open_audio, source, RATE_HZ), "song", model, META, OutputSettings(tmp_path, picture=False)
    )
    made = make_files(
        partial(open_audio, source), RATE_HZ, "song", model, META, OutputSettings(tmp_path, picture=False),
        tmp_path / "new",
    )  # fmt: skip
    for found in (files, made):
        assert np.array_equal(soundfile.read(found.stems["instrumental"], dtype="float32")[0].T, instrumental)
        mixture = read_audio(source, RATE_HZ)
        assert np.array_equal(soundfile.read(found.stems["vocals"], dtype="float32")[0].T, mixture - instrumental)
