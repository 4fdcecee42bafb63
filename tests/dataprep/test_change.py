"""Data sets that are changed: songs taken out, damage found by song and mended, versions kept for runs under way."""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from dataprep.audio import files
from dataprep.audio.decoders import AudioSource
from dataprep.audio.resample import resampled_length
from dataprep.audio.tracks import Track
from dataprep.errors import DataError, ManifestError, PrepareError
from dataprep.preparing.change import DamagedFrames, examine, ids_beside, prune, remove, repair, settings_of
from dataprep.preparing.folder import writing
from dataprep.preparing.prepare import prepare
from dataprep.roles import Role
from dataprep.shards.dataset import Dataset
from dataprep.shards.manifest import Manifest, SongRow, kept_versions, read_manifest, write_manifest
from dataprep.shards.reader import Shard
from dataprep.shards.splits import SplitByFraction
from dataprep.shards.writer import BATCH_FRAMES
from tests.dataprep.data import SETTINGS, labelled, small_data_set, sound, whole_stem, write
from vr_core.errors import StorageError
from vr_core.small_files import read_json


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    small_data_set(root, SplitByFraction(valid=0.2, seed=1))
    return root


@pytest.fixture
def folder(made: Path, copied: Callable[[Path, Path], Path], tmp_path: Path) -> Path:
    return copied(made, tmp_path)


def shards_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.arrow")}


def column_at(path: Path, codec: str, manifest: Manifest, batch: int, number: int) -> tuple[int, np.ndarray]:
    """Where a column of a record batch lies in the shard's file, and the column; -1 is the last one."""
    column = list(Shard(path, codec, manifest.stft).columns(batch).values())[number]
    data, wanted = path.read_bytes(), column.tobytes()
    assert data.count(wanted) == 1
    return data.index(wanted), column


def damage(folder: Path, manifest: Manifest, song: str, role: Role, frame: int) -> str:
    """Flip a bit of a frame, and return the shard's name."""
    stem = row(manifest, song).stems[role]
    path, batch = folder / stem.shard, stem.first_batch + frame // BATCH_FRAMES
    start, column = column_at(path, manifest.codec_of(role), manifest, batch, 0)
    data = bytearray(path.read_bytes())
    data[start + frame % BATCH_FRAMES * column[0].nbytes + 3] ^= 4
    path.write_bytes(data)
    return stem.shard


def row(manifest: Manifest, song: str) -> SongRow:
    return next(row for row in manifest.songs if row.id == song)


def everything(folder: Path, version: str | None = None) -> dict[tuple[str, str, str], bytes]:
    data = Dataset.open(folder, version=version)
    return {
        (song.id, role, name): column.numpy().tobytes()
        for song in data.songs()
        for role in song.stems
        for name, column in whole_stem(data, song.id, role).items()
    }


def test_songs_are_taken_out_and_the_rest_is_not_written_again(folder):
    before, shards, old = read_manifest(folder), shards_of(folder), everything(folder)
    assert remove(folder, ["b", "m*"]) == ("b", "m1", "m2")
    after = read_manifest(folder)
    assert after.songs == tuple(song for song in before.songs if song.id in "acd")
    assert shards_of(folder) == shards
    # A run that began before finds all that it began with.
    assert everything(folder, before.digest()) == old
    assert prune(folder).versions == 1
    with pytest.raises(ManifestError, match=f"changed since.*{before.digest()}.*not kept"):
        Dataset.open(folder, version=before.digest())
    assert everything(folder) == {key: value for key, value in old.items() if key[0] in "acd"}


def test_pruning_removes_the_shards_that_only_earlier_versions_name(folder):
    manifest = read_manifest(folder)
    shards = set(manifest.shards)
    settings = SETTINGS.model_copy(update={"shard_bytes": 1})
    shutil.rmtree(folder)
    small_data_set(folder.parent, settings=settings)  # a shard a song and role
    manifest = read_manifest(folder)
    assert len(manifest.shards) > len(shards)
    own = {stem.shard for stem in row(manifest, "c").stems.values()}
    size = sum(manifest.shards[name].bytes for name in own)
    remove(folder, ["c"])
    assert own <= set(shards_of(folder))
    assert own.isdisjoint(read_manifest(folder).shards)
    assert prune(folder) == (1, size, ())
    assert own.isdisjoint(shards_of(folder))
    assert prune(folder) == (0, 0, ())


