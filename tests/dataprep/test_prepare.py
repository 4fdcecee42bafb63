import json
import os
import re
import subprocess
import sys
from pathlib import Path

import filelock
import numpy as np
import pytest
import torch

from dataprep.audio.decoders import AudioSource
from dataprep.audio.tracks import Track
from dataprep.errors import DataError, PrepareError
from dataprep.preparing import prepare as prepare_module
from dataprep.preparing.change import examine, repair
from dataprep.preparing.group import plan_groups
from dataprep.preparing.prepare import PrepareProgress, prepare
from dataprep.roles import Role
from dataprep.shards.codecs import CODECS
from dataprep.shards.dataset import Dataset
from dataprep.shards.manifest import Follows, read_manifest
from dataprep.shards.splits import SplitByList, parse_fractions, parse_list
from dataprep.shards.writer import verify
from tests.dataprep.data import SETTINGS, STFT, files, labelled, mixture_only, small_data_set, sound, whole_stem, write
from tests.dataprep.heard import decoded, snr_db, without_nyquist
from vr_core.audio.spectrogram import stft

ROOT = Path(__file__).parents[2]


def test_what_is_stored_is_what_was_heard(tmp_path):
    _, report = small_data_set(tmp_path)
    assert report.prepared == ("a", "b", "c", "d", "m1", "m2")
    assert not report.failed
    assert not report.kept
    data = Dataset.open(tmp_path / "data")
    assert data.manifest == report.manifest
    assert {s.id: sorted(s.stems) for s in data.songs()}["a"] == ["instrumental", "mixture", "vocals"]
    assert {s.id: sorted(s.stems) for s in data.songs()}["m1"] == ["mixture"]
    for name, row in data.manifest.shards.items():
        verify(data.folder / name, row)
    for song, seed, samples in (("a", 0, 40_000), ("c", 2, 70_001)):
        assert data.song(song).samples == samples
        for role, extra in (("vocals", 0), ("instrumental", 1000)):
            original = sound(samples, seed + extra)
            assert snr_db(without_nyquist(original), decoded(data, song, role)) > 36
            level = 10 * np.log10(np.square(original.astype(np.float64)).mean())
            assert data.song(song).stems[role].loudness_db == pytest.approx(level, abs=0.01)


def test_the_stored_mixture_is_the_sum(small):
    data = Dataset.open(small / "data")
    frames = data.song("a").frames
    scale = torch.from_numpy(data.peaks("a", "mixture", 0, frames))[None]
    found = CODECS["magnitude8"].widen_magnitude(whole_stem(data, "a", "mixture"), scale)[0]
    expected = stft(torch.from_numpy(sound(40_000, 0) + sound(40_000, 1000)), STFT)[0].abs()
    loud = expected > 1e-3 * expected.max()
    assert float(((found - expected).abs() / expected)[loud].max()) < 0.026


def test_mixtures_of_labelled_songs_can_be_left_out(tmp_path):
    settings = SETTINGS.model_copy(update={"mixture": False, "codec": "complex16"})
    _, report = small_data_set(tmp_path, settings=settings)
    stems = {song.id: sorted(song.stems) for song in report.manifest.songs}
    assert stems["a"] == ["instrumental", "vocals"]
    assert stems["m1"] == ["mixture"]
    assert snr_db(without_nyquist(sound(40_000, 0)), decoded(Dataset.open(tmp_path / "data"), "a", "vocals")) > 60


IN_TWO_PROCESSES = """
import json, sys
from pathlib import Path
from tests.dataprep.data import SETTINGS, small_data_set
seen = []
settings = SETTINGS.model_copy(update={"workers": 2, "shard_bytes": 1})
report = small_data_set(Path(sys.argv[1]), None, settings, seen.append)[1]
facts = [[p.songs_done, p.songs, p.done_s, p.total_s] for p in seen]
print(json.dumps({"prepared": report.prepared, "digest": report.manifest.digest(), "progress": facts}))
"""


def test_processes_and_groups_change_nothing_that_training_sees(small, tmp_path):
    found = json.loads(subprocess.check_output([sys.executable, "-c", IN_TWO_PROCESSES, tmp_path], cwd=ROOT))
    one, two = Dataset.open(small / "data"), Dataset.open(tmp_path / "data")
    assert found["prepared"] == [song.id for song in one.songs()]
    assert found["digest"] == one.manifest.digest()
    done_s = [done_s for _, _, done_s, _ in found["progress"]]
    assert done_s == sorted(done_s)
    songs_done, songs, last_s, total_s = found["progress"][-1]
    assert songs_done == songs == 6
    assert last_s == pytest.approx(total_s)
    assert len(two.manifest.shards) > len(one.manifest.shards)
    for song in one.songs():
        for role in song.stems:
            for mine, theirs in zip(*(whole_stem(d, song.id, role).values() for d in (one, two)), strict=True):
                # Threads of torch may round a transform's last bit differently.
                assert (mine != theirs).float().mean() < 1e-3


