"""Names in a manifest: every id that preparation makes is one, and nothing that leads elsewhere or is obeyed."""

import json
import re
import unicodedata
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dataprep.audio.names import safe_id
from dataprep.audio.tracks import Track, find_tracks
from dataprep.errors import ManifestError
from dataprep.preparing.change import ids_kept
from dataprep.preparing.prepare import prepare
from dataprep.shards.manifest import FILE, read_manifest
from dataprep.shards.names import is_song_id
from tests.dataprep.data import SETTINGS, labelled, mixture_only, sound, write
from vr_core.files import write_json
from vr_core.small_files import read_json


@given(st.lists(st.text(max_size=150), min_size=1, max_size=3))
@example(["½ time", "²"])
@example(["ทดสอบ", "हिन्दी"])
@example(["..", ".hidden", "-rf"])
@example(["か" * 300])
@example(["क्षि" * 90])
def test_every_id_that_was_ever_made_is_one(parts):
    assert is_song_id(safe_id(parts))
    assert is_song_id(f"{safe_id(parts)}-2")
    assert len(f".01234567.{safe_id(parts)}-100.instrumental.flac".encode()) <= 255


@given(st.lists(st.text(max_size=150), min_size=1, max_size=3))
def test_ids_without_marks_and_of_few_bytes_are_what_they_always_were(parts):
    text = unicodedata.normalize("NFC", "-".join(parts))
    before = re.sub(r"[^\w.-]+", "_", text).strip("._-")[:100] or "song"
    if len(before.encode()) <= 200 and not any(unicodedata.category(char)[0] == "M" for char in text):
        assert safe_id(parts) == before


@pytest.mark.parametrize(
    ("one", "other"),
    [("दिल", "दाल"), ("मेरी जान", "मेरा जिन"), ("காதல்", "காதலி"), ("เพลงรัก", "เพลงรก"), ("তুমি", "তোমা"), ("तेरा", "तिरे")],
)
def test_titles_that_differ_in_their_vowels_have_different_ids(one, other):
    assert safe_id([one]) != safe_id([other])
    assert safe_id([one]) == unicodedata.normalize("NFC", one).replace(" ", "_"), "all of its marks are there"


def test_a_long_title_is_cut_between_letters():
    assert safe_id(["か" * 300]) == "か" * 66
    assert safe_id(["x" * 300]) == "x" * 100
    assert safe_id(["कि" * 90]) == "कि" * 33, "a letter goes with its vowel"


def old_id(text):
    """As ids were made when letters lost their marks."""
    return re.sub(r"[^\w.-]+", "_", text).strip("._-")[:100]


def test_songs_that_were_prepared_keep_their_ids(tmp_path):
    music = tmp_path / "music"
    titles = ["दिल", "दाल", "か" * 80, "plain"]
    for number, title in enumerate(titles):
        write(music / f"{title}.wav", sound(2_000, number))
    today = find_tracks([music]).tracks
    names = [track.stems["mixture"][0].path.stem for track in today]
    old = [replace(track, id=f"{old_id(name)}-{k}") for k, (track, name) in enumerate(zip(today, names, strict=True))]
    manifest = prepare(old, tmp_path / "data", SETTINGS).manifest
    write(music / "नया.wav", sound(2_000, 9))
    tracks = ids_kept(find_tracks([music]).tracks, manifest)
    done = prepare(tracks, tmp_path / "data", SETTINGS)
    assert set(done.kept) == {track.id for track in old}
    assert done.prepared == ("नया",)


def test_an_id_that_was_given_before_is_not_given_to_another_song(tmp_path):
    one = mixture_only(tmp_path / "one", "x", 2_000, 1)
    manifest = prepare([replace(one, id="y")], tmp_path / "data", SETTINGS).manifest
    other = mixture_only(tmp_path / "two", "y", 2_000, 2)
    assert [track.id for track in ids_kept([one, other], manifest)] == ["y", "y-2"]
    assert [track.id for track in ids_kept([replace(other, id="Y")], manifest)] == ["Y-2"], "y stays, given or not"
    more = Track("Y", {"mixture": one.stems["mixture"], "vocals": other.stems["mixture"]})
    assert [track.id for track in ids_kept([more], manifest)] == ["y"], "the same song with one more stem"


BAD_IDS = ["", "..", "../../evil", "/etc/passwd", ".hidden", "-rf", "_x", "a/b", "a\0b", "a\nb", "a\x1b[2J", "a\u202eb",
           "a b", "x" * 129, "a*"]  # fmt: skip
BAD_SHARDS = ["", "/dev/zero", "../x.arrow", ".x.arrow", "x", "x.arrow/", "a b.arrow", "x\n.arrow", "-x.arrow"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    place = tmp_path_factory.mktemp("named")
    prepare([labelled(place / "music", "a", 2_000, 1)], place / "data", SETTINGS)
    return read_json(place / "data" / FILE)


def read_with(manifest, folder):
    write_json(folder / FILE, manifest, seal=True)
    return read_manifest(folder)


@pytest.mark.parametrize("bad", BAD_IDS)
def test_an_id_that_leads_elsewhere_or_is_obeyed_is_refused(made, tmp_path, bad):
    manifest = json.loads(json.dumps(made))
    manifest["songs"][0]["id"] = bad
    with pytest.raises(ManifestError, match=r"songs\.0\.id") as caught:
        read_with(manifest, tmp_path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("bad", BAD_SHARDS)
@pytest.mark.parametrize("used", [True, False])
def test_a_shard_that_lies_elsewhere_is_refused_whether_or_not_a_song_needs_it(made, tmp_path, bad, used):
    manifest = json.loads(json.dumps(made))
    name = manifest["songs"][0]["stems"]["vocals"]["shard"]
    manifest["shards"][bad] = manifest["shards"][name]
    if used:
        del manifest["shards"][name]
        for stem in manifest["songs"][0]["stems"].values():
            stem["shard"] = bad if stem["shard"] == name else stem["shard"]
    with pytest.raises(ManifestError, match="shard"):
        read_with(manifest, tmp_path)
