"""What was prepared by a version that read files otherwise is prepared again, and nothing else is."""

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dataprep.audio.reading_rules import RULES, rules_of
from dataprep.audio.source import AudioInfo
from dataprep.audio.tracks import Track
from dataprep.preparing.prepare import prepare
from dataprep.preparing.song import stored_roles
from dataprep.shards.manifest import SongRow, read_manifest, replace_manifest
from tests.dataprep.data import SETTINGS, labelled, mixture_only, sound, write
from vr_core.config import digest, plain

RATE_HZ = SETTINGS.stft.sample_rate_hz


def understated(path: Path, samples: int, stated: int) -> Path:
    """A float wav whose header states fewer samples than there are."""
    write(path, sound(samples, 9))
    data = path.read_bytes()
    at = data.index(b"data") + 4
    path.write_bytes(data[:at] + struct.pack("<I", stated * 8) + data[at + 4 :])
    return path


def stamp_once(track: Track) -> str:
    """A stamp as it was made before reading rules were part of it."""
    files = []
    for role, sources in sorted(track.stems.items()):
        for source in sources:
            facts = source.path.stat()
            files.append([role, str(source.path.resolve()), source.stream, facts.st_size, facts.st_mtime_ns])
    settings = SETTINGS.song_settings()
    how = plain(settings)
    for key in ("align", "keep_suspicious", "mixture_codec"):  # which came later
        del how[key]
    return digest([files, how, stored_roles(track, settings)], 16)


@pytest.fixture
def once(tmp_path: Path) -> tuple[list[Track], Path]:
    """A data set of a labelled song, and two mixtures of which one was read as far as its header says."""
    music, out = tmp_path / "music", tmp_path / "data"
    tracks = [labelled(music, "a", 9_000, 1), mixture_only(music, "b", 8_000, 2)]
    short = Track("short", {"mixture": (write(music / "short.wav", sound(20_000, 9)[:, :6_000]),)})
    prepare([*tracks, short], out, SETTINGS)
    understated(music / "short.wav", 20_000, 6_000)
    manifest = read_manifest(out)

    def as_once(row: SongRow) -> SongRow:
        track = next(t for t in [*tracks, short] if t.id == row.id)
        return row.model_copy(update={"stamp": stamp_once(track)})

    replace_manifest(out, manifest.model_copy(update={"songs": tuple(map(as_once, manifest.songs))}))
    return [*tracks, short], out


def test_only_what_is_read_otherwise_is_prepared_again(once):
    tracks, out = once
    before = {song.id: song for song in read_manifest(out).songs}
    assert before["short"].samples == 6_000
    report = prepare(tracks, out, SETTINGS)
    assert (report.prepared, report.kept) == (("short",), ("a", "b"))
    assert report.read_otherwise == (("short", ("behind-header",)),)
    assert report.new_content == ("short",)
    after = {song.id: song for song in report.manifest.songs}
    assert after["short"].samples == 20_000
    assert after["short"].notes == ("short.wav goes on behind the 0.75 s that its header states; all is read",)
    assert [after[id] for id in ("a", "b")] == [before[id] for id in ("a", "b")]
    again = prepare(tracks, out, SETTINGS)
    assert (again.prepared, again.read_otherwise, again.kept) == ((), (), ("a", "b", "short"))
    assert again.manifest == report.manifest


def test_stamps_of_files_that_are_read_as_ever_are_those_of_then(tmp_path):
    tracks = [labelled(tmp_path, "a", 9_000, 1), mixture_only(tmp_path, "b", 8_000, 2)]
    report = prepare(tracks, tmp_path / "data", SETTINGS)
    assert {song.id: song.stamp for song in report.manifest.songs} == {t.id: stamp_once(t) for t in tracks}


def test_a_song_whose_file_was_changed_is_not_said_to_be_read_otherwise(once):
    tracks, out = once
    understated(tracks[-1].stems["mixture"][0].path, 21_000, 6_000)
    report = prepare(tracks, out, SETTINGS)
    assert (report.prepared, report.read_otherwise) == (("short",), ())


def test_the_next_change_is_one_line(tmp_path, monkeypatch):
    tracks = [labelled(tmp_path, "a", 9_000, 1), mixture_only(tmp_path, "b", 8_000, 2)]
    prepare(tracks, tmp_path / "data", SETTINGS)
    rule = RULES["behind-header"]._replace(concerns=lambda info: info.samples == 8_000)
    monkeypatch.setitem(RULES, "even-lengths", rule)
    report = prepare(tracks, tmp_path / "data", SETTINGS)
    assert (report.prepared, report.read_otherwise) == (("b",), (("b", ("even-lengths",)),))
    assert report.new_content == ()
    assert prepare(tracks, tmp_path / "data", SETTINGS).prepared == ()


@pytest.mark.parametrize(
    ("info", "rules"),
    [
        ({}, ()),
        ({"stated_samples": 0}, ("behind-header",)),
        ({"refused_by": "libsndfile"}, ("other-decoder",)),
        ({"stated_samples": 5, "refused_by": "libsndfile"}, ("behind-header", "other-decoder")),
    ],
)
def test_rules_by_what_is_known_of_a_file(info, rules):
    assert rules_of(AudioInfo(44_100, 2, 10, True, "WAV PCM_16", "libsndfile", **info)) == rules


def test_floats_at_the_scale_of_integers_are_refused_and_what_was_prepared_stays(tmp_path):
    tracks = [mixture_only(tmp_path, "a", 9_000, 1), mixture_only(tmp_path, "b", 8_000, 2)]
    before = prepare(tracks, tmp_path / "data", SETTINGS).manifest
    soundfile.write(tmp_path / "b.wav", np.round(sound(8_000, 2).T * 2**15), RATE_HZ, subtype="FLOAT")
    report = prepare(tracks, tmp_path / "data", SETTINGS)
    assert "16-bit integers" in dict(report.failed)["b"]
    assert report.manifest == before
