"""A preparation that is killed, finds a full disk or loses its source goes on to the same data set."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dataprep.audio.decoders import AudioSource
from dataprep.audio.tracks import Track
from dataprep.errors import NoSpaceError, PrepareError
from dataprep.preparing.prepare import PrepareProgress, prepare
from tests.dataprep.data import SETTINGS, files, labelled, mixture_only
from tests.small_disk import full_device

ROOT = Path(__file__).parents[2]


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.dataprep.data import SETTINGS, labelled
from dataprep.preparing.prepare import prepare
root, kill_at = Path(sys.argv[1]), float(sys.argv[2])
tracks = [labelled(root / "music", f"s{i}", 30_000, i) for i in range(4)] if not (root / "music").exists() else []
def on_progress(p):
    if p.done_s >= kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
prepare(tracks, root / "data", SETTINGS.model_copy(update={"shard_bytes": 1}), on_progress)
"""


@pytest.mark.parametrize("kill_at", [4.0, 11.0])
def test_killed_anywhere_it_goes_on_where_it_was(tmp_path, kill_at):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(kill_at)], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    data = tmp_path / "data"
    assert not (data / "manifest.json").exists()
    assert list(data.glob("*.arrow*"))
    tracks = [
        Track(f"s{i}", {"vocals": (AudioSource(tmp_path / "music" / f"s{i}" / "vocals.wav"),),
                        "instrumental": (AudioSource(tmp_path / "music" / f"s{i}" / "instrumental.wav"),)})
        for i in range(4)
    ]  # fmt: skip
    settings = SETTINGS.model_copy(update={"shard_bytes": 1})
    report = prepare(tracks, data, settings)
    assert len(report.kept) == max(0, int(kill_at // 3.75) - (kill_at % 3.75 == 0))
    assert len(report.kept) + len(report.prepared) == 4
    undisturbed = prepare(tracks, tmp_path / "undisturbed", settings)
    assert report.manifest == undisturbed.manifest
    assert files(data) == files(tmp_path / "undisturbed")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.usefixtures("root")
def test_a_full_disk_loses_no_finished_group(tmp_path):
    tracks = [mixture_only(tmp_path / "music", f"m{i}", 20_000, i) for i in range(3)]
    settings = SETTINGS.model_copy(update={"shard_bytes": 1})
    expected = prepare(tracks, tmp_path / "roomy", settings)
    second = next(song.stems["mixture"].shard for song in expected.manifest.songs if song.id == "m1")
    data = tmp_path / "data"
    data.mkdir()

    def fill_disk(progress: PrepareProgress) -> None:
        if progress.song == "m0" and not (data / f"{second}.partial").exists():
            full_device(data / f"{second}.partial")

    with pytest.raises(NoSpaceError, match="no space left"):
        prepare(tracks, data, settings, fill_disk)
    assert not (data / "manifest.json").exists()
    assert len(list(data.glob("*.arrow*"))) == 1
    report = prepare(tracks, data, settings)
    assert report.kept == ("m0",)
    assert report.manifest == expected.manifest


def test_a_source_disk_that_vanishes_in_the_middle_costs_what_was_not_read_yet(tmp_path):
    tracks = [labelled(tmp_path / "usb" / "music", f"song{i}", 6000, i) for i in range(4)]
    settings = SETTINGS.model_copy(update={"shard_bytes": 1})

    def unplug(progress: PrepareProgress) -> None:
        if progress.songs_done == 2 and (tmp_path / "usb").exists():
            (tmp_path / "usb").rename(tmp_path / "unplugged")

    report = prepare(tracks, tmp_path / "data", settings, unplug)
    assert report.prepared == ("song0", "song1")
    assert [id for id, _ in report.failed] == ["song2", "song3"]
    assert all(str(tmp_path / "usb") in why for _, why in report.failed)
    kept = files(tmp_path / "data")
    with pytest.raises(PrepareError, match="usb"):  # still away: nothing can be done, and nothing is lost
        prepare(tracks[2:], tmp_path / "new", settings)
    (tmp_path / "unplugged").rename(tmp_path / "usb")
    report = prepare(tracks, tmp_path / "data", settings)
    assert (report.kept, report.prepared, report.failed) == (("song0", "song1"), ("song2", "song3"), ())
    assert {
        name: raw for name, raw in files(tmp_path / "data").items() if name in kept and not name.startswith("manifest")
    } == {name: raw for name, raw in kept.items() if not name.startswith("manifest")}
    wanted = prepare(tracks, tmp_path / "at-once", SETTINGS).manifest
    assert report.manifest.digest() == wanted.digest()