def test_a_second_run_has_nothing_to_do_and_changes_are_seen(tmp_path):
    tracks, report = small_data_set(tmp_path)
    before = files(tmp_path / "data")
    again = prepare(tracks, tmp_path / "data", SETTINGS)
    assert again.prepared == ()
    assert len(again.kept) == 6
    assert files(tmp_path / "data") == before
    write(tmp_path / "music" / "m1.wav", sound(31_000, 99))
    new = mixture_only(tmp_path / "music", "m3", 5000, 77)
    third = prepare([*tracks, new], tmp_path / "data", SETTINGS)
    assert third.prepared == ("m1", "m3")
    assert read_manifest(tmp_path / "data") == third.manifest
    assert next(s for s in third.manifest.songs if s.id == "m1").samples == 31_000
    # Songs that are not among the tracks stay.
    fourth = prepare([new], tmp_path / "data", SETTINGS)
    assert [song.id for song in fourth.manifest.songs] == ["a", "b", "c", "d", "m1", "m2", "m3"]
    assert set(files(tmp_path / "data")) == {*fourth.manifest.shards, "manifest.json", "manifest.second.json"}


def test_bad_songs_are_listed_and_the_rest_goes_on(tmp_path):
    music = tmp_path / "music"
    good = [labelled(music, "good", 20_000, 1), labelled(music, "good2", 12_000, 2)]
    nan = sound(20_000, 3)
    nan[1, 15_000] = np.nan
    (music / "junk.wav").write_bytes(b"this is no audio")
    bad = {
        "nan": ({"mixture": (write(music / "nan.wav", nan),)}, "NaN"),
        "junk": ({"mixture": (AudioSource(music / "junk.wav"),)}, "junk"),
        "gone": ({"mixture": (AudioSource(music / "gone.wav"),)}, "gone"),
        "silent": ({"mixture": (write(music / "silent.wav", np.zeros((2, 9000), np.float32)),)}, "silent"),
        "uneven": (
            {"vocals": (write(music / "v.wav", sound(20_000, 5)),),
             "instrumental": (write(music / "i.wav", sound(11_000, 6)),)},
            r"i\.wav ends at 1\.38 s and .*v\.wav at 2\.50 s",
        ),
    }  # fmt: skip
    tracks = [good[0], *(Track(name, stems) for name, (stems, _) in bad.items()), good[1]]
    report = prepare(tracks, tmp_path / "data", SETTINGS)
    assert report.prepared == ("good", "good2")
    reasons = dict(report.failed)
    assert set(reasons) == set(bad)
    for name, (_, pattern) in bad.items():
        assert re.search(pattern, reasons[name]), reasons[name]
    data = Dataset.open(tmp_path / "data")
    for name, row in data.manifest.shards.items():
        verify(data.folder / name, row)
        stems = [stem for song in data.songs() for stem in song.stems.values() if stem.shard == name]
        assert row.rows == sum(stem.frames for stem in stems)  # nothing of the bad ones is left in the shards
    assert snr_db(without_nyquist(sound(12_000, 2)), decoded(data, "good2", "vocals")) > 36
    assert json.loads((tmp_path / "data" / "manifest.json").read_text())["songs"][0]["id"] == "good"


def test_songs_that_are_refused_count_as_done(tmp_path):
    good = [mixture_only(tmp_path, "m1", 9_000, 1), mixture_only(tmp_path, "m2", 9_000, 2)]
    silent = Track("silent", {"mixture": (write(tmp_path / "silent.wav", np.zeros((2, 9_000), np.float32)),)})
    seen: list[PrepareProgress] = []
    report = prepare([*good, silent], tmp_path / "data", SETTINGS, seen.append)
    assert [id for id, _ in report.failed] == ["silent"]
    assert [progress.songs_done for progress in seen] == sorted(progress.songs_done for progress in seen)
    assert [progress.done_s for progress in seen] == sorted(progress.done_s for progress in seen)
    assert seen[-1].songs_done == seen[-1].songs == 3
    assert seen[-1].done_s == pytest.approx(seen[-1].total_s) == 3 * 9_000 / 8000


