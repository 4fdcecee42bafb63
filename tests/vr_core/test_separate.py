from collections.abc import Iterable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from tests.masking import Masking
from vr_core.audio.separate import WindowSpec, mask_spectrum, peak_magnitude, separate
from vr_core.audio.spectrogram import istft, stft
from vr_core.draws import Draws
from vr_core.models.heads import Answer
from vr_core.models.model import Model
from vr_core.models.registry import build
from vr_core.specs.fronts import Front
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


def in_one_go(model: Model, spec: StftSpec, song: np.ndarray, windows: WindowSpec, stem: int = 0) -> np.ndarray:
    """The model's stem computed from the whole song's spectrogram, one window at a time."""
    spectrum, nyquist = stft(torch.from_numpy(song), spec)
    heard, context = spectrum, model.front.context_frames
    if model.front.nyquist:
        heard = torch.cat([heard, nyquist[:, None]], dim=1)
    mixture = heard
    if model.front.scale == "song_peak":
        heard = heard / heard.abs().max()
    heard = torch.nn.functional.pad(heard if model.front.phase else heard.abs(), (context, context))
    frames = spectrum.shape[-1]
    starts = [0]
    while starts[-1] + windows.frames < frames:
        starts.append(min(starts[-1] + windows.step, frames - windows.frames))
    total, weights = torch.zeros_like(mixture), torch.zeros(frames)
    for start in starts:
        stop = min(start + windows.frames, frames)
        fade = torch.from_numpy(np.sin(np.pi * (np.arange(stop - start) + 0.5) / (stop - start)) ** 2).float()
        with torch.inference_mode():
            answer = model(heard[None, ..., start : stop + 2 * context])[model.head.kind][0, stem]
        total[..., start:stop] += fade * answer[..., context : context + stop - start]
        weights[start:stop] += fade
    found = mixture * total / weights
    found, nyquist = (found[:, :-1], found[:, -1]) if model.front.nyquist else (found, nyquist)
    keeps = model.front.nyquist or model.head.stems[stem] == "instrumental"
    return istft(found, song.shape[1], spec, nyquist if keeps else None).numpy()


