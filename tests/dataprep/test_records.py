"""The files of a data set besides its shards say of themselves what they should be: no changed byte is unseen."""

import contextlib
import json
import random
import shlex
import shutil

import pytest

from dataprep.errors import ManifestError, ShardError
from dataprep.preparing.change import examine, remove
from dataprep.preparing.group import announce
from dataprep.preparing.prepare import PrepareSettings, prepare
from dataprep.preparing.records import examine_records, restore_manifest
from dataprep.shards.manifest import FILE, SECOND, read_manifest
from dataprep.shards.writer import verify
from tests.command_line import vr
from tests.dataprep.data import SETTINGS, labelled
from vr_core.errors import VrError
from vr_core.files import write_json
from vr_core.small_files import read_json

A_GROUP_A_SONG = PrepareSettings(**{**SETTINGS.model_dump(), "shard_bytes": 1})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A data set with an earlier version beside it."""
    place = tmp_path_factory.mktemp("made")
    tracks = [labelled(place / "music", name, 3_000, seed) for seed, name in enumerate("ab")]
    prepare(tracks, place / "data", A_GROUP_A_SONG)
    remove(place / "data", ["b"])
    return place / "data"


@pytest.fixture
def data(made, tmp_path):
    return shutil.copytree(made, tmp_path / "data")


def is_seen(folder) -> bool:
    """What `vr data verify` finds."""
    if examine_records(folder)[0]:
        return True
    try:
        return bool(examine(folder, read_manifest(folder)))
    except VrError:
        return True


def flips(folder, count, seed):
    """So many single bits of the files that a data set has, each file as often as any other; set back after each."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    named = read_manifest(folder).shards
    files = [path for path in files if path.suffix != ".arrow" or path.name in named]
    draw = random.Random(seed)
    for _ in range(count):
        path = draw.choice(files)
        content = path.read_bytes()
        at, bit = draw.randrange(len(content)), draw.randrange(8)
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :])
        yield f"{path.relative_to(folder)}, bit {bit} of byte {at}"
        path.write_bytes(content)


def test_a_data_set_that_nobody_touched_is_whole(data):
    assert not is_seen(data)
    assert examine_records(data) == ([], [])
    names = {path.relative_to(data).parts[0] for path in data.rglob("*")}
    assert {FILE, SECOND, "versions", "fingerprints"} <= names


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.long("dataprep"))])
def test_no_changed_bit_is_unseen(data, count):
    unseen = [what for what in flips(data, count, seed=count) if not is_seen(data)]
    assert unseen == []
    assert not is_seen(data)


def test_a_file_cut_anywhere_is_seen(data):
    content = (data / FILE).read_bytes()
    for length in range(0, len(content), 37):
        (data / FILE).write_bytes(content[:length])
        assert is_seen(data), length


def test_a_damaged_manifest_is_restored_from_its_second_copy_and_that_is_said(data):
    before = (data / FILE).read_bytes()
    (data / FILE).write_bytes(before.replace(b'"split": "train"', b'"split": "valid"', 1))
    said = vr("data", "verify", data, code=2)
    assert f"{data / FILE}: damaged (it is not what its own digest says)" in said.stderr
    assert f"vr data verify {data} --repair" in said.stderr
    said = vr("data", "verify", data, "--repair")
    assert "restored from its second copy, of 1 songs and version" in said.stderr
    assert (data / FILE).read_bytes() == before
    vr("data", "verify", data)


def test_the_command_that_restores_a_manifest_can_be_pasted_whatever_the_folder_is_called(made, tmp_path):
    data = shutil.copytree(made, tmp_path / "it's my data")
    before = (data / FILE).read_bytes()
    (data / FILE).write_bytes(before.replace(b'"split": "train"', b'"split": "valid"', 1))
    with pytest.raises(ManifestError) as caught:
        read_manifest(data)
    pasted = str(caught.value).split("second copy, ")[1].split(", or copy")[0]
    assert shlex.split(pasted) == ["vr", "data", "verify", str(data), "--repair"]
    vr(*shlex.split(pasted)[1:])
    assert (data / FILE).read_bytes() == before


def test_a_manifest_that_names_a_shard_it_does_not_list_is_restored_too(data):
    """As an earlier version's, which carries no digest: what does not fit together in it is damage."""
    whole = (data / FILE).read_bytes()
    raw = read_json(data / FILE)
    write_json(data / FILE, {**raw, "shards": dict(list(raw["shards"].items())[1:])})
    assert "its manifest is damaged" in vr("data", "verify", data, code=2).stderr
    assert "restored from its second copy" in vr("data", "verify", data, "--repair").stderr
    assert (data / FILE).read_bytes() == whole


def test_a_second_copy_of_another_version_is_never_taken_silently(data):
    (data / SECOND).write_bytes((next((data / "versions").iterdir())).read_bytes())
    assert [record.path.name for record in examine_records(data)[0]] == [SECOND]
    vr("data", "verify", data, "--repair")
    assert (data / SECOND).read_bytes() == (data / FILE).read_bytes()


def test_nothing_is_restored_from_a_copy_that_is_damaged_or_says_nothing_of_itself(data):
    second = json.loads((data / SECOND).read_text())
    (data / FILE).write_text("{")
    for content in (b"{", json.dumps({k: v for k, v in second.items() if k != "seal"}).encode()):
        (data / SECOND).write_bytes(content)
        with pytest.raises(ManifestError, match="no whole copy of the manifest"):
            restore_manifest(data, lambda second, is_older: None)
        assert (data / FILE).read_text() == "{"


