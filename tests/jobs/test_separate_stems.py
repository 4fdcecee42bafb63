"""`vr separate` with weights of other stems than the two, and with other windows than those of training."""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from dataprep.audio.decoders import AudioSource
from dataprep.audio.files import open_audio
from jobs.errors import NoMemory
from jobs.scoring.separate import OutputSettings, chosen_stems, make_files, windows_for
from tests.jobs.separations import META, RATE_HZ, Gain, run_command, tiny_weights, visible, write_song
from tests.masking import Masking
from vr_core.audio.separate import WindowSpec
from vr_core.audio.spectrogram import istft, stft
from vr_core.audio.stems import given_stems
from vr_core.errors import ConfigError
from vr_core.models.heads import Answer
from vr_core.specs.fronts import Front
from vr_core.specs.heads import HeadSpec

FOUR = ("drums", "bass", "other", "vocals")


def separated(tmp_path: Path, *options: object, stems: tuple[str, ...] = FOUR) -> tuple[dict, dict[str, np.ndarray]]:
    """What the command says of a song of noise, and its files."""
    write_song(tmp_path / "song.wav")
    weights = tiny_weights(tmp_path, *stems)
    error, stdout, stderr = run_command(
        tmp_path / "song.wav", "-m", weights, "-o", tmp_path / "out", "--json", "--no-picture", *options
    )
    assert error is None, (error, stderr)
    [said] = json.loads(stdout)["songs"]
    return said, {stem: soundfile.read(path)[0] for stem, path in said["stems"].items()}


@pytest.mark.parametrize(
    ("stems", "options", "written"),
    [
        (("vocals",), (), {"instrumental", "vocals"}),
        (FOUR, (), {"instrumental", "vocals"}),
        (FOUR, ("--stems", "all"), {"instrumental", *FOUR}),
        (FOUR, ("--stems", "bass, drums"), {"bass", "drums"}),
        (FOUR, ("--stems", "vocals"), {"vocals"}),
        (("drums", "bass"), (), {"drums", "bass", "rest"}),
        (("drums",), ("--stems", "rest"), {"rest"}),
    ],
)
def test_the_stems_that_are_chosen_are_written_and_listed(
    tmp_path: Path, stems: tuple[str, ...], options: tuple[str, ...], written: set[str]
) -> None:
    said, heard = separated(tmp_path, *options, stems=stems)
    assert set(heard) == set(said["clipped_samples"]) == written
    assert visible(tmp_path / "out") == sorted(f"song.{stem}.wav" for stem in written)
    for stem in ("instrumental", "vocals"):
        assert said[stem] == said["stems"].get(stem)


@pytest.mark.parametrize("subtype", ["FLOAT", "PCM_16"])
@pytest.mark.parametrize(("stems", "whole"), [(FOUR, ("instrumental", "vocals")), (("drums", "bass"), None)])
@pytest.mark.parametrize("normalise", [False, True])
def test_what_sums_to_the_song_does_so_as_it_is_written(
    tmp_path: Path, stems: tuple[str, ...], whole: tuple[str, ...] | None, subtype: str, normalise: bool
) -> None:
    options = ["--stems", "all", "--subtype", subtype, *(["--normalise"] if normalise else [])]
    said, heard = separated(tmp_path, *options, stems=stems)
    song = soundfile.read(tmp_path / "song.wav")[0]
    assert said["gain_db"] == 0
    total = sum(heard[stem] for stem in whole or heard)
    np.testing.assert_allclose(total, song, atol=2**-22 if subtype == "FLOAT" else 0)


def test_a_stem_is_the_same_whichever_others_are_written(tmp_path: Path) -> None:
    _, all_of_them = separated(tmp_path, "--stems", "all")
    for chosen in ("drums", "vocals", "instrumental,other"):
        _, some = separated(tmp_path, "--stems", chosen)
        for stem, signal in some.items():
            np.testing.assert_allclose(signal, all_of_them[stem], atol=1e-6)


