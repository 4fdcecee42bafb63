import json
import resource
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from dataprep.errors import DataError, NoSpaceError, PrepareError, ShardError
from dataprep.shards.manifest import Manifest, read_manifest
from jobs.cli import data as app
from jobs.errors import SongsFailed
from tests.jobs.music import RATE_HZ, SMALL, noise, prepared, song, vr_data
from tests.small_disk import small_disk
from vr_core.errors import ConfigError


def test_from_invented_songs_to_a_data_set(tmp_path):
    made = json.loads(vr_data("synth", tmp_path / "songs", "--songs", 4, "--seconds", 2, "--json").stdout)
    assert len(made["songs"]) == 4
    value = prepared(tmp_path / "data", tmp_path / "songs", extra=("--split", "valid=0.25,test=0.25,seed=1"))
    assert value["prepared"] == ["song001", "song002", "song003", "song004"]
    assert value["layouts"] == {str(tmp_path / "songs"): "stems"}
    facts = json.loads(vr_data("inspect", tmp_path / "data", "--json").stdout)
    assert facts["total"]["songs"] == 4
    assert facts["total"]["hours"] == pytest.approx(8 / 3600)
    assert facts["total"]["roles"] == {"vocals": 4, "instrumental": 4, "mixture": 4}
    assert {name: group["songs"] for name, group in facts["splits"].items()} == {"train": 2, "valid": 1, "test": 1}
    assert facts["stft"] == {"sample_rate_hz": RATE_HZ, "n_fft": 256, "hop": 128}
    # polar8: a byte of magnitude and one of phase for two stems, a byte for the mixture; two channels of 128 bins.
    frames = [row.frames for row in read_manifest(tmp_path / "data").songs]
    assert facts["total"]["bytes"] == sum(frames) * 2 * 128 * 5
    shown = vr_data("inspect", tmp_path / "data").stdout
    assert "song003" in shown
    assert "4 songs, 0.00 hours (4 vocals, 4 instrumental, 4 mixture)" in shown
    again = prepared(tmp_path / "data", tmp_path / "songs", extra=("--split", "valid=0.25,test=0.25,seed=1"))
    assert (again["prepared"], again["kept"]) == ([], value["prepared"])
    assert again["digest"] == value["digest"]


def test_a_list_file_splits_and_must_name_every_song(tmp_path):
    for name in ("a", "b"):
        song(tmp_path / "songs" / name, seed=ord(name))
    (tmp_path / "list").write_text("test a\n")
    with pytest.raises(DataError, match="no line for b"):
        prepared(tmp_path / "data", tmp_path / "songs", extra=("--split", tmp_path / "list"))
    (tmp_path / "list").write_text("test a\ntrain *\n")
    prepared(tmp_path / "data", tmp_path / "songs", extra=("--split", tmp_path / "list"))
    assert {s.id: s.split for s in read_manifest(tmp_path / "data").songs} == {"a": "test", "b": "train"}


def test_bad_songs_are_listed_and_the_others_are_done(tmp_path):
    songs = tmp_path / "songs"
    song(songs / "good")
    song(songs / "nan", vocals=np.full((RATE_HZ, 2), np.nan))
    song(songs / "short", vocals=noise(0.5, 8), instrumental=noise(2.0, 9))
    song(songs / "silent", vocals=np.zeros((RATE_HZ, 2)), instrumental=np.zeros((RATE_HZ, 2)))
    song(songs / "empty", vocals=np.zeros((0, 2)))
    cut = song(songs / "cut") / "vocals.wav"
    cut.write_bytes(cut.read_bytes()[:100_000])
    (song(songs / "text") / "vocals.wav").write_text("no music" * 1000)
    (song(songs / "nothing") / "instrumental.wav").write_bytes(b"")
    # Another rate is no mistake; another length because of it would be.
    soundfile.write(song(songs / "rates", seed=7) / "vocals.wav", noise(1.0, 9, 48_000), 48_000)
    long = song(songs / "long", vocals=None, instrumental=None) / "vocals.flac"
    soundfile.write(long, noise(1.0), RATE_HZ)
    data = bytearray(long.read_bytes())
    data[21] |= 0x08  # its header now claims 2^35 samples
    long.write_bytes(data)
    (songs / "album").mkdir()
    soundfile.write(songs / "album" / "one.wav", noise(1.0), RATE_HZ)

    result = vr_data("prepare", songs, "--out", tmp_path / "data", *SMALL, "--workers", 1, "--json")
    assert result.exit_code == 0
    value = json.loads(result.stdout)
    assert value["prepared"] == ["good", "rates"]
    reasons = {entry["song"]: entry["why"] for entry in value["refused"]}
    for name, words in {
        "nan": "NaN or infinite samples at 0.000 s", "short": "ends at 0.50 s and", "silent": "silent from beginning",
        "empty": "has no samples", "cut": "truncated, the header promises", "text": "cannot be read as audio",
        "nothing": "is empty (0 bytes)", "long": "hours, expected at most 24",
    }.items():  # fmt: skip
        assert words in reasons.pop(name)
    assert reasons == {}
    assert [Path(entry["path"]).name for entry in value["passed_over"]] == ["album"]
    assert result.stderr.count("not used: ") == 9
    assert "not used: nan: " in result.stderr
    with pytest.raises(SongsFailed, match="9 songs or files were not used"):
        vr_data("prepare", songs, "--out", tmp_path / "data", *SMALL, "--workers", 1, "--strict")


