"""`vr data prepare --cluster` in a LAN in a box: songs and data set on one PC, the work done by all that see them."""

import json
import subprocess
import sys

import numpy as np
import psutil
import pytest
import soundfile

from dataprep.audio.tracks import find_tracks
from dataprep.preparing.prepare import PrepareSettings, prepare
from dataprep.roles import USUAL_SPLIT
from dataprep.shards.manifest import read_manifest
from dataprep.shards.splits import parse_split
from dataprep.synth.songs import write_songs
from tests.box.runs import join
from tests.lan import SHARED, await_true, require

pytestmark = [pytest.mark.xdist_group("box"), pytest.mark.ray]

NAS = f"{SHARED}/nas"
SONGS, SECONDS = 12, 20
PATIENCE_S = 180


@pytest.fixture(scope="module")
def lan(standing_lan):
    """A head and two nodes of one core each; study has attic's folder over sshfs, and den another folder there."""
    require("sshfs", "/dev/fuse")
    box = standing_lan
    rng = np.random.default_rng(0)
    for number in range(SONGS):
        folder = box.shared / "nas" / "music" / f"song{number:02}"
        folder.mkdir(parents=True)
        for stem in ("vocals", "instrumental"):
            signal = rng.standard_normal((44100 * SECONDS, 2)) * 0.1
            soundfile.write(folder / f"{stem}.flac", signal, 44100)
    box["study"].run(["sshfs", f"attic:{NAS}", NAS, "-o", "reconnect,ServerAliveInterval=5"])
    box["den"].run(["mount", "-t", "tmpfs", "tmpfs", NAS])
    yield box
    box["den"].run(["umount", "--lazy", NAS])


@pytest.fixture(scope="module")
def wanted(lan, tmp_path_factory):
    """The manifest of the same songs prepared by one process of one machine."""
    folder = tmp_path_factory.mktemp("here") / "data"
    tracks = find_tracks([lan.shared / "nas" / "music"]).tracks
    return prepare(tracks, folder, PrepareSettings(workers=1), split=parse_split(USUAL_SPLIT)).manifest


def contents(manifest):
    """What is stored of every stem: the same bytes on whatever PC they were made."""
    return {(song.id, role): (stem.crcs, stem.peaks) for song in manifest.songs for role, stem in song.stems.items()}


def preparing(host) -> list[psutil.Process]:
    """Processes of Ray's that prepare songs on the host."""
    found = []
    for pid in host.pids():
        try:
            process = psutil.Process(pid)
            if "_prepare" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def start(lan, out: str) -> subprocess.Popen[str]:
    command = ["data", "prepare", f"{NAS}/music", "--out", f"{NAS}/{out}", "--cluster", "--json"]
    return lan["attic"].popen(
        [sys.executable, "-m", "jobs.cli", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def is_whole(lan, out: str, wanted) -> None:
    folder = lan.shared / "nas" / out
    manifest = read_manifest(folder)
    assert manifest.digest() == wanted.digest()
    assert contents(manifest) == contents(wanted)
    assert {path.name for path in folder.glob("*.arrow*")} == set(manifest.shards)
    assert not [*folder.glob(".seen-*"), *folder.glob("journal"), *folder.glob("journal/*")]
    lan["attic"].vr("data", "verify", f"{NAS}/{out}")


def test_pcs_that_see_the_songs_prepare_them_and_the_others_are_named(lan, wanted):
    with start(lan, "data") as command:
        await_true(lambda: preparing(lan["study"]), "study prepares songs", PATIENCE_S)
        assert not preparing(lan["den"])
        said, told = command.communicate(timeout=PATIENCE_S)
    assert command.returncode == 0, told
    assert f"left out: den: does not see {NAS}/data/.seen-" in told
    assert "attic (1 cores), study (1 cores)" in told
    assert len(json.loads(said)["prepared"]) == SONGS
    is_whole(lan, "data", wanted)


def test_a_pc_whose_plug_is_pulled_meanwhile_is_replaced(lan, wanted):
    lan["study"].cpu(0.3)  # so that it is still at it when the plug is pulled
    with start(lan, "again") as command:
        await_true(lambda: preparing(lan["study"]), "study prepares songs", PATIENCE_S)
        lan["study"].kill()
        said, told = command.communicate(timeout=PATIENCE_S)
    assert command.returncode == 0, told
    assert len(json.loads(said)["prepared"]) == SONGS
    is_whole(lan, "again", wanted)


def test_a_pc_whose_plug_was_pulled_joins_again_after_it_has_booted(lan):
    def seen():
        return {row["name"]: row for row in lan["attic"].vr_json("cluster", "status")["nodes"]}

    await_true(lambda: not seen()["study"]["alive"], "its loss is noticed")
    lan["study"].start()
    lan["study"].cpu(None)
    join(lan["attic"], lan["study"])
    assert {name: row["alive"] for name, row in seen().items()} == {"attic": True, "study": True, "den": True}


def test_where_no_head_runs_that_is_said(lan):
    list(write_songs(lan.shared / "songs", songs=1, seconds=1.0))
    told = lan["den"].vr("data", "prepare", f"{SHARED}/songs", "--out", "data", "--cluster", code=2)
    assert f"this PC is a worker of {lan['attic'].address}:6379; run this on that head" in told
