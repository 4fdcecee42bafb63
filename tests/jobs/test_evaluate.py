import json
import math
import os
import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import typer
from typer.testing import CliRunner

from dataprep.audio.decoders import AudioSource
from dataprep.audio.tracks import find_tracks
from dataprep.errors import ManifestError
from dataprep.preparing.prepare import PrepareSettings, prepare
from dataprep.shards.manifest import Manifest, SongRow, write_manifest
from jobs.cli import data as data_app
from jobs.commands.data.given import remember
from jobs.commands.evaluate import evaluate as command
from jobs.commands.terminal import NoConsent
from jobs.errors import FolderTaken, NoSongs, SongsFailed
from jobs.scoring.evaluate import evaluate
from jobs.scoring.results import FILE as RECORD
from jobs.scoring.results import SongFile, place, scratch
from tests.jobs.separations import tiny_weights
from vr_core.errors import WeightsError
from vr_core.models.registry import build
from vr_core.specs.models import PlainStackSpec
from vr_core.specs.stft import StftSpec
from vr_core.weights import WeightsMeta, save_weights

RATE_HZ = 8000


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run folder with one checkpoint of a tiny untrained model."""
    run = tmp_path / "runs" / "tiny-1"
    step = run / "checkpoints" / "step-00000007"
    step.mkdir(parents=True)
    (run / "recipe.yaml").write_text("name: tiny\n")
    torch.manual_seed(0)
    meta = WeightsMeta(
        model=PlainStackSpec(width=4, blocks=1), stft=StftSpec(sample_rate_hz=RATE_HZ, n_fft=128, hop=64),
        crop_frames=32, step=7, run="tiny-1",
    )  # fmt: skip
    save_weights(step / "weights.safetensors", build(meta.model, meta.stft.bins).state_dict(), meta)
    (step / "checkpoint.json").write_text("{}")
    (run / "checkpoints" / "last").write_text("step-00000007")
    return run


@pytest.fixture
def music(tmp_path: Path) -> Path:
    """Two songs with stems; the first louder in its vocals."""
    random = np.random.default_rng(0)
    for name, loudness in [("one", 0.3), ("two", 0.05)]:
        folder = tmp_path / "music" / name
        folder.mkdir(parents=True)
        for stem, level in [("vocals", loudness), ("drums", 0.1), ("bass", 0.1)]:
            signal = level * random.standard_normal((RATE_HZ * 2 + 13, 2))
            soundfile.write(folder / f"{stem}.wav", signal, RATE_HZ, "FLOAT")
    return tmp_path / "music"


def sdr(reference: np.ndarray, estimate: np.ndarray) -> float:
    return 10 * math.log10((reference**2).sum() / ((reference - estimate) ** 2).sum())


def test_scores_are_those_of_the_files_against_the_original_audio(run_folder: Path, music: Path) -> None:
    done: dict[str, float] = {}
    result = evaluate(run_folder, music, device="cpu", bar=lambda seconds: nullcontext(done.__setitem__))
    assert result.folder == run_folder / "eval" / "step-00000007"
    assert [song["id"] for song in result.songs] == ["one", "two"]
    assert result.problems == []
    for song in result.songs:
        read = {s: soundfile.read(music / song["id"] / f"{s}.wav")[0] for s in ("vocals", "drums", "bass")}
        instrumental = read["drums"] + read["bass"]
        files = {s: soundfile.read(result.folder / f"{song['id']}.{s}.wav")[0] for s in ("vocals", "instrumental")}
        nothing = sdr(instrumental, instrumental + read["vocals"])
        assert song["sdr_db"] == pytest.approx(sdr(instrumental, files["instrumental"]), abs=1e-3)
        assert song["vocals_sdr_db"] == pytest.approx(sdr(read["vocals"], files["vocals"]), abs=1e-3)
        assert song["do_nothing_db"] == pytest.approx(nothing, abs=1e-3)
        assert song["improvement_db"] == pytest.approx(song["sdr_db"] - nothing, abs=1e-3)
        assert done[song["id"]] == pytest.approx(2 + 13 / RATE_HZ)
    plain = result.plain()
    assert plain["mean"]["sdr_db"] == pytest.approx(sum(song["sdr_db"] for song in result.songs) / 2)
    stored = json.loads((result.folder / "eval.json").read_text())
    assert {key: stored[key] for key in ("songs", "mean", "trained_on", "stems_not_scored")} == plain
    assert stored["step"] == 7


def test_a_mixture_with_its_instrumental_is_enough(run_folder: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    vocals, instrumental = 0.1 * random.standard_normal((2, RATE_HZ + 7, 2))
    for folder, signal in (("mixtures", vocals + instrumental), ("instruments", instrumental)):
        (tmp_path / "pairs" / folder).mkdir(parents=True)
        soundfile.write(tmp_path / "pairs" / folder / "song.wav", signal, RATE_HZ, "FLOAT")
    result = evaluate(run_folder, tmp_path / "pairs", device="cpu")
    [song] = result.songs
    files = {stem: soundfile.read(result.folder / f"song.{stem}.wav")[0] for stem in ("vocals", "instrumental")}
    assert song["id"] == "song"
    assert song["do_nothing_db"] == pytest.approx(sdr(instrumental, instrumental + vocals), abs=1e-3)
    assert song["sdr_db"] == pytest.approx(sdr(instrumental, files["instrumental"]), abs=1e-3)
    assert song["vocals_sdr_db"] == pytest.approx(sdr(vocals, files["vocals"]), abs=1e-3)


def test_stems_that_differ_a_little_in_length_are_scored_as_they_are_prepared(run_folder: Path, music: Path) -> None:
    vocals = soundfile.read(music / "one" / "vocals.wav")[0]
    soundfile.write(music / "one" / "vocals.wav", vocals[:-5], RATE_HZ, "FLOAT")
    soundfile.write(music / "two" / "vocals.wav", vocals[: RATE_HZ // 2], RATE_HZ, "FLOAT")
    result = evaluate(run_folder, music, device="cpu")
    assert [song["id"] for song in result.songs] == ["one"]
    assert soundfile.info(result.folder / "one.vocals.wav").frames == len(vocals)
    vocals[-5:] = 0
    estimate = soundfile.read(result.folder / "one.vocals.wav")[0]
    assert result.songs[0]["vocals_sdr_db"] == pytest.approx(sdr(vocals, estimate), abs=1e-3)
    assert "vocals.wav ends at 0.50 s" in result.problems[0][1]


def test_a_song_without_a_voice_does_not_count_as_improved(run_folder: Path, music: Path) -> None:
    soundfile.write(music / "two" / "vocals.wav", np.full((RATE_HZ * 2 + 13, 2), 1e-6), RATE_HZ, "FLOAT")
    result = evaluate(run_folder, music, device="cpu")
    one, two = result.songs
    assert (two["do_nothing_db"], two["improvement_db"], two["vocals_sdr_db"]) == (None, None, None)
    assert two["sdr_db"] is not None
    assert result.plain()["mean"]["improvement_db"] == one["improvement_db"]


def run_command(*arguments: str) -> tuple[BaseException | None, str, str]:
    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, list(arguments))
    return result.exception, result.stdout, result.stderr


def test_a_song_whose_audio_is_damaged_is_named_and_the_other_is_scored(run_folder: Path, music: Path) -> None:
    (music / "one" / "drums.wav").write_bytes(b"RIFFnothing")
    error, stdout, stderr = run_command(str(run_folder), str(music), "--device", "cpu", "--json")
    assert isinstance(error, SongsFailed)
    assert "1 of 2 songs" in str(error)
    assert "not scored: one:" in stderr
    assert "drums.wav" in stderr
    scores = json.loads(stdout)
    assert set(scores) == {"songs", "mean", "trained_on", "stems_not_scored"}
    assert [song["id"] for song in scores["songs"]] == ["two"]
    assert not list((run_folder / "eval").rglob("one.*"))


def test_a_song_whose_files_cannot_be_written_is_named_and_the_other_is_scored(
    run_folder: Path, music: Path, tmp_path: Path
) -> None:
    (tmp_path / "out" / "one.vocals.wav" / "in the way").mkdir(parents=True)
    error, stdout, stderr = run_command(str(run_folder), str(music), "--device", "cpu", "-o", str(tmp_path / "out"))
    assert isinstance(error, SongsFailed)
    assert "not scored: one:" in stderr
    assert "two" in stdout


def separated(folder: Path) -> None:
    """As `vr separate` leaves it: the record, and its files."""
    with scratch(folder) as made:
        files = {f".{stem}.wav": made / stem for stem in ("instrumental", "vocals")}
        for path in files.values():
            path.write_bytes(b"separated")
        place(folder, SongFile("/music/two.mp3", "a" * 64), "two", files)


def separated_by_an_earlier_version(folder: Path) -> None:
    separated(folder)
    (folder / RECORD).unlink()


def separated_after_an_evaluation(folder: Path) -> None:
    separated(folder)
    (folder / "eval.json").write_text("{}")


def separated_with_a_damaged_record(folder: Path) -> None:
    separated_after_an_evaluation(folder)
    (folder / RECORD).write_bytes(b"{")


@pytest.mark.parametrize(
    "fill",
    [separated, separated_by_an_earlier_version, separated_after_an_evaluation, separated_with_a_damaged_record],
)
def test_results_of_a_separation_are_not_replaced(run_folder: Path, music: Path, tmp_path: Path, fill) -> None:
    fill(tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(FolderTaken, match=r"two\.instrumental\.wav: is no file of an evaluation.*--out"):
        evaluate(run_folder, music, out=tmp_path / "out", device="cpu")
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_the_songs_that_are_scored_are_not_replaced(run_folder: Path, music: Path, tmp_path: Path) -> None:
    """A data set of `two.vocals.wav` and `two.instrumental.wav`; their folder is given for the results."""
    stft = StftSpec(sample_rate_hz=RATE_HZ, n_fft=128, hop=64)
    flat = {stem: (AudioSource(music / f"two.{stem}.wav"),) for stem in ("vocals", "instrumental")}
    for stem, [source] in flat.items():
        shutil.copy(music / "two" / ("vocals.wav" if stem == "vocals" else "bass.wav"), source.path)
    song = SongRow(id="two", split="test", samples=RATE_HZ * 2 + 13, frames=252, stems={}, sources=flat)
    (tmp_path / "data").mkdir()
    write_manifest(tmp_path / "data", Manifest(stft=stft, codec="polar8", shards={}, songs=(song,)))
    before = {source.path: source.path.read_bytes() for [source] in flat.values()}
    for evaluated_before in (False, True):
        if evaluated_before:
            (music / "eval.json").write_text("{}")
        with pytest.raises(FolderTaken, match=r"two\.instrumental"):
            evaluate(run_folder, tmp_path / "data", out=music, device="cpu")
        assert {path: path.read_bytes() for path in before} == before


def test_an_evaluation_replaces_its_own_files_also_those_of_one_that_was_broken_off(
    run_folder: Path, music: Path, tmp_path: Path
) -> None:
    def broken_off(song: str, done_s: float) -> None:
        if song == "two":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(run_folder, music, out=tmp_path / "out", device="cpu", bar=lambda _: nullcontext(broken_off))
    assert (tmp_path / "out" / "one.vocals.wav").is_file()
    for _ in range(2):
        assert len(evaluate(run_folder, music, out=tmp_path / "out", device="cpu").songs) == 2
    separated(tmp_path / "out" / "others")
    assert len(evaluate(run_folder, music, out=tmp_path / "out", device="cpu").songs) == 2


def test_a_title_of_too_many_bytes_is_scored(run_folder: Path, music: Path) -> None:
    """As many bytes as the name of a folder may have: two that begin alike."""
    for end in "一二":
        shutil.copytree(music / "two", music / ("歌" * 84 + end))
    ids = ["歌" * 66, "歌" * 66 + "-2"]
    error, stdout, _ = run_command(str(run_folder), str(music), "--device", "cpu", "--json")
    assert error is None
    assert [song["id"] for song in json.loads(stdout)["songs"]][-2:] == ids
    assert len(list((run_folder / "eval").rglob("歌*.vocals.wav"))) == 2


def test_what_of_a_folder_is_not_scored_is_said(run_folder: Path, music: Path) -> None:
    (music / "alone").mkdir()
    shutil.copy(music / "one" / "bass.wav", music / "alone" / "mixture.wav")
    (music / "one" / "cover.jpg").write_bytes(b"picture")
    (music / os.fsdecode(b"\xff.wav")).write_bytes(b"")
    error, stdout, stderr = run_command(str(run_folder), str(music), "--device", "cpu", "--json")
    assert error is None
    assert [song["id"] for song in json.loads(stdout)["songs"]] == ["one", "two"]
    assert "passed over, one stem alone has no score: 1 songs, such as alone" in stderr
    assert "passed over, no audio: 1 .jpg" in stderr
    assert "xff.wav: its name is not UTF-8; rename it" in stderr


def test_of_more_stems_the_two_that_are_known_are_scored_and_the_others_named(music: Path, tmp_path: Path) -> None:
    weights = tiny_weights(tmp_path, "drums", "vocals", "bass")
    error, stdout, stderr = run_command(str(weights), str(music), "--device", "cpu", "--json")
    assert error is None
    assert "not scored, since only instrumental and vocals are known: drums, bass\n" in stderr
    scores = json.loads(stdout)
    assert scores["stems_not_scored"] == ["drums", "bass"]
    [folder] = (tmp_path / "eval").iterdir()
    assert not list(folder.glob("*drums*"))
    for song in scores["songs"]:
        vocals = soundfile.read(music / song["id"] / "vocals.wav")[0]
        found = sdr(vocals, soundfile.read(folder / f"{song['id']}.vocals.wav")[0])
        assert song["vocals_sdr_db"] == pytest.approx(found, abs=1e-3)


def test_weights_that_give_neither_half_of_a_song_are_refused(music: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="gives drums, bass, rest, and scores are of instrumental and vocals"):
        evaluate(tiny_weights(tmp_path, "drums", "bass"), music, device="cpu")
    assert not (tmp_path / "eval").exists()


def test_the_table_has_every_song_and_the_mean(run_folder: Path, music: Path) -> None:
    error, stdout, _ = run_command(str(run_folder), str(music), "--device", "cpu")
    assert error is None
    for word in ("one", "two", "mean", "eval.json"):
        assert word in stdout


def test_music_without_stems_and_a_damaged_checkpoint_are_refused(
    run_folder: Path, music: Path, tmp_path: Path
) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    soundfile.write(flat / "song.wav", np.zeros((100, 2)), RATE_HZ)
    with pytest.raises(NoSongs, match="no song with two of"):
        evaluate(run_folder, flat, device="cpu")
    weights = run_folder / "checkpoints" / "step-00000007" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(WeightsError, match="damaged"):
        evaluate(run_folder, music, device="cpu")


def write_data_set(folder: Path, music: Path, stft: StftSpec) -> None:
    """A data set's manifest over the music: song one for training, song two for the test."""
    songs = tuple(
        SongRow(
            id=name, split=split, samples=RATE_HZ * 2 + 13, frames=252, stems={},
            sources={
                "vocals": (AudioSource(music / name / "vocals.wav"),),
                "instrumental": tuple(AudioSource(music / name / f"{stem}.wav") for stem in ("drums", "bass")),
            },
        )
        for name, split in (("one", "train"), ("two", "test"))
    )  # fmt: skip
    folder.mkdir()
    write_manifest(folder, Manifest(stft=stft, codec="polar8", shards={}, songs=songs))


