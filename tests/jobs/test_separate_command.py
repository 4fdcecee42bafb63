import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import typer
from typer.testing import CliRunner

from dataprep.audio.decoders import AudioSource
from dataprep.audio.files import open_audio
from jobs.commands.separate import separate as command
from jobs.errors import NoSongs, SongsFailed
from jobs.scoring.separate import OutputSettings, separate_song
from vr_core.errors import ConfigError
from vr_core.models.registry import build
from vr_core.specs.models import PlainStackSpec
from vr_core.specs.stft import StftSpec
from vr_core.weights import WeightsMeta, save_weights

RATE_HZ = 8000
META = WeightsMeta(
    model=PlainStackSpec(width=4, blocks=1), stft=StftSpec(sample_rate_hz=RATE_HZ, n_fft=128, hop=64),
    crop_frames=32, step=7, run="tiny-1",
)  # fmt: skip


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_weights(tmp_path / "weights.safetensors", build(META.model, META.stft.bins).state_dict(), META)
    return tmp_path / "weights.safetensors"


def write_song(path: Path, rate_hz: int = RATE_HZ, channels: int = 2, seconds: float = 1.5) -> np.ndarray:
    signal = 0.2 * np.random.default_rng(0).standard_normal((int(rate_hz * seconds), channels))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, signal, rate_hz, "PCM_16")
    return soundfile.read(path, always_2d=True)[0]


def run_command(*arguments: object) -> tuple[BaseException | None, str, str]:
    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exception, result.stdout, result.stderr


@pytest.mark.parametrize(
    ("file_format", "subtype", "tolerance"),
    [("wav", "FLOAT", 1e-6), ("wav", "PCM_16", 2**-15), ("flac", "PCM_24", 2**-22)],
)
def test_the_files_sum_to_the_song(
    weights: Path, tmp_path: Path, file_format: str, subtype: str, tolerance: float
) -> None:
    song = write_song(tmp_path / "song.wav")
    out = tmp_path / "out"
    error, stdout, _ = run_command(
        tmp_path / "song.wav", "-m", weights, "-o", out, "--format", file_format, "--subtype", subtype, "--json"
    )
    assert error is None
    files = json.loads(stdout)["songs"][0]
    assert soundfile.info(files["instrumental"]).subtype == subtype
    parts = [soundfile.read(files[stem])[0] for stem in ("instrumental", "vocals")]
    assert parts[0].shape == song.shape
    np.testing.assert_allclose(parts[0] + parts[1], song, atol=tolerance)
    assert np.abs(parts[1]).max() > 0.01
    assert Path(files["picture"]).read_bytes().startswith(b"\x89PNG")
    assert sorted(file.name for file in out.iterdir()) == sorted(
        ["song.png", f"song.instrumental.{file_format}", f"song.vocals.{file_format}"]
    )


def test_what_an_integer_format_clips_from_the_instrumental_is_kept_in_the_vocals(tmp_path: Path) -> None:
    class Louder(torch.nn.Module):
        def forward(self, magnitude: torch.Tensor, draws: None = None) -> torch.Tensor:
            return torch.full_like(magnitude, 1.5)

    wave = 0.9 * np.sin(np.arange(RATE_HZ) / 5)
    soundfile.write(tmp_path / "song.wav", np.stack([wave, wave], 1), RATE_HZ, "FLOAT")
    output = OutputSettings(tmp_path, subtype="PCM_16", picture=False)
    song = partial(open_audio, AudioSource(tmp_path / "song.wav"), RATE_HZ)
    files = separate_song(song, "song", Louder(), META, output)
    parts = [soundfile.read(path)[0][:, 0] for path in (files.instrumental, files.vocals)]
    assert np.abs(parts[0]).max() > 0.999
    np.testing.assert_allclose(parts[0] + parts[1], wave, atol=2**-14)


def test_another_rate_and_mono_come_out_stereo_at_the_models_rate(weights: Path, tmp_path: Path) -> None:
    write_song(tmp_path / "song.wav", rate_hz=11_025, channels=1, seconds=2)
    error, stdout, _ = run_command(tmp_path / "song.wav", "-m", weights, "-o", tmp_path, "--no-picture", "--json")
    assert error is None
    files = json.loads(stdout)["songs"][0]
    assert files["picture"] is None
    info = soundfile.info(files["vocals"])
    assert (info.samplerate, info.channels, info.frames) == (RATE_HZ, 2, 2 * RATE_HZ)


def test_a_folder_with_a_bad_file_does_the_rest_and_names_it(weights: Path, tmp_path: Path) -> None:
    write_song(tmp_path / "album" / "a.wav")
    write_song(tmp_path / "album" / "cd2" / "a.flac")
    (tmp_path / "album" / "bad.mp3").write_bytes(b"this is no audio")
    (tmp_path / "album" / "empty.wav").write_bytes(b"")
    out = tmp_path / "out"
    error, stdout, stderr = run_command(tmp_path / "album", "-m", weights, "-o", out, "--no-picture")
    assert isinstance(error, SongsFailed)
    assert "2 of 4 songs" in str(error)
    assert "bad.mp3" in stderr
    assert "empty.wav" in stderr
    assert len(stdout.split()) == 4
    assert len(list(out.iterdir())) == 4


def test_what_an_earlier_separation_wrote_is_no_song(weights: Path, tmp_path: Path) -> None:
    write_song(tmp_path / "album" / "a.wav")
    for _ in range(2):
        error, stdout, _ = run_command(
            tmp_path / "album", "-m", weights, "-o", tmp_path / "album", "--no-picture", "--json"
        )
        assert error is None
        assert len(json.loads(stdout)["songs"]) == 1
    (tmp_path / "album" / "a.wav").unlink()
    error, _, _ = run_command(tmp_path / "album", "-m", weights, "-o", tmp_path / "out")
    assert isinstance(error, NoSongs)


def test_a_sample_format_that_does_not_fit_is_refused_before_anything_is_done(weights: Path, tmp_path: Path) -> None:
    write_song(tmp_path / "song.wav")
    error, _, _ = run_command(
        tmp_path / "song.wav", "-m", weights, "-o", tmp_path / "out", "--format", "flac", "--subtype", "FLOAT"
    )
    assert isinstance(error, ConfigError)
    assert "PCM_24, PCM_16" in str(error)
    assert not (tmp_path / "out").exists()
