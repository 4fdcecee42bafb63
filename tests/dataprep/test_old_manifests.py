"""Manifests of earlier versions say in words what today's say in fields: both are read as the same."""

import json
import re
from pathlib import Path

import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from dataprep.audio.decoders import AudioSource
from dataprep.audio.tracks import Track
from dataprep.audio.walk import AUDIO_SUFFIXES
from dataprep.errors import PrepareError
from dataprep.preparing.change import examine, repair, settings_of
from dataprep.preparing.prepare import prepare
from dataprep.shards.manifest import FILE, Follows, Manifest, SongRow, read_manifest
from dataprep.shards.old_manifests import as_today
from tests.dataprep.data import SETTINGS, labelled, sound
from vr_core.config import plain

RECORDED = Path(__file__).parents[1] / "recorded" / "before" / "data"
NAME = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=12)


def read_again(raw: dict[str, object]) -> SongRow:
    return SongRow.model_validate_json(json.dumps(raw))


def row(**fields: object) -> dict[str, object]:
    """A song as a manifest has it."""
    return {"id": "s", "split": "train", "samples": 9, "frames": 9, "stems": {}, "sources": {}, **fields}


@given(NAME, st.integers(0, 9))
def test_a_source_is_read_as_it_was_written_whatever_its_file_is_called(name, stream):
    source = AudioSource(Path("/m") / name, stream)
    song = read_again(row()).model_copy(update={"sources": {"vocals": (source,)}})
    again = read_again(as_today(plain(song)))
    assert again.sources == {"vocals": (source,)}
    assert again.track() == Track("s", {"vocals": (source,)})


@given(NAME, st.sampled_from(sorted(AUDIO_SUFFIXES)), st.integers(0, 9))
def test_a_source_of_an_earlier_version_is_read_as_it_was_meant(name, suffix, stream):
    path = f"/m/{name}{suffix}"
    source = AudioSource(Path(path), stream if suffix == ".mp4" else 0)
    old = as_today({"songs": [row(sources={"vocals": [str(source)]})]})
    assert read_again(old["songs"][0]).sources == {"vocals": (source,)}


@pytest.mark.parametrize("text", ["/m/a:1", "/m/a.wav:1", "/m/a.mp4:0", "/m/a.mp4:", "/m/:4"])
def test_a_number_behind_a_colon_is_part_of_the_name_of_any_other_file(text):
    old = as_today({"songs": [row(sources={"vocals": [text]})]})
    assert read_again(old["songs"][0]).sources["vocals"] == (AudioSource(Path(text)),)


def test_a_file_called_as_a_stream_that_is_gone_is_named_as_it_is(tmp_path):
    path = tmp_path / "a:1"
    soundfile.write(path, sound(9_000, 1).T, 8_000, format="WAV", subtype="FLOAT")
    track = Track("s", {"mixture": (AudioSource(path),)})
    prepare([track], tmp_path / "data", SETTINGS)
    manifest = read_manifest(tmp_path / "data")
    assert manifest.songs[0].track() == track
    (tmp_path / "data" / next(iter(manifest.shards))).write_bytes(b"")
    path.unlink()
    with pytest.raises(PrepareError, match=re.escape(f"{path}: cannot be opened")):
        repair(tmp_path / "data", examine(tmp_path / "data", manifest))


def test_whose_split_a_song_follows_is_read_out_of_an_old_note_and_only_there():
    notes = ["vocals silent", "same recording as copy-cut; it follows its split", "mixture differs by -3.0 dB"]
    song = read_again(as_today({"songs": [row(notes=notes)]})["songs"][0])
    assert song.follows == Follows(song="copy-cut", shares="recording")
    assert song.notes == (notes[0], notes[2])
    assert set(song.remarks) == set(notes)
    today = row(notes=["same audio as a; it follows its split"], follows=None)
    assert as_today({"songs": [today]}) == {"songs": [today]}, "words of today are words"


@pytest.mark.parametrize("raw", [None, 3, [], {}, {"songs": None}, {"songs": [3, {"sources": [], "notes": 1}]}])
def test_what_is_no_manifest_at_all_stays_as_it_is(raw):
    assert as_today(raw) == raw


def test_a_data_set_of_an_earlier_version_is_read():
    manifest = read_manifest(RECORDED)
    raw = json.loads((RECORDED / FILE).read_text())
    assert "preparation" not in raw
    assert manifest.preparation is None
    for song, old in zip(manifest.songs, raw["songs"], strict=True):
        assert {role: tuple(map(str, files)) for role, files in song.sources.items()} == {
            role: tuple(files) for role, files in old["sources"].items()
        }
    assert settings_of(manifest).preparation().mixture


def test_how_songs_are_prepared_is_a_field_and_where_it_is_missing_what_they_show(tmp_path):
    how = SETTINGS.model_copy(update={"align": True, "mixture": False, "max_song_s": 60.0})
    manifest = prepare([labelled(tmp_path, "a", 9_000, 1)], tmp_path / "data", how).manifest
    assert settings_of(read_manifest(tmp_path / "data")).song_settings() == how.song_settings()
    assert manifest.songs[0].notes == (), "nothing had to be moved"

    def old(*notes: str) -> Manifest:
        songs = (manifest.songs[0].model_copy(update={"notes": notes}),)
        return manifest.model_copy(update={"preparation": None, "songs": songs})

    assert not settings_of(old("vocals silent")).mixture
    assert not settings_of(old("vocals silent")).align
    assert settings_of(old("vocals moved, it lay 7 samples (0.9 ms) after the mixture")).align
    assert old().digest() == manifest.digest()
