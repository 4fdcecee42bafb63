from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch

from vr_core.audio.picture import MelPicture, draw
from vr_core.audio.spectrogram import stft
from vr_core.errors import StorageError
from vr_core.specs.stft import StftSpec

SPEC = StftSpec()


def tone(hz: float, seconds: float, amplitude: float = 0.5) -> np.ndarray:
    wave = amplitude * np.sin(2 * np.pi * hz * np.arange(int(seconds * SPEC.sample_rate_hz)) / SPEC.sample_rate_hz)
    return np.stack([wave, wave]).astype(np.float32)


def mel_of(hz: float) -> float:
    """Place of a frequency among 128 bands that are evenly spaced on the HTK mel scale."""
    top = 2595 * np.log10(1 + SPEC.sample_rate_hz / 2 / 700)
    return float(2595 * np.log10(1 + hz / 700) / top * 129 - 1)


def test_a_tone_stands_in_its_band_and_time() -> None:
    picture = MelPicture(SPEC)
    song = np.concatenate([tone(1000, 2), np.zeros((2, 88_200), np.float32), tone(8000, 2)], axis=1)
    for start in range(0, song.shape[1], 30_000):
        picture.update(song[:, start : start + 30_000])
    image = picture.decibels()
    third = image.shape[1] // 3
    assert image[:, 2 : third - 2].mean(axis=1).argmax() == pytest.approx(mel_of(1000), abs=1.1)
    assert image[:, 2 * third + 3 : -2].mean(axis=1).argmax() == pytest.approx(mel_of(8000), abs=1.1)
    assert image[:, third + 3 : 2 * third - 3].max() < -100
    assert picture.samples == song.shape[1]


def test_frames_of_a_spectrogram_give_the_picture_of_their_sound() -> None:
    song = np.concatenate([tone(1000, 20), tone(8000, 20)], axis=1)
    heard, stored = MelPicture(SPEC, columns=50), MelPicture(SPEC, columns=50)
    heard.update(song)
    magnitude = stft(torch.from_numpy(song), SPEC)[0].abs().numpy()
    for start in range(0, magnitude.shape[2], 37):
        stored.update_frames(magnitude[:, :, start : start + 37])
    one, other = heard.decibels(), stored.decibels()
    assert abs(one.shape[1] - other.shape[1]) <= 1
    # Not where something begins or ends: what is heard in blocks is reflected there, half a column is counted whole.
    middle = one.shape[1] // 2
    for part in (slice(1, middle - 2), slice(middle + 2, -4)):
        loud = one[:, part] > -60
        assert loud.any()
        np.testing.assert_allclose(other[:, part][:, : loud.shape[1]][loud], one[:, part][loud], atol=0.1)


def test_a_short_window_leaves_no_band_empty() -> None:
    picture = MelPicture(StftSpec(n_fft=128, hop=64))
    picture.update(np.random.default_rng(0).standard_normal((2, 44_100)).astype(np.float32))
    assert picture.decibels().min() > -90


def test_a_long_song_keeps_a_bounded_width_and_its_proportions() -> None:
    picture = MelPicture(SPEC, columns=20)
    for _ in range(30):
        picture.update(tone(1000, 1))
    for _ in range(30):
        picture.update(np.zeros((2, SPEC.sample_rate_hz), np.float32))
    image = picture.decibels()
    assert 20 <= image.shape[1] <= 41
    assert (image.max(axis=0) > -40).mean() == pytest.approx(0.5, abs=0.06)


def test_the_png_is_small_even_for_noise_and_shows_each_panel(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    panels = {}
    for name, level in [("Mixture", 0.3), ("Vocals", 0.0), ("Instrumental", 0.3)]:
        panels[name] = MelPicture(SPEC)
        panels[name].update((level * random.standard_normal((2, 44_100 * 20))).astype(np.float32))
    draw(panels, tmp_path / "a.png", title="a song")
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").stat().st_size < 150_000
    image = matplotlib.image.imread(tmp_path / "a.png")
    height, width = image.shape[:2]
    assert (height, width) == (660, 960)
    # The middle panel is silent, so it is dark where the others are bright.
    brightness = [image[int(height * at), 200:600, :3].mean() for at in (0.2, 0.5, 0.8)]
    assert brightness[1] < 0.1
    assert min(brightness[0], brightness[2]) > 0.4


def test_silence_and_an_empty_song_can_be_drawn(tmp_path: Path) -> None:
    draw({"Mixture": MelPicture(SPEC)}, tmp_path / "empty.png")
    assert (tmp_path / "empty.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_that_cannot_be_written_says_where(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"gone/a.png: cannot be written \(No such file or directory\)"):
        draw({"Mixture": MelPicture(SPEC)}, tmp_path / "gone" / "a.png")
