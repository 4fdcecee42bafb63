"""A preparation that was stopped, and what is different when the next one goes on from it."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataprep.audio.tracks import Track
from dataprep.preparing.group import JOURNALS
from dataprep.preparing.prepare import PrepareProgress, prepare
from dataprep.preparing.workers import Work, run_groups
from dataprep.shards.dataset import Dataset
from dataprep.shards.writer import verify
from tests.dataprep.data import SETTINGS, labelled, sound, write

A_GROUP_A_SONG = SETTINGS.model_copy(update={"shard_bytes": 1})


class Stopped(Exception):
    """As if the process had been killed."""


def stopped_after_the_first(tracks: Sequence[Track], data: Path) -> str:
    """Prepares the first of the tracks alone; returns the name of its group."""

    def stop(progress: PrepareProgress) -> None:
        if progress.song != tracks[0].id:
            raise Stopped

    before = set(groups_in(data))
    with pytest.raises(Stopped):
        prepare(tracks, data, A_GROUP_A_SONG, stop)
    return min(set(groups_in(data)) - before)


def groups_in(data: Path) -> list[str]:
    """Names of the groups that have a journal."""
    return [path.stem for path in (data / JOURNALS).glob("*.json") if not path.name.endswith(".shards.json")]


def next_group(tracks: Sequence[Track], data: Path) -> str:
    """Name of the first group that a preparation would begin with now."""
    names: list[str] = []

    def run(folder: Path, work: Work, *_: object) -> list[tuple[str, str]]:
        names.extend(plan.name for plan, _ in work)
        raise Stopped

    with pytest.raises(Stopped):
        prepare(tracks, data, A_GROUP_A_SONG, run=run)
    return names[0]


def name_next_group(file: Path, tracks: Sequence[Track], data: Path, fits: Callable[[str], bool]) -> None:
    """Dates a file of the first track so that the name of its group fits: a digest, also of the time of the file."""
    for second in range(1, 1000):
        os.utime(file, (second, second))
        if fits(next_group(tracks, data)):
            return
    pytest.fail("no time of the file gives such a name")


@pytest.mark.parametrize("by_name", ["first", "last"])
def test_a_song_exported_anew_after_a_stop_is_the_new_one(tmp_path, by_name):
    tracks = [labelled(tmp_path / "music", name, 5_000, seed) for seed, name in enumerate("ab")]
    data = tmp_path / "data"
    old = stopped_after_the_first(tracks, data)
    vocals = write(tmp_path / "music" / "a" / "vocals.wav", sound(5_000, 77)).path
    name_next_group(vocals, tracks, data, lambda name: (name < old) is (by_name == "first"))
    report = prepare(tracks, data, A_GROUP_A_SONG)
    assert (report.prepared, report.kept, report.failed) == (("a", "b"), (), ())
    wanted = prepare(tracks, tmp_path / "undisturbed", A_GROUP_A_SONG)
    assert report.manifest == wanted.manifest
    assert prepare(tracks, data, A_GROUP_A_SONG).kept == ("a", "b")


@pytest.mark.parametrize("by_name", ["first", "last"])
def test_after_two_stops_the_later_journal_counts(tmp_path, by_name):
    tracks = [labelled(tmp_path / "music", name, 5_000, seed) for seed, name in enumerate("ab")]
    data = tmp_path / "data"
    old = stopped_after_the_first(tracks, data)
    vocals = write(tmp_path / "music" / "a" / "vocals.wav", sound(5_000, 77)).path
    name_next_group(vocals, tracks, data, lambda name: (name < old) is (by_name == "first"))
    stopped_after_the_first(tracks, data)
    assert len(groups_in(data)) == 2
    report = prepare(tracks[1:], data, A_GROUP_A_SONG)
    wanted = prepare(tracks, tmp_path / "undisturbed", A_GROUP_A_SONG)
    assert report.manifest == wanted.manifest


def test_a_shard_cut_short_after_a_stop_is_not_in_the_manifest(tmp_path):
    tracks = [labelled(tmp_path / "music", name, 5_000, seed) for seed, name in enumerate("ab")]
    data = tmp_path / "data"
    group = stopped_after_the_first(tracks, data)
    os.truncate(data / f"vocals-{group}.arrow", 100)
    report = prepare(tracks[1:], data, A_GROUP_A_SONG)
    assert [id for id, _ in report.failed] == ["a"]
    assert [song.id for song in report.manifest.songs] == ["b"]
    for name, row in Dataset.open(data).manifest.shards.items():
        verify(data / name, row)


def test_a_group_that_cannot_be_prepared_again_does_not_come_back_from_its_old_journal(tmp_path):
    tracks = [labelled(tmp_path / "music", name, 5_000, seed) for seed, name in enumerate("ab")]
    data = tmp_path / "data"
    group = stopped_after_the_first(tracks, data)
    os.truncate(data / f"vocals-{group}.arrow", 100)
    vocals = tmp_path / "music" / "a" / "vocals.wav"
    facts = vocals.stat()
    write(vocals, np.full((2, 5_000), np.nan, np.float32))  # the same group: by size and time it is the same file
    assert vocals.stat().st_size == facts.st_size
    os.utime(vocals, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    report = prepare(tracks, data, A_GROUP_A_SONG)
    assert [id for id, _ in report.failed] == ["a"]
    assert [song.id for song in report.manifest.songs] == ["b"]
    assert {path.name for path in data.glob("*.arrow*")} == set(report.manifest.shards)
    assert not (data / JOURNALS).exists()


@pytest.mark.parametrize(("before", "now"), [("000000", "ffffff"), ("ffffff", "000000")])
def test_a_group_that_several_pcs_tried_is_that_of_this_preparation(tmp_path, before, now):
    """On several PCs each try of a group has a suffix: the old journal of the same group stays beside the new one."""
    tracks = [labelled(tmp_path / "music", name, 5_000, seed) for seed, name in enumerate("ab")]
    data = tmp_path / "data"

    def run(folder: Path, work: Work, *how: Any) -> list[tuple[str, str]]:
        tries = [(plan.model_copy(update={"name": f"{plan.name}-{suffix}"}), songs) for plan, songs in work]
        return run_groups(folder, tries, *how)

    def stop(progress: PrepareProgress) -> None:
        if progress.song == "b":
            raise Stopped

    suffix = before
    with pytest.raises(Stopped):
        prepare(tracks, data, A_GROUP_A_SONG, stop, run=run)
    suffix = now
    (old,) = groups_in(data)
    os.truncate(data / f"vocals-{old}.arrow", 100)
    report = prepare(tracks, data, A_GROUP_A_SONG, run=run)
    assert report.prepared == ("a", "b")
    assert all(name.endswith(f"-{now}.arrow") for name in report.manifest.shards)
    for name, row in report.manifest.shards.items():
        verify(data / name, row)
