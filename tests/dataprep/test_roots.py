"""A data set on several disks: where shards are found, what is missing, and what changes of it do then."""

import platform
import shutil
from pathlib import Path

import numpy as np
import pytest

from dataprep.errors import ManifestError, ShardError
from dataprep.preparing.change import examine, repair, settings_of
from dataprep.preparing.prepare import prepare
from dataprep.shards.dataset import Dataset
from dataprep.shards.manifest import read_manifest
from dataprep.shards.roots import Roots
from tests.dataprep.data import SETTINGS, labelled, whole_stem
from vr_core.errors import StorageError


@pytest.fixture
def data(tmp_path):
    """Three songs, each in shards of its own, in `tmp_path/nas/songs`."""
    tracks = [labelled(tmp_path / "music", f"song{i}", 6000 + 500 * i, i) for i in range(3)]
    folder = tmp_path / "nas" / "songs"
    prepare(tracks, folder, SETTINGS.model_copy(update={"shard_bytes": 1}))
    return folder


def shards_of(folder: Path, song: str) -> list[str]:
    (row,) = [row for row in read_manifest(folder).songs if row.id == song]
    return [stem.shard for stem in row.stems.values()]


def move(folder: Path, song: str, root: Path) -> list[str]:
    root.mkdir(parents=True, exist_ok=True)
    for name in shards_of(folder, song):
        shutil.move(folder / name, root / name)
    return shards_of(folder, song)


def first_frames(data: Dataset, song: str) -> np.ndarray:
    out = np.empty((2, 4, 2 * data.stft.bins), np.uint8)
    data.read(song, "vocals", 0, 4, out)
    return out


def test_shards_are_read_from_wherever_a_pc_has_them(data, tmp_path):
    whole = {song: first_frames(Dataset.open(data), song) for song in ("song0", "song1", "song2")}
    move(data, "song0", tmp_path / "ssd1")
    move(data, "song1", tmp_path / "ssd2" / "songs")  # a folder of the data set's name, as an inventory's roots have
    (data / "roots.yaml").write_text(f"nodes:\n  attic: [{tmp_path / 'ssd1'}]\n  study: [/nowhere]\n")
    opened = Dataset.open(data, roots=Roots.of(data, "attic", [tmp_path / "ssd2"]))
    for song, frames in whole.items():
        np.testing.assert_array_equal(first_frames(opened, song), frames)
    assert opened.reach().missing == frozenset()
    with pytest.raises(ShardError):
        first_frames(Dataset.open(data, roots=Roots.of(data, "another")), "song0")


def test_what_a_missing_root_makes_unreachable_is_said_as_a_share(data, tmp_path):
    gone = move(data, "song2", tmp_path / "usb")
    (data / "roots.yaml").write_text(f"everywhere: [{tmp_path / 'usb'}]\n")
    (tmp_path / "usb").rename(tmp_path / "unplugged")
    opened = Dataset.open(data)
    manifest = opened.manifest
    assert opened.reach().missing == frozenset(gone)
    share = sum(manifest.shards[name].bytes for name in gone) / sum(row.bytes for row in manifest.shards.values())
    with pytest.raises(StorageError, match=rf"{100 * share:.3g} % of the data \({len(gone)} of 9 shards.*usb"):
        opened.require(manifest.shards)
    opened.require(shards_of(data, "song0"))  # who reads nothing of it is not concerned


def test_a_missing_shard_without_any_roots_is_damage(data):
    (data / shards_of(data, "song1")[0]).unlink()
    opened = Dataset.open(data)
    with pytest.raises(ShardError, match="1 of 9 shards"):
        opened.require(opened.manifest.shards)


def test_of_two_copies_the_one_on_a_disk_of_this_pc_is_read(data, tmp_path):
    for place in ("share", "ssd"):
        shutil.copytree(data, tmp_path / place)
    found = Roots(data, (tmp_path / "share", tmp_path / "ssd"), is_local=lambda folder: folder.name == "ssd")
    rows = read_manifest(data).shards
    assert {found.find(name, row).parent.name for name, row in rows.items()} == {"ssd"}
    assert found.reach(rows).local == frozenset(rows)
    one = min(rows)
    (tmp_path / "ssd" / one).write_bytes(b"cut short")
    assert found.find(one, rows[one]) == tmp_path / "share" / one
    reach = found.reach(rows)
    assert (reach.local, reach.remote) == (frozenset(rows) - {one}, {one})


def test_music_added_while_a_root_is_away_keeps_its_songs(data, tmp_path):
    move(data, "song1", tmp_path / "usb")
    (data / "roots.yaml").write_text(f"everywhere: [{tmp_path / 'usb'}]\n")
    (tmp_path / "usb").rename(tmp_path / "unplugged")
    report = prepare([labelled(tmp_path / "music", "song9", 5000, 9)], data, settings_of(read_manifest(data)))
    assert [song.id for song in report.manifest.songs] == ["song0", "song1", "song2", "song9"]
    assert report.failed == ()
    (tmp_path / "unplugged").rename(tmp_path / "usb")
    Dataset.open(data).require(report.manifest.shards)


def test_verify_tells_what_is_away_from_what_is_damaged_and_repairs_in_a_root(data, tmp_path):
    before = whole_stem(Dataset.open(data), "song1", "vocals")
    names = move(data, "song1", tmp_path / "usb")
    (data / "roots.yaml").write_text(f"nodes:\n  {platform.node()}: [{tmp_path / 'usb'}]\n")
    manifest = read_manifest(data)
    assert examine(data, manifest) == []
    (tmp_path / "usb").rename(tmp_path / "unplugged")
    away = examine(data, manifest)
    assert {shard.name for shard in away} == set(names)
    assert all(shard.unread for shard in away)
    with pytest.raises(StorageError, match="nothing was repaired"):
        repair(data, away)
    (tmp_path / "unplugged").rename(tmp_path / "usb")
    hurt = tmp_path / "usb" / next(name for name in names if name.startswith("vocals"))
    raw = bytearray(hurt.read_bytes())
    raw[len(raw) // 2] ^= 255
    hurt.write_bytes(raw)
    (damaged,) = examine(data, manifest)
    assert damaged.songs == ("song1",)
    assert repair(data, [damaged]).failed == ()
    assert examine(data, read_manifest(data)) == []
    after = whole_stem(Dataset.open(data), "song1", "vocals")
    assert all(after[name].equal(column) for name, column in before.items()), "not what is damaged in the root"


def test_staging_leaves_what_is_on_a_disk_here(data, tmp_path):
    from dataprep.shards.cache import ShardCache

    names = move(data, "song0", tmp_path / "ssd")
    (data / "roots.yaml").write_text(f"everywhere: [{tmp_path / 'ssd'}]\n")
    opened = Dataset.open(data, ShardCache(tmp_path / "cache", 10**9))
    done = opened.stage()
    assert set(done.copied) == set(read_manifest(data).shards) - set(names)
    used_s = {copy: copy.stat().st_mtime_ns for copy in (tmp_path / "cache").glob("*.arrow")}
    assert opened.reach().local == frozenset(read_manifest(data).shards)
    assert used_s == {copy: copy.stat().st_mtime_ns for copy in used_s}, "to look is not to use"


def test_a_list_of_roots_with_a_mistake_is_refused_by_name(data):
    (data / "roots.yaml").write_text("node: {attic: [/mnt/ssd]}\n")
    with pytest.raises(ManifestError, match=r"roots\.yaml: node: unknown key \(did you mean nodes\?\)"):
        Dataset.open(data)
