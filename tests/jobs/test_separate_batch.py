"""Many songs in one `vr separate`: one that fails ends none of the others, and none is left out without a word."""

import io
import json
import os
import resource
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import typer
from rich.console import Console

from jobs.commands import progress
from jobs.commands.terminal import say
from jobs.errors import NoSongs, SongsFailed
from jobs.scoring import separate as scoring
from jobs.scoring import streams
from tests.jobs.separations import (
    CODED,
    RATE_HZ,
    run_command,
    tiny_weights,
    visible,
    write_coded,
    write_song,
)
from vr_core.errors import StorageError


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return tiny_weights(tmp_path)


def test_a_name_too_long_for_results_is_shortened_and_the_batch_goes_on(weights: Path, tmp_path: Path) -> None:
    titles = ["歌" * 79 + "一", "歌" * 79 + "二", "plain"]
    songs = [tmp_path / f"{title}.wav" for title in titles]
    for seed, path in enumerate(songs):
        write_song(path, seed=seed, seconds=0.3)
    error, stdout, stderr = run_command(*songs, "-m", weights, "-o", tmp_path / "out", "--format", "flac")
    assert error is None
    lines = stdout.splitlines()
    assert len(lines) == 9
    assert all(Path(line).is_file() for line in lines)
    assert sorted(Path(line).name for line in lines) == visible(tmp_path / "out")
    assert stderr.count("too long for a file") == 2
    for path, instrumental in zip(songs, lines[::3], strict=True):
        vocals = instrumental.replace(".instrumental.", ".vocals.")
        heard = soundfile.read(instrumental)[0] + soundfile.read(vocals)[0]
        np.testing.assert_allclose(heard, soundfile.read(path)[0], atol=2**-22)


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file of more than 60 kB can be written: a full disk for the long songs."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_song_that_cannot_be_written_is_listed_and_the_others_are_done(
    weights: Path, tmp_path: Path, small_files: None
) -> None:
    for name, seconds in (("a", 0.5), ("b", 1.5), ("c", 0.5)):
        write_song(tmp_path / f"{name}.wav", seconds=seconds)
    out = tmp_path / "out"
    error, stdout, stderr = run_command(
        *(tmp_path / f"{name}.wav" for name in "abc"), "-m", weights, "-o", out, "--no-picture", "--json"
    )
    assert isinstance(error, SongsFailed)
    said = json.loads(stdout)
    assert [Path(song["song"]).name for song in said["songs"]] == ["a.wav", "c.wav"]
    [problem] = said["problems"]
    assert problem["song"] == str(tmp_path / "b.wav")
    assert "could not be written" in problem["why"]
    assert problem["why"] in stderr
    assert len(visible(out)) == 4
    assert not list(out.glob(".vr-separating*"))


