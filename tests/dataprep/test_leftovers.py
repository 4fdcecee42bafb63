"""Only what a data set wrote itself is ever removed from its folder, and of that nothing is forgotten."""

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataprep.errors import PrepareError
from dataprep.preparing.change import prune, remove
from dataprep.preparing.group import announce
from dataprep.preparing.leftovers import end_journal, remove_leftovers
from dataprep.preparing.prepare import PrepareProgress, prepare
from dataprep.shards.manifest import kept_versions, read_manifest
from tests.dataprep.data import SETTINGS, labelled, mixture_only, sound, write

A_GROUP_A_SONG = SETTINGS.model_copy(update={"shard_bytes": 1})
NAMED = (
    "fingerprints/hands.npz",
    "journal/2026-11.json",
    "journal/notes.txt",
    "photos.arrow",
    "vocals-mine.arrow.partial",
)
STRANGERS = (*NAMED, "versions/notes.json", ".my.manifest.json", "journal/.0123abcd.letter.json")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder that somebody else has files in, called as a data set's are."""
    for number, name in enumerate(STRANGERS):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f'{{"dear": "diary {number}"}}'.encode())
    announce(tmp_path / "data", "0123456789ab", [])  # a preparation has begun here
    return tmp_path / "data"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"schema_version": 9}'])
def test_a_damaged_earlier_version_ends_no_command_and_nothing_it_may_name_is_removed(content, tmp_path, capfd):
    music, out = tmp_path / "music", tmp_path / "data"
    tracks = [labelled(music, name, 9_000, seed) for seed, name in enumerate("abc")]
    prepare(tracks, out, A_GROUP_A_SONG)
    remove(out, ["b"])
    (kept,) = (out / "versions").iterdir()
    kept.write_bytes(content)
    before = {path.name for path in out.glob("*.arrow")}
    assert remove(out, ["c"]) == ("c",)
    prepare([labelled(music, "d", 9_000, 9)], out, A_GROUP_A_SONG)
    assert before <= {path.name for path in out.glob("*.arrow")}
    assert f"{kept}: " in capfd.readouterr().err
    left = {name for name in prune(out).left_alone if name.endswith(".arrow")}
    assert {path.name for path in out.glob("*.arrow")} - read_manifest(out).shards.keys() == left, "named, and kept"


@pytest.mark.parametrize("name", ["photo.arrow", "a.txt", "music/a.wav", ".hidden", "vocals-0123456789ab.arrow"])
def test_a_folder_with_anything_else_in_it_and_no_data_set_is_refused(name, tmp_path):
    path = tmp_path / "data" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    with pytest.raises(PrepareError, match=f"holds {name.split('/')[0]}, and no data set; give a new folder"):
        prepare([labelled(tmp_path / "music", "a", 9_000, 1)], tmp_path / "data", SETTINGS)
    assert [p.name for p in (tmp_path / "data").rglob("*") if p.is_file() and p.name != ".lock"] == [path.name]
    assert path.read_bytes() == b"mine"


def test_what_systems_leave_in_any_folder_does_not_count(tmp_path):
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._data", "lost+found/x"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).touch()
    assert prepare([labelled(tmp_path / "music", "a", 9_000, 1)], tmp_path / "data", SETTINGS).prepared == ("a",)


def untouched(out: Path) -> bool:
    return all((out / name).read_bytes() == f'{{"dear": "diary {i}"}}'.encode() for i, name in enumerate(STRANGERS))


def test_what_others_keep_in_the_folder_stays_through_every_change_and_is_named(out, tmp_path):
    music = tmp_path / "music"
    tracks = [labelled(music, "a", 9_000, 1), mixture_only(music, "m", 5_000, 2)]
    told = tuple(sorted((*NAMED, "journal/.0123abcd.letter.json")))
    assert prepare(tracks, out, A_GROUP_A_SONG).left_alone == told
    write(music / "m.wav", sound(6_000, 3))
    changed = prepare(tracks, out, A_GROUP_A_SONG)
    assert (changed.prepared, changed.left_alone) == (("m",), told)
    remove(out, ["m"])
    assert len(kept_versions(out)[0]) == 2
    pruned = prune(out)
    assert (pruned.versions, pruned.left_alone) == (2, told)
    assert untouched(out)
    assert {path.name for path in out.glob("*.arrow")} == {"photos.arrow", *read_manifest(out).shards}


def test_a_preparation_that_can_use_nothing_leaves_what_was_there(out, tmp_path):
    silent = mixture_only(tmp_path, "silent", 9_000, 1)
    write(tmp_path / "silent.wav", np.zeros((2, 9_000), np.float32))
    with pytest.raises(PrepareError, match="none of the 1 songs"):
        prepare([silent], out, SETTINGS)
    assert untouched(out)
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()) == sorted(
        (*STRANGERS, ".lock")
    )


def test_a_file_of_others_with_a_shards_name_is_not_written_over(tmp_path):
    track = mixture_only(tmp_path, "m", 9_000, 1)
    (name,) = prepare([track], tmp_path / "one", SETTINGS).manifest.shards
    announce(tmp_path / "two", "fedcba987654", [])  # a preparation has begun there
    (tmp_path / "two" / name).write_bytes(b"mine")
    with pytest.raises(PrepareError, match=f"{name}: a shard of this name.*did not write.*move it away"):
        prepare([track], tmp_path / "two", SETTINGS)
    assert (tmp_path / "two" / name).read_bytes() == b"mine"
    (tmp_path / "two" / name).unlink()
    assert prepare([track], tmp_path / "two", SETTINGS).prepared == ("m",)


