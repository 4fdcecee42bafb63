"""`vr separate`: what it writes and says of a song, and what it replaces."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dataprep.audio.decoders import AudioSource
from dataprep.audio.files import open_audio
from jobs.errors import NoSongs, SongsFailed
from jobs.scoring.separate import OutputSettings, separate_song
from tests.jobs.separations import (
    META,
    RATE_HZ,
    Gain,
    run_command,
    tiny_weights,
    visible,
    write_song,
)
from vr_core.errors import ConfigError, StorageError


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return tiny_weights(tmp_path)


@pytest.mark.parametrize(
    ("file_format", "subtype", "tolerance"),
    [("wav", "FLOAT", 2**-23), ("wav", "PCM_16", 0), ("flac", "PCM_24", 0), ("flac", "PCM_16", 0)],
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
    assert visible(out) == sorted(["song.png", f"song.instrumental.{file_format}", f"song.vocals.{file_format}"])
    assert files["clipped_samples"] == {"instrumental": 0, "vocals": 0}
    assert files["gain_db"] == 0


def test_what_an_integer_format_clips_from_the_instrumental_is_kept_in_the_vocals(tmp_path: Path) -> None:
    wave = 0.9 * np.sin(np.arange(RATE_HZ) / 5)
    soundfile.write(tmp_path / "song.wav", np.stack([wave, wave], 1), RATE_HZ, "FLOAT")
    output = OutputSettings(tmp_path, subtype="PCM_16", picture=False)
    song = partial(open_audio, AudioSource(tmp_path / "song.wav"), RATE_HZ)
    files = separate_song(song, "song", Gain(1.5), META, output)
    parts = [soundfile.read(path)[0][:, 0] for path in (files.stems["instrumental"], files.stems["vocals"])]
    assert np.abs(parts[0]).max() > 0.999
    np.testing.assert_allclose(parts[0] + parts[1], wave, atol=2**-16)
    assert files.clipped_samples == {"instrumental": np.count_nonzero(np.abs(parts[0]) > 0.9999) * 2, "vocals": 0}


@pytest.mark.parametrize(("options", "rate_hz"), [((), 11_025), (("--rate", "model"), RATE_HZ)])
def test_mono_comes_out_stereo_and_at_the_songs_rate_or_the_models(
    weights: Path, tmp_path: Path, options: tuple[str, ...], rate_hz: int
) -> None:
    write_song(tmp_path / "song.wav", rate_hz=11_025, channels=1, seconds=2)
    error, stdout, _ = run_command(
        tmp_path / "song.wav", "-m", weights, "-o", tmp_path / "out", "--no-picture", "--json", *options
    )
    assert error is None
    files = json.loads(stdout)["songs"][0]
    assert files["picture"] is None
    assert files["sample_rate_hz"] == rate_hz
    for stem in ("instrumental", "vocals"):
        info = soundfile.info(files[stem])
        assert (info.samplerate, info.channels, info.frames) == (rate_hz, 2, 2 * rate_hz)


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
    assert len(visible(out)) == 4


def test_what_an_earlier_separation_wrote_is_no_song(weights: Path, tmp_path: Path) -> None:
    write_song(tmp_path / "album" / "a.wav")
    for _ in range(2):
        error, stdout, stderr = run_command(
            tmp_path / "album", "-m", weights, "-o", tmp_path / "album", "--no-picture", "--json"
        )
        assert error is None
        assert len(json.loads(stdout)["songs"]) == 1
        assert visible(tmp_path / "album") == ["a.instrumental.wav", "a.vocals.wav", "a.wav"]
    assert "passed over 2 files that an earlier separation wrote" in stderr
    assert json.loads(stdout)["passed_over"] == 2
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


def write_loud(path: Path, level: float) -> np.ndarray:
    wave = level * np.sin(np.arange(RATE_HZ) / 5)
    soundfile.write(path, np.stack([wave, -wave], 1), RATE_HZ, "FLOAT")
    return soundfile.read(path, dtype="float32")[0].T


@pytest.mark.parametrize(("file_format", "subtype"), [("wav", "PCM_16"), ("flac", "PCM_24"), ("wav", "FLOAT")])
@pytest.mark.parametrize("mask", [0.0, 1.0, 1.5])
def test_one_gain_keeps_both_within_full_scale_and_the_sum(
    tmp_path: Path, file_format: str, subtype: str, mask: float
) -> None:
    """Whether the vocals (mask 0) or the instrumental are the louder."""
    song = write_loud(tmp_path / "song.wav", 1.7)
    output = OutputSettings(tmp_path / "out", file_format, subtype, picture=False, normalise=True)
    files = separate_song(
        partial(open_audio, AudioSource(tmp_path / "song.wav"), RATE_HZ), "song", Gain(mask), META, output
    )
    gain = 10 ** (files.gain_db / 20)
    assert gain == pytest.approx(1 / (1.7 * max(mask, 1)), rel=0.05)  # the windows' ends are a little louder
    parts = [soundfile.read(path)[0].T for path in (files.stems["instrumental"], files.stems["vocals"])]
    assert 0.999 < max(np.abs(part).max() for part in parts) <= 1
    assert files.clipped_samples == {"instrumental": 0, "vocals": 0}
    np.testing.assert_allclose(parts[0] + parts[1], gain * song, atol=2e-4)
    assert visible(tmp_path / "out") == [f"song.instrumental.{file_format}", f"song.vocals.{file_format}"]


def test_a_song_that_fits_is_not_made_louder(weights: Path, tmp_path: Path) -> None:
    song = write_song(tmp_path / "song.wav")
    arguments = (tmp_path / "song.wav", "-m", weights, "--no-picture", "--subtype", "PCM_16", "--json")
    _, plain, _ = run_command(*arguments, "-o", tmp_path / "plain")
    _, normalised, stderr = run_command(*arguments, "-o", tmp_path / "normalised", "--normalise")
    assert json.loads(normalised)["songs"][0]["gain_db"] == 0
    assert "note: " not in stderr
    for stem in ("instrumental", "vocals"):
        heard = [soundfile.read(json.loads(said)["songs"][0][stem])[0] for said in (plain, normalised)]
        assert np.array_equal(*heard)
    assert song.any()


def test_what_clips_is_counted_and_said(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    song = write_loud(tmp_path / "song.wav", 1.5)
    monkeypatch.setattr("jobs.scoring.separator.load_separator", lambda *_: (Gain(0.0), META))
    arguments = (tmp_path / "song.wav", "-m", weights, "-o", tmp_path / "out", "--no-picture")
    error, stdout, stderr = run_command(*arguments, "--format", "flac", "--json")
    assert error is None
    files = json.loads(stdout)["songs"][0]
    beyond = np.count_nonzero(np.abs(song) > 1)
    assert files["clipped_samples"]["vocals"] == pytest.approx(beyond, rel=0.01)
    assert f"{files['clipped_samples']['vocals']:,} samples of the vocals clipped" in stderr
    assert "do not sum to the song" in stderr
    assert "--normalise" in stderr
    _, stdout, stderr = run_command(*arguments, "--format", "flac", "--normalise", "--json")
    assert json.loads(stdout)["songs"][0]["gain_db"] == pytest.approx(-3.52, abs=0.05)
    assert "dB lower than the song" in stderr
    error, _, stderr = run_command(*arguments)
    assert (error, stderr) == (None, "separating song (1 of 1)\n")


def test_two_songs_of_one_name_keep_their_results_and_it_is_said(weights: Path, tmp_path: Path) -> None:
    heard = {}
    for seed, album in enumerate(("a", "b")):
        write_song(tmp_path / album / "intro.wav", seed=seed)
    for album in ("a", "b", "a", "b"):
        error, stdout, stderr = run_command(
            tmp_path / album / "intro.wav", "-m", weights, "-o", tmp_path / "out", "--json", "--no-picture"
        )
        assert error is None
        [song] = json.loads(stdout)["songs"]
        assert (song["name"], song["name_wanted"]) == ("intro" if album == "a" else "intro-2", "intro")
        assert ("-2" in stderr and str(tmp_path / "a" / "intro.wav") in stderr) == (album == "b")
        heard.setdefault(album, []).append(soundfile.read(song["vocals"])[0])
    assert all(np.array_equal(*twice) for twice in heard.values())
    assert not np.array_equal(heard["a"][0], heard["b"][0])
    assert len(visible(tmp_path / "out")) == 4
    # Both in one call, the other first: each finds its own again.
    songs = [tmp_path / album / "intro.wav" for album in ("b", "a")]
    _, stdout, _ = run_command(*songs, "-m", weights, "-o", tmp_path / "out", "--json", "--no-picture")
    assert [song["name"] for song in json.loads(stdout)["songs"]] == ["intro-2", "intro"]


def test_results_that_nobody_knows_are_kept(weights: Path, tmp_path: Path) -> None:
    write_song(tmp_path / "song.wav")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "song.vocals.wav").write_bytes(b"somebody's")
    (tmp_path / "out" / ".vr-separated.json").write_bytes(b"{")
    error, stdout, stderr = run_command(tmp_path / "song.wav", "-m", weights, "-o", tmp_path / "out", "--no-picture")
    assert error is None
    assert "song-2.vocals.wav" in stdout
    assert "song.vocals.wav is of a song that is not known" in stderr
    assert ".vr-separated.json: damaged" in stderr
    assert (tmp_path / "out" / "song.vocals.wav").read_bytes() == b"somebody's"


def test_another_song_in_the_same_file_keeps_the_results_of_the_first_and_it_is_said(
    weights: Path, tmp_path: Path
) -> None:
    """A recorder names every song alike."""
    for seed, name in enumerate(("track01", "track01-2")):
        write_song(tmp_path / "track01.wav", seed=seed)
        error, stdout, stderr = run_command(
            tmp_path / "track01.wav", "-m", weights, "-o", tmp_path / "out", "--json", "--no-picture"
        )
        assert error is None
        assert json.loads(stdout)["songs"][0]["name"] == name
    assert f"is of {tmp_path / 'track01.wav'} as it was before it changed, and was kept" in stderr
    assert len(visible(tmp_path / "out")) == 4


def test_a_record_that_cannot_be_read_now_is_refused_before_any_work(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_song(tmp_path / "song.wav")

    def failing(path: Path) -> dict[str, object]:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr("jobs.scoring.results.read_json", failing)
    error, stdout, _ = run_command(tmp_path / "song.wav", "-m", weights, "-o", tmp_path / "out", "--no-picture")
    assert isinstance(error, StorageError)
    assert ".vr-separated.json: cannot be read (Input/output error)" in str(error)
    assert (stdout, visible(tmp_path / "out")) == ("", [])
