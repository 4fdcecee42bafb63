"""`vr data` on a data set that exists: copies, damage, songs added and taken out, duplicates, a picture."""

import json

import pytest
import soundfile
from typer.testing import CliRunner

from dataprep.errors import DataError, ShardError
from dataprep.shards.manifest import Preparation, read_manifest, write_manifest
from jobs.cli import data as app
from tests.command_line import vr
from tests.jobs.music import RATE_HZ, noise, prepared, song, vr_data
from vr_core.files import write_json
from vr_core.small_files import read_json


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
    assert "mend: vr data verify" in str(result.exception)
    assert "  a vocals: 0.0 to 1.0 s" in result.stderr.splitlines()
    mended = json.loads(vr_data("verify", tmp_path / "data", "--repair", "--json").stdout)
    assert (mended["repaired"], mended["not_repaired"], mended["new_content"]) == (["a"], [], [])
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


def test_a_repair_with_other_samples_says_that_it_is_a_new_version(tmp_path):
    song(tmp_path / "songs" / "a", seed=1)
    before = prepared(tmp_path / "data", tmp_path / "songs")["digest"]
    (shard,) = (tmp_path / "data").glob("vocals-*.arrow")
    harmed = bytearray(shard.read_bytes())
    harmed[len(harmed) // 2] ^= 1
    shard.write_bytes(harmed)
    soundfile.write(tmp_path / "songs" / "a" / "vocals.wav", noise(1.0, 9), RATE_HZ, subtype="FLOAT")
    mended = vr_data("verify", tmp_path / "data", "--repair", "--json")
    found = json.loads(mended.stdout)
    assert (found["repaired"], found["new_content"]) == (["a"], ["a"])
    assert found["digest"] == read_manifest(tmp_path / "data").digest() != before
    assert "repaired with other samples than before: a" in mended.stderr.splitlines()
    assert f"new version: {found['digest']}. Runs that began with version {before} still read that one" in mended.stderr
    assert read_manifest(tmp_path / "data", before).digest() == before


def test_another_song_of_the_same_name_is_added_beside_it(tmp_path):
    song(tmp_path / "songs" / "01", seed=1)
    prepared(tmp_path / "data", tmp_path / "songs")
    song(tmp_path / "more" / "01", seed=2)
    for _ in range(2):  # the second time nothing is new
        vr_data("add", tmp_path / "data", tmp_path / "more", "--json")
        rows = {
            row.id: row.sources["vocals"][0].path.parent.parent.name for row in read_manifest(tmp_path / "data").songs
        }
        assert rows == {"01": "songs", "01-2": "more"}


def test_songs_are_added_and_removed(tmp_path):
    song(tmp_path / "songs" / "a", seed=1)
    prepared(tmp_path / "data", tmp_path / "songs", extra=("--no-mixture", "--codec", "complex16", "--align"))
    (tmp_path / "data" / "photos.arrow").write_bytes(b"mine")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "data").glob("*.arrow")}
    song(tmp_path / "more" / "b", seed=2)
    song(tmp_path / "more" / "c", seed=3)
    added = json.loads(vr_data("add", tmp_path / "data", tmp_path / "more", "--json").stdout)
    assert (added["prepared"], added["songs"], added["left_alone"]) == (["b", "c"], 3, ["photos.arrow"])
    manifest = read_manifest(tmp_path / "data")
    assert {tuple(sorted(row.stems)) for row in manifest.songs} == {("instrumental", "vocals")}
    assert (manifest.codec, manifest.stft.n_fft) == ("complex16", 256)
    assert manifest.preparation == Preparation(mixture=False, align=True), "as the first songs were asked for"
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "data").glob("*.arrow")}
    assert before.items() <= after.items()
    removed = json.loads(vr_data("remove", tmp_path / "data", "b", "--json").stdout)
    assert (removed["removed"], removed["songs"]) == (["b"], 2)
    assert removed["digest"] == read_manifest(tmp_path / "data").digest()
    assert "`vr data prune" in vr_data("remove", tmp_path / "data", "c").stdout
    done = vr_data("prune", tmp_path / "data", "--json")
    assert done.stderr == f"{tmp_path / 'data'}: left alone, not written by this data set: photos.arrow\n"
    pruned = json.loads(done.stdout)
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
    manifest = read_manifest(tmp_path / "data")
    assert {song.id: song.split for song in manifest.songs}["song001-again"] == "train"
    # A data set from before preparation listened for copies.
    old = (s.model_copy(update={"split": "test"}) if s.id == "song001-again" else s for s in manifest.songs)
    write_manifest(tmp_path / "data", manifest.model_copy(update={"songs": tuple(old)}))
    result = CliRunner().invoke(app, ["dedupe", str(tmp_path / "data"), "--json"])
    assert isinstance(result.exception, DataError)
    assert "1 copies cross splits, such as song001 and song001-again" in str(result.exception)
    (pair,) = json.loads(result.stdout)["pairs"]
    assert (pair["song"], pair["other"], pair["crosses_splits"]) == ("song001", "song001-again", True)
    shown = vr_data("dedupe", tmp_path / "data", "--allow-crossing")
    assert "4 songs, 1 pairs of copies, 1 across splits" in shown.stdout
    vr_data("remove", tmp_path / "data", "song001-again")
    assert "3 songs, 0 pairs of copies, 0 across splits" in vr_data("dedupe", tmp_path / "data").stdout


def test_a_file_that_was_not_given_is_not_read_into_a_data_set_unasked(tmp_path, monkeypatch):
    """Whoever may write to the share names a private recording as a song's source, and damages its shard."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    music, data = tmp_path / "music", tmp_path / "data"
    vr_data("synth", music, "--songs", "2", "--seconds", "2")
    vr_data("prepare", music, "--out", data)
    private = tmp_path / "private.wav"
    private.write_bytes((music / "song002" / "vocals.wav").read_bytes())
    manifest = read_json(data / "manifest.json")
    manifest["songs"][0]["sources"]["vocals"][0]["path"] = str(private)
    write_json(data / "manifest.json", manifest, seal=True)
    write_json(data / "manifest.second.json", manifest, seal=True)
    shard = data / manifest["songs"][0]["stems"]["vocals"]["shard"]
    before = shard.read_bytes()[:-100]
    shard.write_bytes(before)
    refused = vr("data", "verify", data, "--repair", code=2)
    assert "nothing was changed: no terminal to ask at; add --yes" in refused.stderr
    assert shard.read_bytes() == before
    assert read_json(data / "manifest.json") == manifest
    assert "songs repaired" in vr("data", "verify", data, "--repair", "--yes").stdout