SHARDS = [f"{role}-{group}.arrow" for role in ("vocals", "mixture") for group in "pqr"]


@given(*[st.sets(st.sampled_from(SHARDS))] * 3)
def test_what_was_announced_and_nobody_names_goes_and_nothing_else(announced, named, there):
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        for name in there:
            (folder / name).write_bytes(b"12345")
            (folder / f"{name}.partial").write_bytes(b"123")
        announce(folder, "g", announced)
        removed_bytes = remove_leftovers(folder, named)
        gone = there & announced - named
        begun = {f"{name}.partial" for name in there}
        assert {path.name for path in folder.iterdir()} == (there - gone) | begun - {f"{n}.partial" for n in announced}
        assert removed_bytes == 5 * len(gone) + 3 * len(there & announced)


def test_shards_and_fingerprints_of_a_preparation_that_was_stopped_are_removed_by_the_next(tmp_path):
    out, track = tmp_path / "data", mixture_only(tmp_path, "m", 9_000, 1)
    prepare([track], out, SETTINGS)
    announce(out, "0123456789ab", ["vocals-0123456789ab.arrow"])
    for number, name in enumerate(("../keep.arrow", "manifest.json")):
        (out / "journal" / f"{number}.shards.json").write_text(json.dumps({"announced": [name]}))
    left = [out / "vocals-0123456789ab.arrow", out / "vocals-0123456789ab.arrow.partial",
            out / "fingerprints" / "0123456789ab.npz", out / ".0123abcd.manifest.json"]  # fmt: skip
    for path in (*left, tmp_path / "keep.arrow"):
        path.write_bytes(b"x")
    report = prepare([track], out, SETTINGS)
    assert report.kept == ("m",)
    assert report.left_alone == ("journal/0.shards.json", "journal/1.shards.json"), "none of ours: named, and kept"
    assert not [path for path in left if path.exists()]
    assert (tmp_path / "keep.arrow").exists(), "no name leads out of the folder"
    assert (out / "manifest.json").exists()


def test_what_a_killed_preparation_has_begun_is_removed_by_one_of_other_songs(tmp_path):
    killed, track = tmp_path / "killed", labelled(tmp_path, "a", 9_000, 1)

    def cut_power(progress: PrepareProgress) -> None:
        if not killed.exists():  # what is on the disk then is what is left
            shutil.copytree(tmp_path / "data", killed)

    prepare([track], tmp_path / "data", SETTINGS, cut_power)
    begun = {path.name for path in killed.glob("*.partial")}
    assert len(begun) == 3
    report = prepare([mixture_only(tmp_path, "m", 9_000, 2)], killed, SETTINGS)
    assert report.left_alone == ()
    assert {path.name for path in killed.glob("*.arrow*")} == set(report.manifest.shards)


def test_what_a_manifest_names_no_more_goes_later_where_its_removal_was_cut_short(tmp_path):
    out, track = tmp_path / "data", labelled(tmp_path, "a", 9_000, 1)
    before = prepare([track], out, SETTINGS).manifest
    old = next(iter(before.shards))
    write(tmp_path / "a" / "vocals.wav", sound(9_000, 1))  # the same, and written later
    (out / f"{old}.partial").mkdir()  # which is no file, so that to remove it fails
    with pytest.raises(OSError, match="directory"):
        prepare([track], out, SETTINGS)
    after = read_manifest(out)
    assert (after.digest(), kept_versions(out)) == (before.digest(), ([], []))
    assert not set(after.shards) & set(before.shards)
    (out / f"{old}.partial").rmdir()
    report = prepare([track], out, SETTINGS)
    assert (report.kept, report.left_alone) == (("a",), ())
    assert {path.name for path in out.glob("*.arrow")} == set(after.shards)


def test_songs_that_a_stopped_preparation_has_finished_outlive_other_changes(tmp_path):
    out = tmp_path / "data"
    prepare([labelled(tmp_path, name, 9_000, seed) for seed, name in enumerate("ab")], out, SETTINGS)
    more = [mixture_only(tmp_path, name, 9_000, seed) for seed, name in ((7, "m"), (8, "n"))]

    class Stopped(Exception):
        pass

    def stop(progress: PrepareProgress) -> None:
        if progress.song == "n":
            raise Stopped

    with pytest.raises(Stopped):
        prepare(more, out, A_GROUP_A_SONG, stop)
    remove(out, ["a"])
    prune(out)
    report = prepare(more, out, A_GROUP_A_SONG)
    assert (report.kept, report.prepared) == (("m",), ("n",))
    assert [song.id for song in report.manifest.songs] == ["b", "m", "n"]


def test_a_draft_of_a_try_that_was_ended_while_it_wrote_goes_with_its_groups_journal(tmp_path):
    """On several PCs: the group was prepared by another try, and no entry has the name of this one."""
    out = tmp_path / "data"
    announce(out, "0123456789ab-11112222", ["vocals-0123456789ab.arrow"])
    draft = out / "journal" / ".89abcdef.0123456789ab-33334444.json"
    draft.write_bytes(b'{"annou')
    strange = out / "journal" / ".89abcdef.letter.json"
    strange.write_bytes(b"{}")
    end_journal(out)
    assert list((out / "journal").iterdir()) == [strange]
    strange.unlink()
    announce(out, "0123456789ab-11112222", [])
    draft.write_bytes(b'{"annou')
    end_journal(out)
    assert not (out / "journal").exists()