def test_nothing_usable_is_an_error(tmp_path):
    (tmp_path / "void").mkdir()
    with pytest.raises(DataError, match="no audio in it"):
        prepared(tmp_path / "data", tmp_path / "void")
    song(tmp_path / "songs" / "nan", vocals=np.full((RATE_HZ, 2), np.nan))
    with pytest.raises(PrepareError, match="none of the 1 songs could be used; .*NaN"):
        prepared(tmp_path / "data", tmp_path / "songs")
    with pytest.raises(DataError, match="is not a data set"):
        vr_data("inspect", tmp_path / "data")


def test_where_nothing_is_usable_each_reason_is_counted_with_an_example(tmp_path, capsys):
    songs = tmp_path / "songs"
    songs.mkdir()
    for name in ("a", "b", "c"):
        (songs / f"{name}.wav").write_bytes(b"")
    for name in ("d", "e"):  # the number of samples differs, the reason does not
        soundfile.write(songs / f"{name}.wav", noise(1.0 if name == "d" else 2.0), RATE_HZ)
        (songs / f"{name}.wav").write_bytes((songs / f"{name}.wav").read_bytes()[:50_000])
    (songs / "f.wav").write_text("no music" * 1000)
    with pytest.raises(PrepareError, match=r"none of the 6 songs could be used; .*a\.wav: is empty.* of 3 reasons\)$"):
        app([str(word) for word in ("prepare", songs, "--out", tmp_path / "data", *SMALL)], standalone_mode=False)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("not used")]
    assert [line.split(str(songs))[0] for line in said] == ["not used (3 such): ", "not used (2 such): ", "not used: "]
    assert "d.wav: truncated" in said[1]


def test_where_every_song_is_asked_about_each_question_is_counted(tmp_path, capsys):
    for name in ("a", "b"):
        song(tmp_path / "songs" / name, vox=noise(1.0))
    song(tmp_path / "songs" / "c", vocals=None, instrumental=None, full_mix=noise(1.0), mixture=noise(1.0))
    words = [str(word) for word in ("prepare", tmp_path / "songs", "--out", tmp_path / "data", *SMALL)]
    with pytest.raises(PrepareError, match="no song in the layout 'stems'; .*for the stem vocals.* 2 reasons"):
        app(words, standalone_mode=False)
    said = capsys.readouterr().err
    assert "not used (2 such): " in said
    assert "two files for the stem mixture" in said


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [("--codec", "polar9", "codec"), ("--n-fft", 255, "n_fft must be even"), ("--split", "valid=2", "valid=2"),
     ("--layout", "stem", "unknown, expected auto")],
)  # fmt: skip
def test_options_that_do_not_fit_are_named(tmp_path, option, value, words):
    song(tmp_path / "songs" / "a")
    with pytest.raises((ConfigError, DataError), match=words):
        vr_data("prepare", tmp_path / "songs", "--out", tmp_path / "data", option, value)
    assert not (tmp_path / "data").exists()


def test_help_has_an_example_for_each():
    for command in ("synth", "prepare", "inspect"):
        assert f"vr data {command} " in vr_data(command, "--help").stdout


def contents(manifest: Manifest) -> list[object]:
    """What a data set is, wherever its rows lie."""
    return [
        (
            s.id,
            s.split,
            s.samples,
            {role: (stem.frames, stem.peaks, stem.content_sha256) for role, stem in s.stems.items()},
        )
        for s in manifest.songs
    ]