class Shares(Masking):
    """Each stem is a share of the mixture."""

    def __init__(self, **shares: float) -> None:
        super().__init__()
        self.head, self.shares = HeadSpec(stems=tuple(shares)), list(shares.values())

    def forward(self, magnitude: torch.Tensor, draws: object = None) -> Answer:
        return {"mask": torch.stack([share * torch.ones_like(magnitude) for share in self.shares], dim=1)}

    def mask(self, magnitude: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


def made(tmp_path: Path, model: Masking, rate_hz: int, **settings: object) -> dict[str, np.ndarray]:
    """Its files `[channel, sample]` of `song.wav`."""
    shutil.rmtree(tmp_path / "made", ignore_errors=True)
    (tmp_path / "made").mkdir()
    song = partial(open_audio, AudioSource(tmp_path / "song.wav"))
    output = OutputSettings(tmp_path, **{"picture": False, **settings})
    files = make_files(song, rate_hz, "song", model, META, output, tmp_path / "made")
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == sorted(
        [*(path.name for path in files.stems.values()), *([files.picture.name] if files.picture else [])]
    )
    return {stem: soundfile.read(path)[0].T for stem, path in files.stems.items()}


@pytest.mark.parametrize("rate_hz", [RATE_HZ, 3 * RATE_HZ])
def test_at_a_songs_own_rate_what_the_model_cannot_hear_is_in_the_instrumental_or_the_rest(
    tmp_path: Path, rate_hz: int
) -> None:
    at_s = np.arange(rate_hz) / rate_hz
    low, high = 0.3 * np.sin(2 * np.pi * 500 * at_s), 0.2 * np.sin(2 * np.pi * 9000 * at_s) * (rate_hz > RATE_HZ)
    soundfile.write(tmp_path / "song.wav", np.stack([low + high, high], 1), rate_hz, "FLOAT")
    inner = slice(2000, -2000)

    def is_share(signal: np.ndarray, of_low: float, of_high: float) -> bool:
        return np.abs(signal[0, inner] - (of_low * low + of_high * high)[inner]).max() < 1e-3

    found = made(tmp_path, Shares(drums=0.5, vocals=0.2), rate_hz, stems=("all",))
    assert is_share(found["drums"], 0.5, 0)
    assert is_share(found["vocals"], 0.2, 0)
    assert is_share(found["instrumental"], 0.8, 1)
    found = made(tmp_path, Shares(drums=0.5, bass=0.2), rate_hz, picture=True)
    assert is_share(found["drums"], 0.5, 0)
    assert is_share(found["bass"], 0.2, 0)
    assert is_share(found["rest"], 0.3, 1)


def test_one_gain_is_of_the_loudest_stem_that_is_written(tmp_path: Path) -> None:
    wave = 0.5 * np.sin(np.arange(RATE_HZ) / 5)
    soundfile.write(tmp_path / "song.wav", np.stack([wave, wave], 1), RATE_HZ, "FLOAT")
    model = Shares(drums=4.0, vocals=0.5)
    found = made(tmp_path, model, RATE_HZ, stems=("all",), normalise=True)
    assert np.abs(found["drums"]).max() == pytest.approx(1, abs=1e-3)
    assert np.abs(found["vocals"]).max() == pytest.approx(1 / 8, rel=0.05)
    found = made(tmp_path, model, RATE_HZ, stems=("vocals", "instrumental"), normalise=True)
    assert np.abs(found["vocals"]).max() == pytest.approx(0.25, rel=0.05)
    assert set(made(tmp_path, model, RATE_HZ, stems=("vocals",))) == {"vocals"}
    found = made(tmp_path, Shares(drums=-2.0, bass=-4.0), RATE_HZ, normalise=True)  # the rest is the loudest
    assert np.abs(found["rest"]).max() == pytest.approx(1, abs=1e-3)
    assert np.abs(found["bass"]).max() == pytest.approx(4 / 7, rel=0.05)


class OfThePeak(Masking):
    """The quieter a place is beside the song's loudest one, the less of it is instrumental."""

    front = Front(scale="song_peak", context_frames=3)

    def mask(self, magnitude: torch.Tensor) -> torch.Tensor:
        return magnitude.clamp(max=1)


def test_a_model_that_hears_parts_of_the_songs_peak_is_told_it(tmp_path: Path) -> None:
    song = 0.1 * np.random.default_rng(0).standard_normal((2, RATE_HZ))
    song[:, 7000:7100] *= 7
    soundfile.write(tmp_path / "song.wav", song.T, RATE_HZ, "FLOAT")
    heard = torch.from_numpy(soundfile.read(tmp_path / "song.wav", dtype="float32")[0].T)
    spectrum, nyquist = stft(heard, META.stft)
    expected = istft(spectrum * spectrum.abs() / spectrum.abs().max(), RATE_HZ, META.stft, nyquist)
    found = made(tmp_path, OfThePeak(), RATE_HZ)
    np.testing.assert_allclose(found["instrumental"], expected.numpy(), atol=1e-5)


def test_stems_that_the_weights_do_not_give_are_refused_before_any_work(tmp_path: Path) -> None:
    write_song(tmp_path / "song.wav")
    for chosen, message in (("vocals,piano", "--stems piano: these weights give"), (",", "these weights give")):
        error, _, _ = run_command(
            tmp_path / "song.wav", "-m", tiny_weights(tmp_path, *FOUR), "-o", tmp_path / "out", "--stems", chosen
        )
        assert isinstance(error, ConfigError)
        assert message in str(error)
        assert "instrumental, drums, bass, other, vocals; name some of them, or all" in str(error)
    assert not (tmp_path / "out").exists()
    assert chosen_stems(given_stems(FOUR), ("bass", "bass", "vocals")) == ("bass", "vocals")


class Context(Gain):
    front = Front(context_frames=8)


def test_windows_are_as_in_training_or_as_long_as_is_asked_for() -> None:
    assert windows_for(META) == WindowSpec(frames=32, overlap_frames=16, batch=8)
    frame_s = META.stft.hop / META.stft.sample_rate_hz
    assert windows_for(META, 64 * frame_s) == WindowSpec(frames=64, overlap_frames=32, batch=4)
    assert windows_for(META, 5000 * frame_s) == WindowSpec(frames=5000, overlap_frames=2500, batch=1)
    assert windows_for(META, 8 * frame_s).batch == 8


def test_context_is_a_part_of_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(META.model), "front", property(lambda _: Front(context_frames=8)))
    assert windows_for(META) == WindowSpec(frames=16, overlap_frames=8, batch=8)
    assert windows_for(META.model_copy(update={"crop_frames": 12})).frames == 12
    with pytest.raises(ConfigError, match=r"--window-s 0\.01: too short for this model; give at least 0\.14"):
        windows_for(META, 0.01)