@pytest.mark.parametrize(
    ("patterns", "words"), [(["a", "nobody"], "no song 'nobody'"), (["*"], "all 6 songs would be gone")]
)
def test_what_cannot_be_removed_changes_nothing(folder, patterns, words):
    before = (folder / "manifest.json").read_bytes()
    with pytest.raises(DataError, match=words):
        remove(folder, patterns)
    assert (folder / "manifest.json").read_bytes() == before


def test_one_changes_a_data_set_at_a_time(folder):
    with writing(folder):
        for change in (lambda: remove(folder, ["a"]), lambda: prune(folder), lambda: repair(folder, [])):
            with pytest.raises(PrepareError, match="another `vr data` command is writing"):
                change()
    assert kept_versions(folder) == ([], [])


def test_damage_is_found_by_song_and_second(folder):
    manifest = read_manifest(folder)
    assert examine(folder, manifest) == []
    frames = row(manifest, "c").frames
    shard = damage(folder, manifest, "c", "vocals", frames - 1)
    (found,) = examine(folder, manifest)
    assert (found.name, found.songs) == (shard, ("c",))
    assert found.frames == (DamagedFrames("c", "vocals", 0, frames),)
    # Where there are no checksums of record batches all songs of the shard may be hit.
    plain = read_json(folder / "manifest.json")
    for song in plain["songs"]:
        for stem in song["stems"].values():
            del stem["crcs"]
    (folder / "manifest.json").write_text(json.dumps(plain))
    (found,) = examine(folder, read_manifest(folder))
    assert set(found.songs) == {"a", "b", "c", "d"}


def test_only_the_songs_that_are_hit_are_prepared_again(folder):
    manifest, old = read_manifest(folder), everything(folder)
    damage(folder, manifest, "c", "vocals", 10)
    damage(folder, manifest, "m1", "mixture", 0)
    found = examine(folder, manifest)
    assert everything(folder) != old
    report = repair(folder, found)
    assert (set(report.prepared), report.failed) == ({"c", "m1"}, ())
    after = read_manifest(folder)
    assert examine(folder, after) == []
    assert everything(folder) == old
    assert after.digest() == manifest.digest()  # so that runs go on
    for song in manifest.songs:
        assert row(after, song.id).split == song.split
        if song.id not in ("c", "m1"):
            assert row(after, song.id) == song


