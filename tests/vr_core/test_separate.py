import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from tests.masking import Masking, mask_of
from vr_core.audio.separate import WindowSpec, mask_spectrum, separate
from vr_core.audio.spectrogram import istft, stft
from vr_core.draws import Draws
from vr_core.models.heads import Answer
from vr_core.models.model import Model
from vr_core.models.registry import build
from vr_core.specs.heads import HeadSpec
from vr_core.specs.models import PlainStackSpec
from vr_core.specs.stft import StftSpec

HOP_HALF = StftSpec(n_fft=64, hop=32)
HOP_QUARTER = StftSpec(n_fft=64, hop=16)
HOP_ODD = StftSpec(n_fft=64, hop=20)


class ByPosition(Masking):
    """A mask that depends on the content and on the place in the window: any wrong window or frame shows."""

    def mask(self, magnitude: Tensor) -> Tensor:
        frames = magnitude.shape[-1]
        place = torch.linspace(-1, 1, frames) + 0.01 * frames
        return torch.sigmoid(place + torch.cumsum(magnitude, dim=-1))


def example_song(samples: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (0.3 * random.standard_normal((2, samples))).astype(np.float32)


def blocks_of(song: np.ndarray, sizes: list[int]) -> list[np.ndarray]:
    """The song cut into blocks of the sizes, repeated until it ends."""
    blocks, at, i = [], 0, 0
    while at < song.shape[1]:
        blocks.append(song[:, at : at + sizes[i % len(sizes)]])
        at += sizes[i % len(sizes)]
        i += 1
    return blocks


def in_one_go(model: Model, spec: StftSpec, song: np.ndarray, windows: WindowSpec) -> np.ndarray:
    """The instrumental computed from the whole song's spectrogram, one window at a time."""
    spectrum, nyquist = stft(torch.from_numpy(song), spec)
    frames = spectrum.shape[-1]
    starts = [0]
    while starts[-1] + windows.frames < frames:
        starts.append(min(starts[-1] + windows.step, frames - windows.frames))
    total, weights = torch.zeros_like(spectrum), torch.zeros(frames)
    for start in starts:
        stop = min(start + windows.frames, frames)
        fade = torch.from_numpy(np.sin(np.pi * (np.arange(stop - start) + 0.5) / (stop - start)) ** 2).float()
        with torch.inference_mode():
            total[..., start:stop] += fade * mask_of(model, spectrum[None, ..., start:stop].abs())[0]
        weights[start:stop] += fade
    return istft(spectrum * total / weights, song.shape[1], spec, nyquist).numpy()


def joined(pairs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([i for i, _ in pairs], axis=1), np.concatenate([v for _, v in pairs], axis=1)


@settings(deadline=None, max_examples=60)
@given(
    samples=st.integers(1, 4000),
    sizes=st.lists(st.integers(1, 1500), min_size=1, max_size=4),
    frames=st.integers(1, 24),
    overlap=st.integers(0, 23),
    batch=st.integers(1, 3),
    spec=st.sampled_from([HOP_HALF, HOP_QUARTER, HOP_ODD]),
)
def test_streaming_equals_the_whole_song_in_one_go(
    samples: int, sizes: list[int], frames: int, overlap: int, batch: int, spec: StftSpec
) -> None:
    windows = WindowSpec(frames=frames, overlap_frames=min(overlap, frames - 1), batch=batch)
    song = example_song(samples)
    sizes = [max(size, samples // 200) for size in sizes]
    instrumental, vocals = joined(list(separate(ByPosition(), spec, blocks_of(song, sizes), windows)))
    expected = in_one_go(ByPosition(), spec, song, windows)
    assert instrumental.shape == vocals.shape == song.shape
    assert instrumental.dtype == vocals.dtype == np.float32
    np.testing.assert_allclose(instrumental, expected, atol=1e-5)
    np.testing.assert_allclose(instrumental + vocals, song, atol=1e-6)


def test_a_real_model_at_real_settings() -> None:
    torch.manual_seed(0)
    spec = StftSpec()
    model = build(PlainStackSpec(width=8, blocks=1), spec.bins).eval()
    windows = WindowSpec(frames=64, overlap_frames=32, batch=2)
    song = example_song(6 * 44_100 + 77)
    done: list[int] = []
    pairs = list(separate(model, spec, blocks_of(song, [44_100]), windows, progress=done.append))
    instrumental, vocals = joined(pairs)
    np.testing.assert_allclose(instrumental, in_one_go(model, spec, song, windows), atol=1e-5)
    np.testing.assert_allclose(instrumental + vocals, song, atol=1e-6)
    assert len(pairs) > 2
    assert done == sorted(done)
    assert done[-1] == song.shape[1]


class Constant(Masking):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def mask(self, magnitude: Tensor) -> Tensor:
        return torch.full_like(magnitude, self.value)


def test_a_mask_of_one_gives_the_mixture_and_of_zero_its_nyquist_bin() -> None:
    song = example_song(5000)
    windows = WindowSpec(frames=16, overlap_frames=8)
    instrumental, vocals = joined(list(separate(Constant(1.0), HOP_HALF, [song], windows)))
    np.testing.assert_allclose(instrumental, song, atol=1e-5)
    np.testing.assert_allclose(vocals, 0, atol=1e-5)
    instrumental, _ = joined(list(separate(Constant(0.0), HOP_HALF, [song], windows)))
    spectrum, nyquist = stft(torch.from_numpy(song), HOP_HALF)
    np.testing.assert_allclose(
        instrumental, istft(torch.zeros_like(spectrum), 5000, HOP_HALF, nyquist).numpy(), atol=1e-5
    )
    assert np.abs(instrumental).max() > 1e-3


def test_a_spectrum_is_masked_as_the_song_is() -> None:
    song = example_song(9000)
    windows = WindowSpec(frames=16, overlap_frames=8, batch=3)
    model = ByPosition()
    masked = istft(mask_spectrum(model, stft(torch.from_numpy(song), HOP_HALF)[0], windows), 9000, HOP_HALF)
    nyquist = stft(torch.from_numpy(song), HOP_HALF)[1]
    alone = istft(torch.zeros_like(stft(torch.from_numpy(song), HOP_HALF)[0]), 9000, HOP_HALF, nyquist)
    instrumental, _ = joined(list(separate(model, HOP_HALF, [song], windows)))
    np.testing.assert_allclose((masked + alone).numpy(), instrumental, atol=1e-5)


class Turning(ByPosition):
    """A complex mask: the phase turns as well."""

    head = HeadSpec(kind="complex_mask")

    def forward(self, magnitude: Tensor, draws: Draws | None = None) -> Answer:
        real = super().forward(magnitude)["mask"]
        return {"complex_mask": real * torch.exp(1j * torch.cumsum(magnitude, dim=-1))[:, None]}


@settings(deadline=None, max_examples=20)
@given(samples=st.integers(1, 3000), sizes=st.lists(st.integers(1, 1500), min_size=1, max_size=3))
def test_complex_masks_are_cross_faded_as_in_one_go(samples: int, sizes: list[int]) -> None:
    song, model, windows = example_song(samples), Turning(), WindowSpec(frames=16, overlap_frames=8, batch=3)
    instrumental, vocals = joined(list(separate(model, HOP_HALF, blocks_of(song, sizes), windows)))
    np.testing.assert_allclose(instrumental, in_one_go(model, HOP_HALF, song, windows), atol=1e-5)
    np.testing.assert_allclose(instrumental + vocals, song, atol=1e-6)


class LargestInput(Masking):
    """Remembers how large an input it was given."""

    frames = 0
    windows = 0

    def mask(self, magnitude: Tensor) -> Tensor:
        self.frames = max(self.frames, magnitude.shape[-1])
        self.windows = max(self.windows, magnitude.shape[0])
        return torch.full_like(magnitude, 0.5)


def test_memory_stays_bounded_and_output_comes_while_input_goes_in() -> None:
    read = 0

    def endless() -> object:
        nonlocal read
        while True:
            read += 1000
            yield example_song(1000)

    model = LargestInput()
    windows = WindowSpec(frames=16, overlap_frames=8, batch=4)
    written = 0
    behind = 0
    for instrumental, _ in separate(model, HOP_HALF, endless(), windows):
        written += instrumental.shape[1]
        behind = max(behind, read - written)
        if written > 300_000:
            break
    assert model.frames == 16
    assert model.windows <= 6
    assert behind < 6000


def test_nothing_gives_nothing() -> None:
    assert list(separate(Constant(1.0), HOP_HALF, [])) == []
    assert list(separate(Constant(1.0), HOP_HALF, [np.zeros((2, 0), np.float32)])) == []


def test_an_overlap_as_long_as_the_window_is_refused() -> None:
    with pytest.raises(ValidationError, match="must be less than frames"):
        WindowSpec(frames=8, overlap_frames=8)