def joined(blocks: Iterable[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The whole of each stem."""
    every = list(blocks)
    return {stem: np.concatenate([block[stem] for block in every], axis=1) for stem in every[0]}


def two(blocks: Iterable[dict[str, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Instrumental and vocals."""
    whole = joined(blocks)
    return whole["instrumental"], whole["vocals"]


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
    instrumental, vocals = two(list(separate(ByPosition(), spec, blocks_of(song, sizes), windows)))
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
    instrumental, vocals = two(pairs)
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
    instrumental, vocals = two(list(separate(Constant(1.0), HOP_HALF, [song], windows)))
    np.testing.assert_allclose(instrumental, song, atol=1e-5)
    np.testing.assert_allclose(vocals, 0, atol=1e-5)
    instrumental, _ = two(list(separate(Constant(0.0), HOP_HALF, [song], windows)))
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
    instrumental, _ = two(list(separate(model, HOP_HALF, [song], windows)))
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
    instrumental, vocals = two(list(separate(model, HOP_HALF, blocks_of(song, sizes), windows)))
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
    for block in separate(model, HOP_HALF, endless(), windows):
        written += block["instrumental"].shape[1]
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


class Ensemble(Model):
    """A mask for each stem that depends on content, place in the window and bin, and is not linear in what it hears."""

    def __init__(self, front: Front, *stems: str) -> None:
        super().__init__()
        self.front, self.head = front, HeadSpec(kind="complex_mask" if front.phase else "mask", stems=stems)

    def forward(self, heard: Tensor, draws: Draws | None = None) -> Answer:
        frames, bins = heard.shape[-1], heard.shape[-2]
        place = torch.linspace(-1, 1, frames) + 0.01 * frames + torch.linspace(0, 1, bins)[:, None]
        masks = []
        for number in range(len(self.head.stems)):
            real = torch.sigmoid((1 - number) * place + torch.cumsum(heard.abs(), dim=-1))
            masks.append(real * torch.exp(1j * (number + heard.real)) if self.front.phase else real)
        return {self.head.kind: torch.stack(masks, dim=1)}

    def features(self, heard: Tensor, draws: Draws | None = None) -> Tensor:
        return heard.abs().permute(0, 3, 1, 2).flatten(2)

    def layer_prefixes(self) -> tuple[str, ...]:
        return ()


FOUR = ("drums", "bass", "other", "vocals")


def heard_and_separated(model: Model, song: np.ndarray, sizes: list[int], windows: WindowSpec, *stems: str) -> dict:
    """As a caller does it: the peak first, where the model hears parts of it."""
    blocks = blocks_of(song, sizes)
    peak = peak_magnitude(blocks, HOP_QUARTER, nyquist=model.front.nyquist) if model.front.scale != "none" else None
    return joined(separate(model, HOP_QUARTER, blocks, windows, stems=stems, song_peak=peak))


@settings(deadline=None, max_examples=60)
@given(
    samples=st.integers(1, 3000),
    sizes=st.lists(st.integers(1, 1500), min_size=1, max_size=3),
    frames=st.integers(1, 24),
    overlap=st.integers(0, 23),
    batch=st.integers(1, 3),
    context=st.sampled_from([0, 1, 5, 30]),
    scale=st.sampled_from(["none", "song_peak"]),
    phase=st.booleans(),
)
def test_stems_context_and_the_songs_peak_are_as_in_one_go(
    samples: int, sizes: list[int], frames: int, overlap: int, batch: int, context: int, scale, phase: bool
) -> None:
    windows = WindowSpec(frames=frames, overlap_frames=min(overlap, frames - 1), batch=batch)
    front = Front(HOP_QUARTER if phase else None, nyquist=phase, phase=phase, context_frames=context, scale=scale)
    model, song = Ensemble(front, *FOUR), example_song(samples)
    sizes = [max(size, samples // 200) for size in sizes]
    found = heard_and_separated(model, song, sizes, windows, "drums", "bass", "other", "vocals", "instrumental")
    assert list(found) == ["instrumental", "drums", "bass", "other", "vocals"]
    for number, stem in enumerate(FOUR):
        np.testing.assert_allclose(found[stem], in_one_go(model, HOP_QUARTER, song, windows, number), atol=1e-5)
    assert np.array_equal(found["vocals"], song - found["instrumental"])


def test_of_stems_that_are_no_half_of_a_song_the_rest_is_given_and_all_sum_to_it() -> None:
    song, windows = example_song(3000), WindowSpec(frames=16, overlap_frames=8)
    model = Ensemble(Front(), "drums", "bass")
    found = heard_and_separated(model, song, [700], windows, "rest")
    assert set(found) == {"drums", "bass", "rest"}
    np.testing.assert_allclose(found["drums"] + found["bass"] + found["rest"], song, atol=1e-6)
    for number, stem in enumerate(("drums", "bass")):  # neither holds the Nyquist bin
        np.testing.assert_allclose(found[stem], in_one_go(model, HOP_QUARTER, song, windows, number), atol=1e-5)
    assert set(heard_and_separated(model, song, [700], windows, "drums")) == {"drums"}


def test_a_louder_song_has_the_same_masks_for_a_model_that_hears_parts_of_its_peak() -> None:
    song, windows = example_song(3000), WindowSpec(frames=16, overlap_frames=8)
    quiet, loud = (
        heard_and_separated(Ensemble(Front(scale="song_peak"), "vocals"), gain * song, [700], windows, "vocals")
        for gain in (np.float32(1), np.float32(4))
    )
    np.testing.assert_allclose(4 * quiet["vocals"], loud["vocals"], atol=1e-5)
    silent = heard_and_separated(Ensemble(Front(scale="song_peak"), "vocals"), 0 * song, [700], windows, "vocals")
    assert not silent["vocals"].any()


def test_the_peak_is_found_in_pieces_and_must_be_given() -> None:
    song, model = example_song(30_000), Ensemble(Front(scale="song_peak"), "vocals")
    song[:, 20_111:20_150] += 0.9
    spectrum, nyquist = stft(torch.from_numpy(song), HOP_QUARTER)
    for heard, whole in ((False, spectrum), (True, torch.cat([spectrum, nyquist[:, None]], dim=1))):
        found = peak_magnitude(blocks_of(song, [701, 1500]), HOP_QUARTER, nyquist=heard)
        assert found == pytest.approx(float(whole.abs().max()), rel=1e-6)
    assert peak_magnitude([], HOP_QUARTER, nyquist=True) == 0
    with pytest.raises(ValueError, match="give song_peak"):
        list(separate(model, HOP_QUARTER, [song]))


def test_a_stem_that_the_model_does_not_give_is_refused() -> None:
    with pytest.raises(ValueError, match="stems drums: this model gives instrumental, vocals"):
        list(separate(Constant(1.0), HOP_HALF, [example_song(100)], stems=("drums",)))