def test_a_shard_that_does_not_open_is_made_again(folder):
    manifest, old = read_manifest(folder), everything(folder)
    name = row(manifest, "a").stems["instrumental"].shard
    with (folder / name).open("r+b") as file:
        file.truncate(manifest.shards[name].bytes // 2)
    found = examine(folder, manifest)
    assert set(found[0].songs) == {"a", "b", "c", "d"}
    assert set(repair(folder, found).prepared) == {"a", "b", "c", "d"}
    assert everything(folder) == old
    assert examine(folder, read_manifest(folder)) == []


def test_a_song_whose_files_are_gone_stays_damaged_and_is_named(folder):
    manifest = read_manifest(folder)
    damage(folder, manifest, "c", "vocals", 10)
    damage(folder, manifest, "a", "vocals", 10)
    (folder.parent / "music" / "c" / "vocals.wav").unlink()
    report = repair(folder, examine(folder, manifest))
    assert report.prepared == ("a",)
    ((song, why),) = report.failed
    assert song == "c"
    assert "vocals.wav" in why
    (left,) = examine(folder, read_manifest(folder))
    assert left.songs == ("c",)


def test_a_song_whose_files_can_no_longer_be_decoded_is_not_called_repaired(folder):
    manifest = read_manifest(folder)
    damage(folder, manifest, "c", "vocals", 10)
    damage(folder, manifest, "a", "vocals", 10)
    write(folder.parent / "music" / "c" / "vocals.wav", np.full((2, 70_001), np.nan, np.float32))
    report = repair(folder, examine(folder, manifest))
    assert report.prepared == ("a",)
    assert [song for song, _ in report.failed] == ["c"]


def by_an_earlier_resampler(
    blocks: Iterable[np.ndarray], channels: int, old_hz: int, new_hz: int
) -> Iterator[np.ndarray]:
    """Straight lines between samples."""
    signal = np.concatenate(list(blocks), axis=1)
    at = np.arange(resampled_length(signal.shape[1], old_hz, new_hz)) * old_hz / new_hz
    yield np.stack([np.interp(at, np.arange(signal.shape[1]), channel) for channel in signal]).astype(np.float32)


@pytest.fixture
def resampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set of two songs at twice its rate, each in shards of its own, made with an earlier resampler."""
    tracks = [labelled(tmp_path / "music", name, 30_000, seed) for seed, name in enumerate("ab")]
    for seed, file in enumerate(sorted((tmp_path / "music").rglob("*.wav"))):
        write(file, sound(60_000, seed), 2 * SETTINGS.stft.sample_rate_hz)
    with monkeypatch.context() as earlier:
        earlier.setattr(files, "resample", by_an_earlier_resampler)
        prepare(tracks, tmp_path / "data", SETTINGS.model_copy(update={"shard_bytes": 1}))
    return tmp_path / "data"


def test_a_repair_that_gives_other_samples_makes_a_new_version(resampled):
    first, old = read_manifest(resampled), everything(resampled)
    damage(resampled, first, "a", "vocals", 10)
    hurt = everything(resampled)
    report = repair(resampled, examine(resampled, first))
    assert (report.prepared, report.new_content, report.failed) == (("a",), ("a",), ())
    second, new = read_manifest(resampled), everything(resampled)
    assert second.digest() != first.digest()
    assert row(second, "b") == row(first, "b")
    assert all((new[key] == old[key]) == (key[0] == "b") for key in old)
    assert examine(resampled, second) == []
    # A run that began before reads what it read: this song damaged, and nothing of the new one.
    assert everything(resampled, first.digest()) == hurt
    # Once more, the samples are the same and so is the version.
    damage(resampled, second, "a", "instrumental", 10)
    report = repair(resampled, examine(resampled, second))
    assert (report.prepared, report.new_content) == (("a",), ())
    assert read_manifest(resampled).digest() == second.digest()
    assert everything(resampled) == new


def test_a_song_that_is_added_again_with_other_samples_leaves_earlier_versions_as_they_were(resampled):
    first, old = read_manifest(resampled), everything(resampled)
    remove(resampled, ["a"])
    prepare([row(first, "a").track()], resampled, settings_of(first))
    assert everything(resampled) != old
    assert everything(resampled, first.digest()) == old


def test_how_songs_were_prepared_is_known_from_the_data_set(folder):
    known = settings_of(read_manifest(folder))
    assert known.song_settings() == SETTINGS.song_settings()
    shutil.rmtree(folder)
    bare = SETTINGS.model_copy(update={"mixture": False, "codec": "complex16"})
    small_data_set(folder.parent, settings=bare)
    assert settings_of(read_manifest(folder)).song_settings() == bare.song_settings()


def test_a_manifest_with_too_few_checksums_is_damaged(folder):
    manifest = read_manifest(folder)
    stem = manifest.songs[0].stems["vocals"].model_copy(update={"crcs": (1, 2, 3)})
    song = manifest.songs[0].model_copy(update={"stems": {**manifest.songs[0].stems, "vocals": stem}})
    write_manifest(folder, manifest.model_copy(update={"songs": (song, *manifest.songs[1:])}))
    with pytest.raises(ManifestError, match=r"a vocals: 3 checksums"):
        read_manifest(folder)


def test_a_shard_that_cannot_be_read_is_no_damage_and_is_not_repaired(folder):
    manifest = read_manifest(folder)
    shard = folder / min(manifest.shards)
    shard.unlink()
    shard.symlink_to(shard)  # as a failing disk, it is there and no read of it succeeds
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    (found,) = examine(folder, manifest)
    assert found.unread
    with pytest.raises(
        StorageError, match=r"levels of symbolic links\).*; nothing was repaired, since it may be whole"
    ):
        repair(folder, [found])
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    assert shard.is_symlink()


def test_bytes_that_no_song_needs_are_accepted_as_they_are(folder):
    manifest, old = read_manifest(folder), everything(folder)
    name = row(manifest, "a").stems["vocals"].shard
    data = bytearray((folder / name).read_bytes())
    codec = manifest.shards[name].codec
    start, column = column_at(folder / name, codec, manifest, 0, -1)
    following, _ = column_at(folder / name, codec, manifest, 1, 0)
    for at in range(
        start + column.nbytes, following
    ):  # a byte of padding, or of a header that says the same without it
        changed = bytearray(data)
        changed[at] ^= 1
        (folder / name).write_bytes(changed)
        found = examine(folder, manifest)
        if found and not found[0].frames:
            break
    else:
        pytest.fail("no byte between record batches is without a meaning")
    assert repair(folder, found).prepared == ()
    assert examine(folder, read_manifest(folder)) == []
    assert everything(folder) == old


def test_a_damaged_version_can_be_pruned(folder):
    remove(folder, ["b"])
    (version,) = (folder / "versions").iterdir()
    version.write_text("{")
    assert prune(folder).versions == 1


def test_a_repair_of_a_data_set_from_before_silence_was_known_changes_no_order(tmp_path):
    track = labelled(tmp_path / "music", "song", 20_000, 1)
    prepare([track], tmp_path / "data", SETTINGS)
    manifest = read_manifest(tmp_path / "data")
    (row,) = manifest.songs
    assert row.stems["vocals"].audible
    old = row.stems["vocals"].model_copy(update={"audible": None})
    old_row = row.model_copy(update={"stems": {**row.stems, "vocals": old}})
    write_manifest(tmp_path / "data", manifest.model_copy(update={"songs": (old_row,)}))
    digest = read_manifest(tmp_path / "data").digest()
    assert digest != manifest.digest()
    report = prepare([track], tmp_path / "data", SETTINGS, again=["song"])
    assert report.prepared == ("song",)
    assert report.manifest.digest() == digest


def track(id: str, *paths: Path) -> Track:
    return Track(id, {"mixture": tuple(AudioSource(path) for path in paths)})


def test_a_song_of_another_folder_with_the_same_name_replaces_nothing(tmp_path):
    rate_hz, old, new = SETTINGS.stft.sample_rate_hz, tmp_path / "a", tmp_path / "c"
    names = ("intro", "outro", "moved", "away")
    for folder, name, samples in [(old, n, 5_000) for n in names] + [(new, n, 5_000) for n in names]:
        write(folder / f"{name}.wav", sound(samples, seed=1), rate_hz)
    write(new / "away.wav", sound(50_000, seed=1), rate_hz)
    here = {**{name: old / f"{name}.wav" for name in names}, "intro-2": tmp_path / "b" / "intro.wav"}
    songs = [
        SongRow.model_construct(id=name, samples=5_000, sources=track(name, path).stems) for name, path in here.items()
    ]
    (tmp_path / "link").symlink_to(old)
    for name in ("moved", "away"):
        (old / f"{name}.wav").unlink()

    def ids(*tracks: Track) -> list[str]:
        manifest = Manifest.model_construct(stft=SETTINGS.stft, songs=tuple(songs))
        return [one.id for one in ids_beside(tracks, manifest)]

    assert ids(track("intro", new / "intro.wav"), track("OUTRO", new / "outro.wav")) == ["intro-3", "OUTRO-2"]
    assert ids(track("intro", here["intro"]), track("intro", here["intro-2"])) == ["intro", "intro-2"]
    assert ids(track("intro", tmp_path / "link" / "intro.wav")) == ["intro"], "the same file by another way"
    assert ids(track("x", here["outro"], new / "more.wav")) == ["outro"], "the same song with one more stem"
    assert ids(track("moved", new / "moved.wav"), track("fresh", new / "fresh.wav")) == ["moved", "fresh"]
    assert ids(track("away", new / "away.wav")) == ["away-2"], "another one while that disk is not there"
    two = [track("intro", here["intro"]), track("intro-b", here["intro"], new / "intro.wav")]
    assert ids(*two) == ["intro", "intro-b"], "two tracks are never one song"
