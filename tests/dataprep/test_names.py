"""Names in a manifest: every id that preparation makes is one, and nothing that leads elsewhere or is obeyed."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dataprep.audio.tracks import safe_id
from dataprep.errors import ManifestError
from dataprep.preparing.prepare import prepare
from dataprep.shards.manifest import FILE, read_manifest
from dataprep.shards.names import is_song_id
from tests.dataprep.data import SETTINGS, labelled
from vr_core.files import write_json
from vr_core.small_files import read_json


@given(st.lists(st.text(max_size=150), min_size=1, max_size=3))
@example(["½ time", "²"])
@example(["ทดสอบ", "हिन्दी"])
@example(["..", ".hidden", "-rf"])
def test_every_id_that_was_ever_made_is_one(parts):
    assert is_song_id(safe_id(parts))
    assert is_song_id(f"{safe_id(parts)}-2")


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