def test_files_of_before_are_read_and_that_they_carry_no_digest_is_said(data):
    for path in (data / FILE, data / SECOND):
        old = {key: value for key, value in json.loads(path.read_text()).items() if key != "seal"}
        path.write_text(json.dumps(old))
    (data / SECOND).unlink()
    said = vr("data", "verify", data)
    assert "1 files carry no digest of themselves, such as manifest.json" in said.stderr
    assert json.loads(vr("data", "verify", data, "--json").stdout)["without_digest"] == [str(data / FILE)]


def test_damaged_fingerprints_are_made_anew(data):
    for path in (data / "fingerprints").iterdir():
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    vr("data", "verify", data, code=2)
    vr("data", "verify", data, "--repair")
    assert not is_seen(data)
    vr("data", "dedupe", data)


def test_the_remedy_that_is_printed_destroys_nothing(tmp_path):
    """Of a data set whose sources are gone."""
    data = tmp_path / "data"
    prepare([labelled(tmp_path / "music", "a", 3_000, 1), labelled(tmp_path / "music", "b", 3_000, 2)], data, SETTINGS)
    shutil.rmtree(tmp_path / "music")
    shard = next(name for name in read_manifest(data).shards if name.startswith("vocals"))
    (data / shard).write_bytes((data / shard).read_bytes()[:-1])
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file() and path.name != ".lock"}
    with pytest.raises(ShardError) as caught:
        verify(data / shard, read_manifest(data).shards[shard])
    assert f"vr data verify {data} --repair" in str(caught.value)
    vr("data", "verify", data, "--repair", code=None)
    after = {path: path.read_bytes() for path in data.rglob("*") if path.is_file() and path.name != ".lock"}
    assert after == before


@pytest.mark.parametrize("place", ["fingerprints", "journal", "versions", "manifest.json", "manifest.second.json"])
def test_no_link_in_a_data_set_is_written_through(place, tmp_path):
    """As somebody who may write to the share lays it."""
    data, victim = tmp_path / "data", tmp_path / "home"
    tracks = [labelled(tmp_path / "music", name, 3_000, seed) for seed, name in enumerate("ab")]
    prepare(tracks[:1], data, SETTINGS)
    victim.mkdir()
    (victim / "thesis.txt").write_text("years of work")
    target = victim if "." not in place else victim / "thesis.txt"
    if (data / place).is_dir():
        shutil.rmtree(data / place)
    (data / place).unlink(missing_ok=True)
    (data / place).symlink_to(target)
    with contextlib.suppress(VrError, OSError):
        prepare(tracks, data, SETTINGS)
    with contextlib.suppress(VrError, OSError):
        remove(data, ["a"])
    assert {path.name: path.read_text() for path in victim.iterdir()} == {"thesis.txt": "years of work"}


def test_no_link_is_truncated_in_the_place_of_a_shard_that_is_begun(tmp_path):
    data, victim = tmp_path / "data", tmp_path / "thesis.txt"
    victim.write_text("years of work")
    tracks = [labelled(tmp_path / "music", "a", 3_000, 1)]
    names = prepare(tracks, tmp_path / "other", SETTINGS).manifest.shards
    prepare([labelled(tmp_path / "music", "b", 3_000, 2)], data, SETTINGS)
    for name in names:
        (data / f"{name}.partial").symlink_to(victim)
    with contextlib.suppress(VrError, OSError):
        prepare(tracks, data, SETTINGS)
    assert victim.read_text() == "years of work"


def test_an_earlier_version_takes_a_damaged_ones_place_only_where_the_user_agrees(data):
    """As a kill between the writing of the two leaves them, and then a bad byte."""
    (version,) = (data / "versions").iterdir()
    (data / SECOND).write_bytes(version.read_bytes())
    (data / FILE).write_bytes((data / FILE).read_bytes()[:-30])
    said = vr("data", "verify", data, "--repair", code=2)
    assert "of an earlier version" in said.stderr
    assert "nothing was changed" in said.stderr
    vr("data", "verify", data, "--repair", "--yes", code=None)
    assert {song.id for song in read_manifest(data).songs} == {"a", "b"}


def test_what_is_no_data_set_is_told_so_and_nothing_is_made_there(data, tmp_path):
    (tmp_path / "typo").mkdir()
    for words in (["verify", tmp_path / "typo"], ["verify", tmp_path / "typo", "--repair"]):
        assert "is not a data set" in vr("data", *words, code=2).stderr
    assert [*(tmp_path / "typo").iterdir()] == []
    newer = {**read_json(data / FILE), "schema_version": 9}
    write_json(data / FILE, newer, seal=True)
    said = vr("data", "verify", data, "--repair", code=2)
    assert "schema version 9, this version of vr reads 1" in said.stderr
    assert read_json(data / FILE) == newer, "an older copy does not take its place"


def test_a_data_set_of_before_gets_its_digest_and_second_copy_when_it_is_mended(data):
    old = {key: value for key, value in read_json(data / FILE).items() if key != "seal"}
    (data / FILE).write_text(json.dumps(old))
    (data / SECOND).unlink()
    vr("data", "verify", data, "--repair")
    assert examine_records(data) == ([], [])


def test_a_damaged_entry_of_the_journal_is_put_aside_and_a_file_of_others_stays(data):
    announce(data, "0123456789ab", ["vocals-0123456789ab.arrow"])
    (data / "journal" / "0123456789ab.shards.json").write_text("{")
    (data / "journal" / "diary.json").write_text("{")
    vr("data", "verify", data, code=2)
    vr("data", "verify", data, "--repair")
    vr("data", "verify", data)
    assert (data / "journal" / "diary.json").read_text() == "{"
