import json
import os
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
from dataprep.manifest import Manifest, read_manifest
from jobs.commands.data import app
from jobs.errors import SongsFailed
from vr_core.errors import ConfigError

RATE_HZ = 44_100
SMALL = ("--n-fft", "256", "--hop", "128")
"""Spectra of the smallest size that still are stereo music, for speed."""


def noise(seconds: float, seed: int = 0, rate_hz: int = RATE_HZ) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal((round(seconds * rate_hz), 2))


def song(folder: Path, seconds: float = 1.0, seed: int = 0, **stems: np.ndarray | None) -> Path:
    """A song folder; `stems` replaces stems, or leaves one out with None."""
    folder.mkdir(parents=True)
    given = {"vocals": noise(seconds, 2 * seed), "instrumental": noise(seconds, 2 * seed + 1), **stems}
    for name, signal_ in given.items():
        if signal_ is not None:
            soundfile.write(folder / f"{name}.wav", signal_, RATE_HZ, subtype="FLOAT")
    return folder


def vr_data(*arguments: object):
    """Run `vr data` in this process; our own errors come out as they are."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def prepared(out: Path, *sources: Path, extra: tuple[object, ...] = ()) -> dict:
    result = vr_data("prepare", *sources, "--out", out, *SMALL, "--json", *extra)
    assert result.exit_code == 0, result.output
    value: dict = json.loads(result.stdout)
    return value


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
    song(songs / "short", vocals=noise(0.5, 8))
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

    code = "import sys; from jobs.commands.data import app; sys.exit(app(prog_name='vr data'))"
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
        named = {*read_manifest(folder).shards, "manifest.json", ".lock"}
        assert {path.name for path in folder.iterdir()} == named
    for name, row in read_manifest(out).shards.items():
        assert (tmp_path / "undisturbed" / name).read_bytes() == (out / name).read_bytes()
        assert (out / name).stat().st_size == row.bytes


@pytest.mark.skipif(os.geteuid() != 0, reason="a file system of its own needs root")
def test_a_full_disk_is_said_and_making_room_is_enough(tmp_path):
    for k in range(3):
        song(tmp_path / "songs" / f"s{k}", seconds=10.0, seed=k)
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("this machine allows no mounting")
    try:
        with pytest.raises(NoSpaceError, match=r"no space left on the disk; make room"):
            vr_data("prepare", tmp_path / "songs", "--out", disk / "data", "--workers", 1)
        assert not list((disk / "data").glob("*.arrow*"))
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        vr_data("prepare", tmp_path / "songs", "--out", disk / "data", "--workers", 1)
        assert len(read_manifest(disk / "data").songs) == 3
    finally:
        subprocess.run(["umount", disk], check=True)


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


def test_staging_copies_once_and_says_what_does_not_fit(tmp_path):
    song(tmp_path / "songs" / "a", seed=1)
    prepared(tmp_path / "data", tmp_path / "songs")
    rows = read_manifest(tmp_path / "data").shards
    where = ("stage", tmp_path / "data", "--cache", tmp_path / "cache")
    first = json.loads(vr_data(*where, "--quota", "1GB", "--json").stdout)
    assert (sorted(first["copied"]), first["there"], first["no_room"]) == (sorted(rows), [], [])
    copies = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("*.arrow")}
    assert set(copies) == {f"{row.sha256}.arrow" for row in rows.values()}
    again = vr_data(*where, "--quota", "1GB")
    assert "0 shards copied, 3 were there already" in again.stdout
    small = sum(rows[name].bytes for name in sorted(rows)[:2])
    tight = vr_data("stage", tmp_path / "data", "--cache", tmp_path / "tight", "--quota", str(small))
    assert tight.exit_code == 0
    assert f"1 of 3 shards ({rows[sorted(rows)[2]].bytes / 1e9:.1f} GB) do not fit" in tight.stderr
    assert sum(path.stat().st_size for path in (tmp_path / "tight").glob("*.arrow")) == small
    with pytest.raises(DataError, match="'lots': not a size; give for example 200GB"):
        vr_data(*where, "--quota", "lots")


def test_damage_is_named_by_second_and_repaired(tmp_path):
    song(tmp_path / "songs" / "a", seed=1)
    song(tmp_path / "songs" / "b", seed=2)
    prepared(tmp_path / "data", tmp_path / "songs")
    shard = sorted((tmp_path / "data").glob("vocals-*.arrow"))[0]
    harmed = bytearray(shard.read_bytes())
    harmed[len(harmed) // 4] ^= 1
    shard.write_bytes(harmed)
    result = CliRunner().invoke(app, ["verify", str(tmp_path / "data")])
    assert isinstance(result.exception, ShardError)
    assert "--repair` prepares the songs that are hit again" in str(result.exception)
    assert "  a vocals: 0.0 to 1.0 s" in result.stderr.splitlines()
    mended = json.loads(vr_data("verify", tmp_path / "data", "--repair", "--json").stdout)
    assert (mended["repaired"], mended["not_repaired"]) == (["a"], [])
    assert "3 shards are as they were" not in (clean := vr_data("verify", tmp_path / "data")).stdout
    assert "shards are as they were written" in clean.stdout
    # What cannot be repaired is said, and stays named.
    harmed = bytearray(shard.read_bytes())
    harmed[len(harmed) * 3 // 4] ^= 1
    shard.write_bytes(harmed)
    (tmp_path / "songs" / "b" / "vocals.wav").unlink()
    result = CliRunner().invoke(app, ["verify", str(tmp_path / "data"), "--repair"])
    assert isinstance(result.exception, ShardError)
    assert "1 songs could not be repaired" in str(result.exception)
    assert "not repaired: b: " in result.stderr


def test_songs_are_added_and_removed(tmp_path):
    song(tmp_path / "songs" / "a", seed=1)
    prepared(tmp_path / "data", tmp_path / "songs", extra=("--no-mixture", "--codec", "complex16"))
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "data").glob("*.arrow")}
    song(tmp_path / "more" / "b", seed=2)
    song(tmp_path / "more" / "c", seed=3)
    added = json.loads(vr_data("add", tmp_path / "data", tmp_path / "more", "--json").stdout)
    assert (added["prepared"], added["songs"]) == (["b", "c"], 3)
    manifest = read_manifest(tmp_path / "data")
    assert {tuple(sorted(row.stems)) for row in manifest.songs} == {("instrumental", "vocals")}
    assert (manifest.codec, manifest.stft.n_fft) == ("complex16", 256)
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "data").glob("*.arrow")}
    assert before.items() <= after.items()
    removed = json.loads(vr_data("remove", tmp_path / "data", "b", "--json").stdout)
    assert (removed["removed"], removed["songs"]) == (["b"], 2)
    assert removed["digest"] == read_manifest(tmp_path / "data").digest()
    assert "`vr data prune" in vr_data("remove", tmp_path / "data", "c").stdout
    pruned = json.loads(vr_data("prune", tmp_path / "data", "--json").stdout)
    assert pruned["versions"] == 3  # before add, and before each removal
    assert pruned["bytes"] > 0
    assert {path.name for path in (tmp_path / "data").glob("*.arrow")} == set(before)


def test_a_picture_of_a_song_is_written_beside_the_table(tmp_path):
    song(tmp_path / "songs" / "a", seed=1)
    prepared(tmp_path / "data", tmp_path / "songs")
    shown = vr_data("inspect", tmp_path / "data", "--picture", tmp_path / "a.png")
    assert "1 songs" in shown.stdout
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_copies_across_splits_are_an_error_unless_allowed(tmp_path):
    made = vr_data("synth", tmp_path / "songs", "--songs", 3, "--seconds", 12, "--json")
    assert made.exit_code == 0
    copy = tmp_path / "songs" / "song001-again"
    copy.mkdir()
    for stem in ("vocals", "instrumental"):
        signal, rate = soundfile.read(tmp_path / "songs" / "song001" / f"{stem}.wav")
        soundfile.write(copy / f"{stem}.wav", 0.5 * signal[4000:], rate)
    splits = tmp_path / "splits"
    splits.write_text("test song001-again\ntrain *\n")
    prepared(tmp_path / "data", tmp_path / "songs", extra=("--split", splits))
    result = CliRunner().invoke(app, ["dedupe", str(tmp_path / "data"), "--json"])
    assert isinstance(result.exception, DataError)
    assert "1 copies cross splits, such as song001 and song001-again" in str(result.exception)
    (pair,) = json.loads(result.stdout)["pairs"]
    assert (pair["song"], pair["other"], pair["crosses_splits"]) == ("song001", "song001-again", True)
    shown = vr_data("dedupe", tmp_path / "data", "--allow-crossing")
    assert "4 songs, 1 pairs of copies, 1 across splits" in shown.stdout
    vr_data("remove", tmp_path / "data", "song001-again")
    assert "3 songs, 0 pairs of copies, 0 across splits" in vr_data("dedupe", tmp_path / "data").stdout


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