def test_a_song_that_turns_bad_keeps_what_was_prepared(tmp_path):
    tracks, report = small_data_set(tmp_path)
    (tmp_path / "music" / "m1.wav").write_bytes(b"")
    again = prepare(tracks, tmp_path / "data", SETTINGS)
    assert dict(again.failed).keys() == {"m1"}
    assert again.manifest == report.manifest


def test_nothing_usable_is_an_error(tmp_path):
    (tmp_path / "x.wav").write_bytes(b"")
    with pytest.raises(PrepareError, match=r"none of the 1 songs could be used.*x\.wav"):
        prepare([Track("x", {"mixture": (AudioSource(tmp_path / "x.wav"),)})], tmp_path / "data", SETTINGS)
    assert not (tmp_path / "data" / "manifest.json").exists()


def song_of(root: Path, **stems: np.ndarray) -> Track:
    roles: dict[str, Role] = {"vocals": "vocals", "instrumental": "instrumental", "mixture": "mixture"}
    return Track("s", {roles[role]: (write(root / f"{role}.wav", signal),) for role, signal in stems.items()})


def test_small_differences_of_length_are_padded_with_a_note(tmp_path):
    track = song_of(tmp_path, vocals=sound(20_000, 1), instrumental=sound(20_300, 2))
    (song,) = prepare([track], tmp_path / "data", SETTINGS).manifest.songs
    assert song.samples == 20_300
    assert any("300 samples" in note for note in song.notes)


def test_two_roles_give_the_third(tmp_path):
    voice, band = sound(20_000, 1), sound(20_000, 2)
    cases: list[tuple[dict[str, np.ndarray], Role, np.ndarray]] = [
        ({"mixture": voice + band, "vocals": voice}, "instrumental", band),
        ({"mixture": voice + band, "instrumental": band}, "vocals", voice),
    ]
    for given, made, expected in cases:
        out = tmp_path / made
        (song,) = prepare([song_of(out / "music", **given)], out / "data", SETTINGS).manifest.songs
        assert any(note.startswith(f"{made} made as mixture - ") for note in song.notes)
        assert snr_db(without_nyquist(expected), decoded(Dataset.open(out / "data"), "s", made)) > 36


def test_a_mixture_that_is_not_the_sum_is_noted(tmp_path):
    voice, band = sound(20_000, 1), sound(20_000, 2)
    fits = song_of(tmp_path / "1", vocals=voice, instrumental=band, mixture=(voice + band) * np.float32(1.02))
    differs = song_of(tmp_path / "2", vocals=voice, instrumental=band, mixture=sound(20_000, 3))
    assert prepare([fits], tmp_path / "1d", SETTINGS).manifest.songs[0].notes == ()
    assert "mixture differs" in prepare([differs], tmp_path / "2d", SETTINGS).manifest.songs[0].notes[0]


def test_silent_vocals_are_allowed_and_sources_of_a_role_are_summed(tmp_path):
    parts = [sound(20_000, seed, 0.1) for seed in (1, 2)]
    sources = tuple(write(tmp_path / f"{i}.wav", part) for i, part in enumerate(parts))
    silent = write(tmp_path / "vocals.wav", np.zeros((2, 20_000), np.float32))
    report = prepare([Track("s", {"vocals": (silent,), "instrumental": sources})], tmp_path / "data", SETTINGS)
    assert report.manifest.songs[0].notes == ("vocals silent",)
    stored = decoded(Dataset.open(tmp_path / "data"), "s", "instrumental")
    assert snr_db(without_nyquist(parts[0] + parts[1]), stored) > 36


def test_a_remix_of_two_songs_brings_all_three_to_one_split(tmp_path):
    tracks = [labelled(tmp_path / "music", name, 9_000, seed) for name, seed in (("a", 1), ("b", 2), ("d", 3))]
    remix = {"vocals": tracks[0].stems["vocals"], "instrumental": tracks[1].stems["instrumental"]}
    rule = parse_list("test a\nvalid d\ntrain *", "list")
    songs = prepare([*tracks, Track("c", remix)], tmp_path / "data", SETTINGS, split=rule).manifest.songs
    assert {song.id: song.split for song in songs} == {"a": "test", "b": "test", "c": "test", "d": "valid"}
    assert [song.follows for song in songs[:3]] == [None, *[Follows(song="a", shares="audio")] * 2]
    assert songs[1].remarks == ("same audio as a; it follows its split",)