def test_a_data_set_gives_the_songs_of_its_split_and_must_have_the_models_settings(
    run_folder: Path, music: Path, tmp_path: Path
) -> None:
    stft = StftSpec(sample_rate_hz=RATE_HZ, n_fft=128, hop=64)
    write_data_set(tmp_path / "data", music, stft)
    result = evaluate(run_folder, tmp_path / "data", device="cpu")
    assert result.songs == evaluate(run_folder, music, out=tmp_path / "eval", device="cpu").songs[1:]
    with pytest.raises(NoSongs, match="split valid of train, valid, test"):
        evaluate(run_folder, tmp_path / "data", split="valid", device="cpu")
    (music / "two" / "bass.wav").unlink()
    missing = evaluate(run_folder, tmp_path / "data", device="cpu")
    assert missing.songs == []
    assert "bass.wav: cannot be opened" in missing.problems[0][1]
    assert missing.plain()["mean"]["sdr_db"] is None
    write_data_set(tmp_path / "other", music, StftSpec(sample_rate_hz=RATE_HZ, n_fft=256, hop=64))
    with pytest.raises(ManifestError, match="n_fft 256 in the data set, 128"):
        evaluate(run_folder, tmp_path / "other", device="cpu")


def test_a_model_listens_for_stems_that_are_what_they_should_not_be(
    run_folder: Path, music: Path, tmp_path: Path
) -> None:
    """Every stem of a data set gets a score from the checkpoint; what is done with scores is tested with dataprep."""
    settings = PrepareSettings(stft=StftSpec(sample_rate_hz=RATE_HZ, n_fft=128, hop=64), workers=1)
    prepare(find_tracks([music]).tracks, tmp_path / "data", settings)
    told = CliRunner().invoke(data_app, ["check", str(tmp_path / "data"), "-m", str(run_folder), "--json"])
    assert told.exit_code == 0, told.output
    stems = json.loads(told.stdout)["stems"]
    assert {(row["song"], row["role"]) for row in stems} == {
        (song, role) for song in ("one", "two") for role in ("vocals", "instrumental")
    }
    shares = [row["foreign"] for row in stems]
    assert shares == sorted(shares, reverse=True)
    assert all(0 < share < 1 for share in shares)
    shown = CliRunner().invoke(data_app, ["check", str(tmp_path / "data"), "-m", str(run_folder)]).stdout
    assert f"4 stems, {sum(row['suspicious'] for row in stems)} suspicious" in shown