def test_a_longer_window_is_what_the_model_hears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[int] = []

    class Listening(Gain):
        def mask(self, magnitude: torch.Tensor) -> torch.Tensor:
            heard.append(magnitude.shape[-1])
            return super().mask(magnitude)

    monkeypatch.setattr("jobs.scoring.separator.load_separator", lambda *_: (Listening(0.5), META))
    separated(tmp_path)
    separated(tmp_path, "--window-s", 1.0)
    assert (heard[0], heard[-1]) == (32, 125)


def test_a_window_beyond_memory_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Greedy(Gain):
        def mask(self, magnitude: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory")

    write_song(tmp_path / "song.wav")
    with pytest.raises(NoMemory, match="the memory of cpu does not hold .* --window-s"):
        made(tmp_path, Greedy(0.5), RATE_HZ)


@pytest.mark.parametrize("room", [1, 2, 3, 8])
def test_fewer_windows_are_computed_at_once_where_memory_holds_no_more(tmp_path: Path, room: int) -> None:
    song = 0.1 * np.random.default_rng(0).standard_normal((2, 4 * RATE_HZ)).astype(np.float32)
    counts: list[int] = []

    class Large(Gain):
        def forward(self, magnitude: torch.Tensor, draws: object = None) -> Answer:
            if len(magnitude) > room:
                raise torch.OutOfMemoryError("CUDA out of memory")
            counts.append(len(magnitude))
            return super().forward(magnitude)

    found = make_files(lambda rate: [song], RATE_HZ, "x", Large(1.0), META, OutputSettings(tmp_path), tmp_path)
    assert max(counts) == {1: 1, 2: 2, 3: 2, 8: 8}[room]
    read, _ = soundfile.read(found.stems["instrumental"], dtype="float32")
    assert np.abs(read.T - song).max() < 1e-5