def start_prepare(songs: Path, out: Path, limit_bytes: int | None = None) -> subprocess.Popen[str]:
    """The real command in a process of its own."""

    def limit():
        if limit_bytes is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

    code = "import sys; from jobs.cli import data as app; sys.exit(app(prog_name='vr data'))"
    return subprocess.Popen(
        [sys.executable, "-c", code, "prepare", str(songs), "--out", str(out), "--workers", "1", "--n-fft", "2048",
         "--split", "valid=0.2"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=limit,
    )  # fmt: skip


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_what_was_stopped_in_the_middle_goes_on_to_the_same_data_set(tmp_path, how):
    for k in range(4):
        song(tmp_path / "songs" / f"s{k}", seconds=30.0, seed=k)
    out = tmp_path / "data"
    process = start_prepare(tmp_path / "songs", out)
    deadline = time.monotonic() + 120
    # Some frames of the first song are on the disk, and the data set is not there.
    while not any(path.stat().st_size > 1_000_000 for path in out.glob("*.partial")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert process.poll() is None
    process.send_signal(how)
    _, error = process.communicate(timeout=60)
    assert process.returncode != 0
    assert not (out / "manifest.json").exists()
    if how == signal.SIGINT:
        assert "finished songs are kept: run the same command again" in error
        assert not list(out.glob("*.partial"))
    vr_data("prepare", tmp_path / "songs", "--out", out, "--workers", 1, "--split", "valid=0.2")
    vr_data("prepare", tmp_path / "songs", "--out", tmp_path / "undisturbed", "--workers", 1, "--split", "valid=0.2")
    assert contents(read_manifest(out)) == contents(read_manifest(tmp_path / "undisturbed"))
    for folder in (out, tmp_path / "undisturbed"):
        named = {*read_manifest(folder).shards, "manifest.json", "manifest.second.json", ".lock", "fingerprints"}
        assert {path.name for path in folder.iterdir()} == named
    for name, row in read_manifest(out).shards.items():
        assert (tmp_path / "undisturbed" / name).read_bytes() == (out / name).read_bytes()
        assert (out / name).stat().st_size == row.bytes


def test_a_full_disk_is_said_and_making_room_is_enough(tmp_path):
    for k in range(3):
        song(tmp_path / "songs" / f"s{k}", seconds=10.0, seed=k)
    with small_disk(tmp_path / "disk", 4096) as disk:
        data = disk.path / "data"
        with pytest.raises(NoSpaceError, match=r"no space left on the disk; make room"):
            vr_data("prepare", tmp_path / "songs", "--out", data, "--workers", 1)
        assert not list(data.glob("*.arrow*"))
        subprocess.run(["mount", "-o", "remount,size=64m", disk.path], check=True)
        vr_data("prepare", tmp_path / "songs", "--out", data, "--workers", 1)
        assert len(read_manifest(data).songs) == 3


def test_verify_names_the_songs_of_a_shard_with_a_flipped_byte(tmp_path):
    song(tmp_path / "songs" / "a", seed=1)
    song(tmp_path / "songs" / "b", seed=2)
    prepared(tmp_path / "data", tmp_path / "songs")
    assert vr_data("verify", tmp_path / "data").exit_code == 0
    shard = sorted((tmp_path / "data").glob("vocals-*.arrow"))[0]
    harmed = bytearray(shard.read_bytes())
    harmed[len(harmed) // 2] ^= 1
    shard.write_bytes(harmed)
    result = CliRunner().invoke(app, ["verify", str(tmp_path / "data"), "--json"])
    (damaged,) = json.loads(result.stdout)["damaged"]
    assert damaged["shard"] == shard.name
    assert set(damaged["songs"]) <= {"a", "b"}
    assert damaged["songs"]
    assert isinstance(result.exception, ShardError)
    # What the message says to do works.
    shard.unlink()
    prepared(tmp_path / "data", tmp_path / "songs")
    assert vr_data("verify", tmp_path / "data").exit_code == 0


def test_a_header_that_promises_two_gigabytes_costs_neither_memory_nor_the_others(tmp_path):
    song(tmp_path / "songs" / "ok", seed=1)
    folder = tmp_path / "songs" / "huge"
    folder.mkdir()
    promised = 2**31 - 100
    kind = struct.pack("<IHHIIHH", 16, 1, 2, RATE_HZ, 4 * RATE_HZ, 4, 16)
    head = b"RIFF" + struct.pack("<I", promised + 36) + b"WAVEfmt " + kind + b"data" + struct.pack("<I", promised)
    for stem in ("vocals", "instrumental"):
        (folder / f"{stem}.wav").write_bytes(head + bytes(4000))
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    value = prepared(tmp_path / "data", tmp_path / "songs")
    assert value["prepared"] == ["ok"]
    assert "the header promises 2,147,483,548 bytes of samples and the file holds 4,000" in value["refused"][0]["why"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 500_000