@pytest.fixture
def shared_data(music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set of music that this account never gave to vr."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    write_data_set(tmp_path / "data", music, StftSpec(sample_rate_hz=RATE_HZ, n_fft=128, hop=64))
    return tmp_path / "data"


def test_music_that_was_never_given_is_named_and_not_read_unasked(run_folder: Path, shared_data: Path, music: Path):
    """Whoever may write to the share names a private recording as a song's source, and finds it beside the run."""
    error, stdout, stderr = run_command(str(run_folder), str(shared_data), "--device", "cpu")
    assert isinstance(error, NoConsent)
    assert stdout == ""
    named = [line.strip() for line in stderr.splitlines() if line.startswith("  ")]
    assert named == sorted(str(music / "two" / f"{stem}.wav") for stem in ("vocals", "drums", "bass"))
    assert not (run_folder / "eval").exists()
    error, _, _ = run_command(str(run_folder), str(shared_data), "--device", "cpu", "--yes")
    assert error is None
    assert list((run_folder / "eval").rglob("two.vocals.wav"))


def test_music_that_was_given_is_read_and_what_a_link_in_it_leads_to_is_asked_about(
    run_folder: Path, shared_data: Path, music: Path, tmp_path: Path
):
    remember([music])
    error, _, stderr = run_command(str(run_folder), str(shared_data), "--device", "cpu")
    assert (error, "not given" in stderr) == (None, False)
    (music / "two" / "bass.wav").rename(tmp_path / "private.wav")
    (music / "two" / "bass.wav").symlink_to(tmp_path / "private.wav")
    error, _, stderr = run_command(str(run_folder), str(shared_data), "--device", "cpu")
    assert isinstance(error, NoConsent)
    assert [line.strip() for line in stderr.splitlines() if line.startswith("  ")] == [str(tmp_path / "private.wav")]
