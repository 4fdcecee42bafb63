"""`vr data prepare --dry-run`: what would be done is told, and nothing is written; the work does the same."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dataprep.audio import tracks as tracks_module
from dataprep.errors import DataError, PrepareError
from dataprep.shards.manifest import SongRow, read_manifest
from jobs.errors import SongsFailed
from tests.jobs.music import RATE_HZ, SMALL, noise, prepared, song, vr_data


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in sorted(folder.rglob("*"))}


@pytest.fixture
def db(tmp_path):
    """A published data set: train/ and test/, stems of other names, a folder that is not clear, files beside."""
    for k in range(4):
        song(tmp_path / "db" / "train" / f"song{k}", seed=k)
    lead, backing = noise(1.0, 20), noise(1.0, 21)
    song(tmp_path / "db" / "test" / "last", seed=50, vocals=None, **{"lead_vocals": lead, "Backing Vox": backing})
    song(tmp_path / "db" / "test" / "odd", seed=60, instrumental=None, no_drums=noise(1.0, 30))
    (tmp_path / "db" / "cover.jpg").write_bytes(b"no picture")
    (tmp_path / "db" / "notes.txt").write_text("no music")
    (tmp_path / "db" / "train" / "list.m3u").write_text("song0")
    (tmp_path / "db" / ".DS_Store").write_bytes(b"")
    (tmp_path / "db" / "._cover.jpg").write_bytes(b"")
    return tmp_path / "db"


def songs_of(data: Path, music: Path) -> tuple[SongRow, ...]:
    prepared(data, music)
    return read_manifest(data).songs


def dry(*arguments: object) -> dict:
    result = vr_data("prepare", *arguments, "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    value: dict = json.loads(result.stdout)
    return value


def test_a_dry_run_tells_what_the_work_does_and_writes_nothing(db, tmp_path):
    out = tmp_path / "data"
    before = everything(tmp_path)
    told = dry(db, "--out", out, *SMALL)
    assert everything(tmp_path) == before
    assert not out.exists()
    assert {s["song"]: s["length_s"] for s in told["songs"]} == {
        **{f"train-song{k}": 1.0 for k in range(4)}, "test-last": 1.0
    }  # fmt: skip
    (last,) = (s for s in told["songs"] if s["song"] == "test-last")
    assert last["stems"] == {
        "vocals": ["test/last/Backing Vox.wav", "test/last/lead_vocals.wav"],
        "instrumental": ["test/last/instrumental.wav"],
    }
    assert last["notes"] == ["vocals summed: Backing Vox.wav, lead_vocals.wav"]
    assert [Path(entry["path"]).name for entry in told["passed_over"]] == ["odd"]
    assert told["no_audio"] == {".jpg": 1, ".m3u": 1, ".txt": 1}
    assert "that split is kept" in told["about_splits"]
    assert last["split"] == "test"
    done = prepared(out, db)
    assert {s.id: s.split for s in read_manifest(out).songs} == {s["song"]: s["split"] for s in told["songs"]}
    assert done["no_audio"] == told["no_audio"]
    assert sorted(s["split"] for s in told["songs"]) == ["test", "train", "train", "train", "valid"]


def test_the_split_that_is_given_is_used_and_that_is_said(db, tmp_path):
    told = dry(db, "--out", tmp_path / "data", "--split", "test=0.2,seed=1")
    assert "--split is used and not that split" in told["about_splits"]
    assert [s["split"] for s in told["songs"]].count("test") == 1


def test_people_see_the_same_table_before_the_work(db, tmp_path):
    would = vr_data("prepare", db, "--out", tmp_path / "data", *SMALL, "--dry-run")
    assert "train 0:01  train-song" in would.stdout
    assert "vocals: test/last/Backing Vox.wav + test/last/lead_vocals.wav; instrumental: test/last/" in would.stdout
    assert "5 songs would be in" in would.stdout
    done = vr_data("prepare", db, "--out", tmp_path / "data", *SMALL)
    for result in (would, done):
        assert "passed over, no audio: 1 .jpg, 1 .m3u, 1 .txt" in result.stderr
        assert "not used: " in result.stderr
        assert "no_drums.wav: by the name more than one kind of stem" in result.stderr
    assert "vocals: test/last/Backing Vox.wav + test/last/lead_vocals.wav" in done.stderr


def test_the_second_time_only_what_is_new_is_told_and_the_rest_is_counted(db, tmp_path):
    data = tmp_path / "my data"
    first = vr_data("prepare", db, "--out", data, *SMALL)
    summed = "test-last: vocals summed: Backing Vox.wav, lead_vocals.wav"
    assert summed in first.stdout
    soundfile.write(song(db / "train" / "new", seed=70, vocals=None) / "vox.wav", noise(0.98, 71), RATE_HZ)
    second = vr_data("prepare", db, "--out", data, *SMALL)
    assert "train-new: " in second.stdout
    assert "test-last: " not in second.stdout
    assert f"1 songs that were there already have notes; vr data inspect '{data}' shows them" in second.stdout
    shown = [line.split()[1] for line in second.stderr.splitlines() if "  vocals: " in line]
    assert shown == ["train-new"]
    assert f"5 songs are in {data} already" in second.stderr
    soundfile.write(db / "test" / "last" / "lead_vocals.wav", noise(1.0, 22), RATE_HZ)
    assert summed in vr_data("prepare", db, "--out", data, *SMALL).stdout  # it was done again


def test_a_long_table_is_cut_before_the_work(tmp_path):
    for k in range(23):
        (tmp_path / "music").mkdir(exist_ok=True)
        soundfile.write(tmp_path / "music" / f"{k}.wav", noise(0.1, k), RATE_HZ)
    done = vr_data("prepare", tmp_path / "music", "--out", tmp_path / "data", *SMALL)
    assert done.stderr.count("  mixture: ") == 20
    assert "and 3 more; all with --dry-run" in done.stderr
    assert (
        vr_data("prepare", tmp_path / "music", "--out", tmp_path / "x", "--dry-run").stdout.count("  mixture: ") == 23
    )


def test_a_dry_run_of_more_music_tells_what_adding_it_does(db, tmp_path):
    out, more = tmp_path / "data", tmp_path / "more"
    prepared(out, db)
    song(more / "train-song0", seed=70)  # an id that is taken
    for k in range(20):
        soundfile.write(more / f"{k}.wav", noise(0.2, k), RATE_HZ)
    before = everything(tmp_path)
    result = vr_data("add", out, more, "--layout", "flat", "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    assert everything(tmp_path) == before
    told = {s["song"]: s["split"] for s in json.loads(result.stdout)["songs"]}
    here = {s.id for s in read_manifest(out).songs}
    done = vr_data("add", out, more, "--layout", "flat")
    assert "and 2 more; all with --dry-run" in done.stderr
    assert {s.id: s.split for s in read_manifest(out).songs if s.id not in here} == told
    assert len(told) == 22


def test_a_dry_run_knows_the_data_set_that_is_there(db, tmp_path):
    prepared(tmp_path / "data", db, extra=("--split", "test=0.5"))
    before = everything(tmp_path / "data")
    told = dry(db, "--out", tmp_path / "data", *SMALL)
    assert {s["song"]: s["split"] for s in told["songs"]} == {
        s.id: s.split for s in read_manifest(tmp_path / "data").songs
    }
    assert everything(tmp_path / "data") == before
    with pytest.raises(PrepareError, match="other settings"):
        dry(db, "--out", tmp_path / "data", "--n-fft", 512, "--hop", 128)
    with pytest.raises(PrepareError, match="is no folder"):
        dry(db, "--out", db / "cover.jpg")


def test_other_settings_are_refused_with_both_ways_on(db, tmp_path):
    data = tmp_path / "my data"
    prepared(data, db)
    (tmp_path / "my data-2").mkdir()
    words = r"add --n-fft 256 --hop 128 to prepare as it was, or give another folder: --out '.*/my data-3'$"
    with pytest.raises(PrepareError, match=words):
        vr_data("prepare", db, "--out", data)
    with pytest.raises(PrepareError, match=r"codec is polar8 there and complex16 here\); add --codec polar8 to"):
        dry(db, "--out", data, *SMALL, "--codec", "complex16")
    kept = shlex.split("--n-fft 256 --hop 128")
    assert len(dry(db, "--out", data, *kept)["songs"]) == len(read_manifest(data).songs)


def test_what_headers_refuse_is_told_by_a_dry_run(tmp_path):
    song(tmp_path / "songs" / "good")
    (song(tmp_path / "songs" / "text") / "vocals.wav").write_text("no music" * 1000)
    told = dry(tmp_path / "songs", "--out", tmp_path / "data")
    assert [s["song"] for s in told["songs"]] == ["good"]
    assert [s["song"] for s in told["refused"]] == ["text"]


def test_a_dry_run_tells_the_splits_that_the_work_gives_where_files_are_empty(tmp_path):
    """The defect: what cannot be read took a place in the draw, and so songs had another split in the end."""
    (tmp_path / "music").mkdir()
    for k in range(12):
        soundfile.write(tmp_path / "music" / f"{k}.wav", noise(0.2, k), RATE_HZ)
    for k in range(12, 20):
        (tmp_path / "music" / f"{k}.wav").write_bytes(b"")
    told = dry(tmp_path / "music", "--out", tmp_path / "data", *SMALL)
    songs = songs_of(tmp_path / "data", tmp_path / "music")
    assert {s["song"]: s["split"] for s in told["songs"]} == {s.id: s.split for s in songs}
    again = vr_data("prepare", tmp_path / "music", "--out", tmp_path / "data", *SMALL, "--dry-run").stdout
    assert f"12 songs would be in {tmp_path / 'data'}, of which 12 are there already; nothing was written" in again


def test_songs_that_stay_in_their_split_are_told_to_who_asked_for_another(tmp_path):
    (tmp_path / "music").mkdir()
    for k in range(8):
        soundfile.write(tmp_path / "music" / f"{k}.wav", noise(0.2, k), RATE_HZ)
    command = ("prepare", tmp_path / "music", "--out", tmp_path / "data", *SMALL)
    vr_data(*command, "--split", "test=0.5")
    assert "keep the split" not in vr_data(*command).stderr
    assert "keep the split that they have in" in vr_data(*command, "--split", "test=0.1").stderr


def test_a_file_that_is_named_is_done_or_refused_by_name(tmp_path):
    music = tmp_path / "music"
    music.mkdir()
    names = ["live.vocals.wav", "no suffix", ".hidden.wav", "song.xyz"]
    for number, name in enumerate(names):
        soundfile.write(music / name, noise(0.2, number), RATE_HZ, format="WAV")
    value = prepared(tmp_path / "data", *(music / name for name in names))
    assert sorted(value["prepared"]) == ["hidden", "live.vocals", "no_suffix", "song"]
    (music / "text.wav").write_text("no music")
    with pytest.raises(SongsFailed, match=r"named on the command line: .*text\.wav"):
        prepared(tmp_path / "more", music / "song.xyz", music / "text.wav")
    assert [s.id for s in read_manifest(tmp_path / "more").songs] == ["song"], "the good one is done"
    with pytest.raises(SongsFailed, match="gone"):
        prepared(tmp_path / "third", music / "song.xyz", music / "gone.wav")
    with pytest.raises(SongsFailed, match=r"text\.wav"):
        dry(music / "song.xyz", music / "text.wav", "--out", tmp_path / "fourth")
    with pytest.raises(DataError, match="does not exist"):
        dry(music / "gone.wav", "--out", tmp_path / "fourth")


def test_files_of_two_songs_are_left_out_unless_they_are_asked_for(tmp_path):
    music = tmp_path / "music"
    for folder in ("mixtures", "instruments"):
        (music / folder).mkdir(parents=True)
    for name, seed in (("a", 1), ("b", 2)):
        band = noise(1.0, seed)
        soundfile.write(music / "instruments" / f"{name}.wav", band, RATE_HZ)
        soundfile.write(
            music / "mixtures" / f"{name}.wav", (band if name == "a" else 0) + noise(1.0, 9 + seed), RATE_HZ
        )
    value = prepared(tmp_path / "data", music)
    assert value["prepared"] == ["a"]
    assert [(entry["song"], "files of two songs" in entry["why"]) for entry in value["refused"]] == [("b", True)]
    assert prepared(tmp_path / "data", music, extra=("--keep-suspicious",))["prepared"] == ["b"]
    assert sorted(s.id for s in read_manifest(tmp_path / "data").songs) == ["a", "b"]


def test_the_full_mix_is_not_summed_into_the_instrumental(tmp_path):
    vocals, drums = noise(1.0, 1), noise(1.0, 2)
    song(tmp_path / "songs" / "s", vocals=None, instrumental=None, vox=vocals, drums=drums, Final=vocals + drums)
    prepared(tmp_path / "data", tmp_path / "songs", extra=("--layout", "stems"))
    (row,) = read_manifest(tmp_path / "data").songs
    assert {role: [s.path.stem for s in sources] for role, sources in row.sources.items()} == {
        "vocals": ["vox"], "instrumental": ["drums"], "mixture": ["Final"]
    }  # fmt: skip
    level_db = 10 * np.log10(np.mean(np.square(drums)))
    assert row.stems["instrumental"].loudness_db == pytest.approx(level_db, abs=0.1)


def test_a_song_that_was_prepared_under_another_id_keeps_it(tmp_path, monkeypatch):
    def without_marks(parts):
        return re.sub(r"[^\w.-]+", "_", "-".join(parts)).strip("._-")[:100]

    music = tmp_path / "music"
    music.mkdir()
    for number, title in enumerate(("दिल", "दाल")):
        soundfile.write(music / f"{title}.wav", noise(0.2, number), RATE_HZ)
    with monkeypatch.context() as before:
        before.setattr(tracks_module, "safe_id", without_marks)
        assert prepared(tmp_path / "data", music)["prepared"] == ["द_ल", "द_ल-2"]
    again = prepared(tmp_path / "data", music)
    assert (again["prepared"], again["kept"]) == ([], ["द_ल", "द_ल-2"])
    assert prepared(tmp_path / "new", music)["prepared"] == ["दाल", "दिल"]


def test_an_album_replaces_no_songs_of_another(tmp_path):
    for number, name in enumerate(("A/00 Intro", "A/01 One", "B/00 Intro", "B/01 Two")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / f"{name}.wav", noise(0.2, number), RATE_HZ)
    first = prepared(tmp_path / "data", tmp_path / "A")
    assert first["prepared"] == ["00_Intro", "01_One"]
    assert prepared(tmp_path / "data", tmp_path / "B")["prepared"] == ["00_Intro-2", "01_Two"]
    again = prepared(tmp_path / "data", tmp_path / "B")
    assert (again["kept"], again["songs"]) == (["00_Intro-2", "01_Two"], 4)
    (tmp_path / "A").rename(tmp_path / "moved")
    assert prepared(tmp_path / "data", tmp_path / "moved")["prepared"] == ["00_Intro", "01_One"]
    soundfile.write(tmp_path / "B" / "01 Two.wav", noise(0.3, 9), RATE_HZ)
    changed = vr_data("prepare", tmp_path / "B", "--out", tmp_path / "data", *SMALL)
    assert "other samples than before: 01_Two" in changed.stderr
    assert len(read_manifest(tmp_path / "data").songs) == 4


def test_a_song_whose_file_has_another_name_now_is_told_with_the_command_that_takes_the_old_one_out(tmp_path):
    music, data = tmp_path / "music", tmp_path / "my data"
    music.mkdir()
    for k in range(4):
        soundfile.write(music / f"{k}.wav", noise(1.0, k), RATE_HZ)
    split = {s.id: s.split for s in songs_of(data, music)}
    (music / "1.wav").rename(music / "Été.wav")
    shutil.copy(music / "2.wav", music / "copy.wav")
    again = vr_data("prepare", music, "--out", data, *SMALL)
    assert f"Été: holds the audio of 1, whose files are gone; both are in {data}" in again.stderr
    assert "copy: holds" not in again.stderr
    line = next(line for line in again.stderr.splitlines() if "take the old ones out" in line)
    vr_data(*shlex.split(line.partition("out: vr data ")[2]))
    left = {s.id: s.split for s in read_manifest(data).songs}
    assert left == {"0": split["0"], "2": split["2"], "3": split["3"], "copy": split["2"], "Été": split["1"]}
    value = prepared(data, music)
    assert (value["renamed"], value["prepared"]) == ([], [])


def test_songs_that_were_made_otherwise_of_the_same_files_are_named(tmp_path):
    for k in (1, 2):
        for folder in ("vocals", "other"):
            (tmp_path / "db" / folder).mkdir(parents=True, exist_ok=True)
            soundfile.write(tmp_path / "db" / folder / f"{k}.wav", noise(1.0, 10 * k + len(folder)), RATE_HZ)
    out = tmp_path / "my data"
    stale = ["other-1", "other-2", "vocals-1", "vocals-2"]
    assert sorted(prepared(out, tmp_path / "db", extra=("--layout", "flat"))["prepared"]) == stale
    assert dry(tmp_path / "db", "--out", out, *SMALL)["no_song_now"] == stale
    done = vr_data("prepare", tmp_path / "db", "--out", out, *SMALL)
    assert f"vr data remove '{out}' {' '.join(stale)}" in done.stderr
    vr_data("remove", out, *stale)
    assert prepared(out, tmp_path / "db")["no_song_now"] == []


def test_songs_that_are_asked_about_now_are_named_though_nothing_else_is_found(tmp_path):
    song(tmp_path / "songs" / "s")
    prepared(tmp_path / "data", tmp_path / "songs")
    (tmp_path / "songs" / "s" / "vocals.wav").rename(tmp_path / "songs" / "s" / "Anna.wav")
    with pytest.raises(DataError, match=r"Anna\.wav: the name says no stem.* vr data remove .*data s$"):
        prepared(tmp_path / "data", tmp_path / "songs")
    with pytest.raises(DataError, match=r"try another --layout$"):
        prepared(tmp_path / "other", tmp_path / "songs")