def test_what_fails_after_the_first_file_leaves_none(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise StorageError("the picture: no space")

    monkeypatch.setattr(scoring, "draw", fail)
    write_song(tmp_path / "song.wav")
    error, _, stderr = run_command(tmp_path / "song.wav", "-m", weights, "-o", tmp_path / "out")
    assert isinstance(error, SongsFailed)
    assert "song.wav: the picture: no space" in stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_a_song_that_changes_meanwhile_is_a_problem_of_its_own(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(model: object, spec: object, blocks: object, *_: object, **__: object) -> Iterator[dict[str, np.ndarray]]:
        for block in blocks:
            yield dict.fromkeys(("instrumental", "vocals"), block[:, :100])

    monkeypatch.setattr(streams, "separate", cut)
    write_song(tmp_path / "song.wav")
    error, _, stderr = run_command(tmp_path / "song.wav", "-m", weights, "-o", tmp_path / "out")
    assert isinstance(error, SongsFailed)
    assert "was changed while it was separated" in stderr


def test_after_ctrl_c_what_was_done_is_told(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []
    real = streams.separate

    def interrupted(*arguments: object, **options: object) -> Iterator[dict[str, np.ndarray]]:
        begun.append(arguments)
        if len(begun) == 2:
            raise KeyboardInterrupt
        yield from real(*arguments, **options)

    monkeypatch.setattr(streams, "separate", interrupted)
    for name in "abc":
        write_song(tmp_path / "album" / f"{name}.wav")
    error, stdout, stderr = run_command(tmp_path / "album", "-m", weights, "-o", tmp_path / "out", "--json")
    assert isinstance(error, SystemExit)
    assert error.code == 130
    said = json.loads(stdout)
    assert said["interrupted"] is True
    assert [Path(song["song"]).name for song in said["songs"]] == ["a.wav"]
    assert [Path(problem["song"]).name for problem in said["problems"]] == ["b.wav", "c.wav"]
    assert "b.wav: broken off" in stderr
    assert visible(tmp_path / "out") == ["a.instrumental.wav", "a.png", "a.vocals.wav"]
    assert not list((tmp_path / "out").glob(".vr-separating*"))


def test_what_was_done_is_told_as_it_is_done(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second song's work sees the first one's lines."""
    told: list[str] = []
    seen = []
    real = streams.separate

    def watched(*arguments: object, **options: object) -> Iterator[dict[str, np.ndarray]]:
        seen.append(list(told))
        yield from real(*arguments, **options)

    monkeypatch.setattr(streams, "separate", watched)
    monkeypatch.setattr("typer.echo", lambda line, file: told.append(line) if file is sys.stdout else None)
    for name in "ab":
        write_song(tmp_path / "album" / f"{name}.wav")
    run_command(tmp_path / "album", "-m", weights, "-o", tmp_path / "out", "--no-picture")
    assert [len(lines) for lines in seen] == [0, 2]
    assert len(told) == 4


def test_a_rate_that_the_format_has_not_is_refused_before_any_work(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []
    real = streams.separate
    monkeypatch.setattr(streams, "separate", lambda *given, **named: (begun.append(1), real(*given, **named))[1])
    write_song(tmp_path / "high.wav", rate_hz=768_000, seconds=0.05)
    write_song(tmp_path / "low.wav")
    arguments = (tmp_path / "high.wav", tmp_path / "low.wav", "-m", weights, "-o", tmp_path / "out", "--no-picture")
    error, stdout, stderr = run_command(*arguments, "--format", "flac", "--json")
    assert isinstance(error, SongsFailed)
    assert len(begun) == 1
    assert len(json.loads(stdout)["songs"]) == 1
    assert "high.wav: has 768,000 Hz, and a flac file holds at most 655,350 Hz" in stderr
    for options, rate_hz in ((("--format", "flac", "--rate", "model"), RATE_HZ), ((), 768_000)):
        error, stdout, _ = run_command(*arguments, *options, "--json")
        assert error is None
        assert soundfile.info(json.loads(stdout)["songs"][0]["vocals"]).samplerate == rate_hz


def test_a_place_that_cannot_be_written_is_refused_before_any_work(weights: Path, tmp_path: Path) -> None:
    write_song(tmp_path / "song.wav")
    (tmp_path / "out").write_text("a file")
    error, _, _ = run_command(tmp_path / "song.wav", "-m", weights, "-o", tmp_path / "out")
    assert isinstance(error, StorageError)
    assert "choose another --out" in str(error)


def test_every_file_that_is_named_is_done_or_named_with_its_reason(weights: Path, tmp_path: Path) -> None:
    """Fifty of every name and format, beside every kind of what is none, in one call."""
    good = [
        "live.vocals.wav", "live.instrumental.wav", "x.vocals.flac", "noise", "noise.xyz", ".hidden.wav", "._a.wav",
        "vocals.wav", "歌.wav", "गीत.wav", "a b.wav", "a#b.flac", "-dash.wav", "quote'\".wav", "[red]x.wav",
        "song.mp3", "song.webm", "song.caf", "song.txt", "UPPER.WAV", "two.dots.wav", "new\nline.wav",
        "x" * 240 + ".wav",
    ]  # fmt: skip
    write_song(tmp_path / "a.wav", seconds=0.2)
    write_song(tmp_path / "a.flac", seconds=0.2)
    (tmp_path / "in").mkdir()
    for seed, name in enumerate(good):
        write_song(tmp_path / "b.wav", seconds=0.2, seed=seed)
        shutil.copy(tmp_path / "b.wav", tmp_path / "in" / name)
    for name, (container, codec) in CODED.items():
        write_coded(tmp_path / "in" / name, container, codec)
    bad = {
        "empty.wav": b"", "text.mp3": b"no audio at all", "cut.flac": (tmp_path / "a.flac").read_bytes()[:500],
        "page.html": b"<html>", "list.m3u": b"#EXTM3U\na.wav\n", "zeros.wav": bytes(1000),
    }  # fmt: skip
    soundfile.write(tmp_path / "in" / "a.ogg", np.zeros((800, 2)), RATE_HZ)
    good += [*CODED, "a.ogg"]
    for name, content in bad.items():
        (tmp_path / "in" / name).write_bytes(content)
    soundfile.write(tmp_path / "in" / "surround.wav", np.zeros((800, 6)), RATE_HZ)
    soundfile.write(tmp_path / "in" / "nan.wav", np.full((800, 2), np.nan), RATE_HZ, "FLOAT")
    (tmp_path / "in" / "folder.wav").mkdir()
    os.mkfifo(tmp_path / "in" / "pipe.wav")
    other = ["folder.wav", "pipe.wav", "missing.wav", os.fsdecode(b"\xff.wav"), "surround.wav", "nan.wav"]
    names = [*good[:9], *bad, *good[9:], *other]
    assert len(names) >= 50
    error, stdout, stderr = run_command(
        "-m", weights, "-o", tmp_path / "out", "--no-picture", "--json", "--", *(tmp_path / "in" / n for n in names)
    )
    said = json.loads(stdout)
    assert {Path(song["song"]).name for song in said["songs"]} == set(good)
    assert {Path(problem["song"]).name for problem in said["problems"]} == {*bad, *other}
    assert isinstance(error, SongsFailed)
    assert error.exit_code != 0
    assert stderr.count("not separated: ") == len(bad) + len(other)
    results = [song[stem] for song in said["songs"] for stem in ("instrumental", "vocals")]
    assert len(set(results)) == len(results) == len(visible(tmp_path / "out"))


def test_what_a_folder_holds_that_is_no_audio_is_counted_in_one_line(weights: Path, tmp_path: Path) -> None:
    write_song(tmp_path / "a" / "song.wav", seconds=0.2)
    write_song(tmp_path / "b" / "other.wav", seconds=0.2, seed=1)
    for name in ("a/cover.jpg", "a/back.jpg", "a/list.m3u", "b/front.jpg", "b/README", "b/.hidden", "b/Thumbs.db"):
        (tmp_path / name).write_bytes(b"no audio")
    arguments = (tmp_path / "a", tmp_path / "b", "-m", weights, "-o", tmp_path / "out", "--no-picture")
    error, stdout, stderr = run_command(*arguments, "--json")
    assert error is None
    assert json.loads(stdout)["no_audio"] == {".jpg": 3, ".m3u": 1, "without a suffix": 1}
    assert stderr.splitlines().count("passed over, no audio: 3 .jpg, 1 .m3u, 1 without a suffix") == 1
    _, _, stderr = run_command(tmp_path / "a" / "song.wav", *arguments[2:])
    assert "passed over" not in stderr


def test_only_what_is_no_song_ends_with_every_reason(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    error, stdout, stderr = run_command(
        tmp_path / "empty", tmp_path / "missing.wav", "-m", weights, "-o", tmp_path / "out", "--json"
    )
    assert isinstance(error, NoSongs)
    assert [Path(problem["song"]).name for problem in json.loads(stdout)["problems"]] == ["empty", "missing.wav"]
    assert stderr.count("not separated: ") == 2
    assert not (tmp_path / "out").exists()
    error, stdout, stderr = run_command(tmp_path / "missing.wav", "-m", weights, "-o", tmp_path / "out")
    assert isinstance(error, NoSongs)
    assert str(error).startswith(f"{tmp_path / 'missing.wav'}: does not exist")
    assert stdout + stderr == ""


def test_results_go_above_the_bar_on_one_terminal_and_else_where_stdout_goes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = "x" * 300 + ".wav"
    for one_terminal in (True, False):
        screen = io.StringIO()
        terminal = Console(file=screen, force_terminal=True, width=80)
        monkeypatch.setattr(progress, "console", lambda shown=terminal: shown)
        monkeypatch.setattr(sys.stdout, "isatty", lambda value=one_terminal: value)
        with progress.song_progress({"a": 1.0}) as report:
            report("a", 0.5)
            typer.echo(path, file=sys.stdout)
            say("a note", err=True)
        out, err = capsys.readouterr()
        assert (out, err) == ("" if one_terminal else f"{path}\n", "")
        assert (f"{path}\n" in screen.getvalue()) == one_terminal
        assert "a note\n" in screen.getvalue()