def test_splits_by_rule_and_duplicates_never_cross_them(tmp_path):
    tracks = [labelled(tmp_path / "music", name, 9000, seed) for name, seed in (("a", 1), ("b", 2), ("c", 1))]
    rule = SplitByList((("test", "a"), ("valid", "b"), ("train", "*")), "list")
    first = prepare(tracks, tmp_path / "data", SETTINGS, split=rule).manifest
    assert {song.id: song.split for song in first.songs} == {"a": "test", "b": "valid", "c": "test"}
    assert first.songs[2].follows == Follows(song="a", shares="audio")
    again = prepare(tracks, tmp_path / "data", SETTINGS, split=rule).manifest
    assert again == first
    with pytest.raises(DataError, match="no line for b"):
        prepare(tracks, tmp_path / "new", SETTINGS, split=SplitByList((("train", "[ac]"),), "list"))
    assert not (tmp_path / "new").exists()
    more = [*tracks, *(labelled(tmp_path / "music", name, 9000, ord(name)) for name in "defgh")]
    report = prepare(more, tmp_path / "data", SETTINGS, split=parse_fractions("valid=0.5"))
    shares = report.manifest
    assert {"a", "c"} <= set(report.not_moved), "who asked for other fractions is told"
    assert {song.id: song.split for song in shares.songs if song.id in "abc"} == {
        "a": "test",
        "b": "valid",
        "c": "test",
    }
    assert {song.split for song in shares.songs if song.id in "defgh"} == {"train", "valid"}, "of new ones alone"
    moved = SplitByList((("train", "a"), ("train", "*")), "list")
    assert {song.split for song in prepare(more, tmp_path / "data", SETTINGS, split=moved).manifest.songs} == {"train"}


def test_a_song_keeps_its_split_though_a_repair_was_killed(tmp_path, monkeypatch):
    """The defect: its rows were taken out of the journal by `vr data add`, which held them to be training songs."""
    folder, music = tmp_path / "data", tmp_path / "music"
    tracks = [labelled(music, name, 9000, ord(name)) for name in "ab"]
    prepare(tracks, folder, SETTINGS, split=SplitByList((("valid", "b"), ("train", "*")), "list"))
    file = next(iter(tracks[1].stems.values()))[0].path
    os.utime(file, (1, 1))
    (shard,) = (name for name in read_manifest(folder).shards if name.startswith("vocals"))
    content = bytearray((folder / shard).read_bytes())
    content[-5000] ^= 0xFF
    (folder / shard).write_bytes(content)
    with monkeypatch.context() as killed:
        killed.setattr(prepare_module, "replace_manifest", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            repair(folder, examine(folder, read_manifest(folder)))
    prepare([labelled(music, "c", 9000, 3)], folder, SETTINGS, split=parse_fractions("valid=0.1"))
    assert {song.id: song.split for song in read_manifest(folder).songs}["b"] == "valid"


def test_other_settings_than_the_data_sets_are_refused(tmp_path):
    tracks, _ = small_data_set(tmp_path)
    with pytest.raises(PrepareError, match="codec is polar8 there and complex16 here"):
        prepare(tracks, tmp_path / "data", SETTINGS.model_copy(update={"codec": "complex16"}))


def test_a_second_preparation_is_refused_while_one_runs(tmp_path):
    tracks, _ = small_data_set(tmp_path)
    with (
        filelock.FileLock(tmp_path / "data" / ".lock"),
        pytest.raises(PrepareError, match="another `vr data` command"),
    ):
        prepare(tracks, tmp_path / "data", SETTINGS)


def test_an_out_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(PrepareError, match="cannot be written"):
        prepare([mixture_only(tmp_path, "m", 900, 1)], tmp_path / "file" / "data", SETTINGS)


def test_groups_fill_shards_and_leave_no_worker_without_one():
    stamps = {f"s{i}": "x" for i in range(10)}
    seconds = dict.fromkeys(stamps, 10.0)
    sizes = [len(plan.songs) for plan in plan_groups(seconds, stamps, 100.0, 3500, workers=2)]
    assert sizes == [4, 4, 2]
    assert [len(p.songs) for p in plan_groups(seconds, stamps, 100.0, 10**9, workers=4)] == [3, 3, 3, 1]
    assert len(plan_groups(seconds, stamps, 100.0, 10**9, workers=1)) == 1
    names = [plan.name for plan in plan_groups(seconds, stamps, 100.0, 1, workers=1)]
    assert len(set(names)) == 10
