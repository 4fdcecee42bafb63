import os
import subprocess
import sys
from pathlib import Path

import pytest

from dataprep.audio.names import natural_key, safe_id
from dataprep.audio.tracks import Track, find_tracks
from dataprep.errors import DataError


def touch(folder: Path, *names: str) -> Path:
    """Files with these names; tracks are found by names alone."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def stems_of(track: Track, folder: Path) -> dict[str, list[str]]:
    return {
        role: [f"{source.path.relative_to(folder).as_posix()}:{source.stream}" for source in sources]
        for role, sources in track.stems.items()
    }


def by_id(folder: Path, layout: str = "auto") -> dict[str, dict[str, list[str]]]:
    return {track.id: stems_of(track, folder) for track in find_tracks([folder], layout).tracks}


def test_song_folders(tmp_path):
    touch(tmp_path, "b/vocals.ogg", "b/instrumental.ogg", "a/Vocals.WAV", "a/no_vocals.wav", "a/drums.wav")
    touch(tmp_path, "x/c/mixture.flac", "x/c/vocals.flac", "d/vocals.wav", "d/drums.wav", "d/bass.wav", "d/Kazoo.wav")
    found = find_tracks([tmp_path])
    assert found.layouts == ((tmp_path, "stems"),)
    assert found.problems == ()
    assert {track.id: stems_of(track, tmp_path) for track in found.tracks} == {
        # The whole instrumental is there, so its drums are not added to it.
        "a": {"vocals": ["a/Vocals.WAV:0"], "instrumental": ["a/no_vocals.wav:0"]},
        "b": {"vocals": ["b/vocals.ogg:0"], "instrumental": ["b/instrumental.ogg:0"]},
        "d": {"vocals": ["d/vocals.wav:0"], "instrumental": ["d/bass.wav:0", "d/drums.wav:0", "d/Kazoo.wav:0"]},
        "x-c": {"vocals": ["x/c/vocals.flac:0"], "mixture": ["x/c/mixture.flac:0"]},
    }


def test_one_song_folder_is_a_source(tmp_path):
    touch(tmp_path, "My Song/vocals.wav", "My Song/accompaniment.wav")
    assert list(by_id(tmp_path / "My Song")) == ["My_Song"]


def test_song_folders_that_cannot_be_understood_are_problems(tmp_path):
    touch(tmp_path, "good/vocals.wav", "album/one.wav", "album/two.wav", "twice/vocals.wav", "twice/vocals.flac")
    touch(tmp_path, "synonyms/mix.wav", "synonyms/mixture.wav")
    found = find_tracks([tmp_path])
    assert [track.id for track in found.tracks] == ["good"]
    assert {path.name: reason for path, reason in found.problems} == {
        "album": "no file in it is named after a stem (vocals, instrumental, mixture, drums, …)",
        "twice": "two files for the stem vocals; keep one",
        "synonyms": "two files for the stem mixture (mix.wav, mixture.wav); keep one",
    }


def test_stem_files(tmp_path):
    touch(tmp_path, "train/A - B.stem.mp4", "test/C.stem.mp4", "test/notes.wav")
    found = find_tracks([tmp_path])
    assert found.layouts[0][1] == "musdb"
    assert {t.id: stems_of(t, tmp_path) for t in found.tracks}["train-A_-_B"] == {
        "mixture": ["train/A - B.stem.mp4:0"],
        "instrumental": [f"train/A - B.stem.mp4:{k}" for k in (1, 2, 3)],
        "vocals": ["train/A - B.stem.mp4:4"],
    }
    assert [path.name for path, _ in found.problems] == ["notes.wav"]


def test_pairs_are_made_in_natural_order(tmp_path):
    touch(tmp_path, *(f"Mixtures/mix {k}.wav" for k in (10, 2, 1)), *(f"instruments/inst {k}.mp3" for k in (1, 2, 10)))
    assert by_id(tmp_path) == {
        f"mix_{k}": {"mixture": [f"Mixtures/mix {k}.wav:0"], "instrumental": [f"instruments/inst {k}.mp3:0"]}
        for k in (1, 2, 10)
    }


def test_pairs_are_made_by_name_and_what_has_no_namesake_is_named(tmp_path):
    touch(tmp_path, *(f"mixtures/{name}.wav" for name in "abc"), *(f"instruments/{name}.flac" for name in "bcd"))
    found = find_tracks([tmp_path])
    assert {track.id: stems_of(track, tmp_path) for track in found.tracks} == {
        name: {"mixture": [f"mixtures/{name}.wav:0"], "instrumental": [f"instruments/{name}.flac:0"]} for name in "bc"
    }
    assert [(path.name, why) for path, why in found.problems] == [
        ("a.wav", "no file of its name in instruments/; left out"),
        ("d.flac", "no file of its name in mixtures/; left out"),
    ]


@pytest.mark.parametrize(
    ("mixtures", "instrumentals"),
    [(["one mix", "two mix"], ["two (Instrumental)", "one (Instrumental)"]), (["A", "b"], ["B", "a"])],
)
def test_pairs_are_made_by_title(tmp_path, mixtures, instrumentals):
    touch(tmp_path, *(f"mixtures/{n}.wav" for n in mixtures), *(f"instruments/{n}.wav" for n in instrumentals))
    for track in find_tracks([tmp_path]).tracks:
        first = {path.stem[0].casefold() for sources in track.stems.values() for path in [sources[0].path]}
        assert len(first) == 1, track
        assert track.notes == ()


def test_pairs_without_any_namesake_are_made_in_order_and_that_is_said(tmp_path):
    touch(tmp_path, "mixtures/a.wav", "mixtures/b.wav", "instruments/x.wav", "instruments/y.wav")
    tracks = find_tracks([tmp_path]).tracks
    assert [(t.id, t.stems["instrumental"][0].path.name) for t in tracks] == [("a", "x.wav"), ("b", "y.wav")]
    assert tracks[0].notes == ("paired in order of the names with x.wav: no name has a namesake",)
    touch(tmp_path, "mixtures/c.wav")
    with pytest.raises(DataError, match=r"3 mixtures and 2 instrumentals cannot be paired.*namesake: mixtures/a\.wav"):
        find_tracks([tmp_path])


def test_unpaired_folders(tmp_path):
    touch(tmp_path, "vocals/a.wav", "instrumentals/a.wav", "instrumentals/deep/b.wav")
    assert by_id(tmp_path) == {
        "vocals-a": {"vocals": ["vocals/a.wav:0"]},
        "instrumentals-a": {"instrumental": ["instrumentals/a.wav:0"]},
        "instrumentals-deep-b": {"instrumental": ["instrumentals/deep/b.wav:0"]},
    }


def test_a_folder_of_songs_is_unlabelled_music(tmp_path):
    touch(tmp_path, "one.mp3", "Album/02 two.FLAC", "Album/10 ten.m4a", "cover.jpg", "Album/.hidden.wav", ".git/x.wav")
    touch(tmp_path, "Album/._02 two.FLAC")
    found = find_tracks([tmp_path])
    assert found.layouts[0][1] == "flat"
    assert [(t.id, list(t.stems)) for t in found.tracks] == [
        ("Album-02_two", ["mixture"]), ("Album-10_ten", ["mixture"]), ("one", ["mixture"])
    ]  # fmt: skip


def test_single_files_are_sources(tmp_path):
    touch(tmp_path, "a.mp3", "b.stem.mp4", "vocals.wav")
    found = find_tracks([tmp_path / "a.mp3", tmp_path / "b.stem.mp4", tmp_path / "vocals.wav"])
    assert [(t.id, set(t.stems)) for t in found.tracks] == [
        ("a", {"mixture"}), ("b", {"mixture", "instrumental", "vocals"}), ("vocals", {"mixture"})
    ]  # fmt: skip


def test_a_layout_can_be_ordered(tmp_path):
    touch(tmp_path, "a/vocals.wav", "a/instrumental.wav")
    assert set(by_id(tmp_path, "flat")) == {"a-vocals", "a-instrumental"}
    with pytest.raises(DataError, match="no song in the layout 'pairs'; .*: no mixtures/ beside an instruments/"):
        find_tracks([tmp_path], "pairs")
    with pytest.raises(DataError, match="--layout stem: unknown, expected auto or one of stems"):
        find_tracks([tmp_path], "stem")


def test_nothing_to_find(tmp_path):
    touch(tmp_path, "notes.txt", ".hidden.wav")
    with pytest.raises(DataError, match="no audio in it"):
        find_tracks([tmp_path])
    with pytest.raises(DataError, match="does not exist"):
        find_tracks([tmp_path / "gone"])
    with pytest.raises(DataError, match="no source"):
        find_tracks([])


def test_links_in_a_circle_end(tmp_path):
    touch(tmp_path, "album/a.mp3")
    (tmp_path / "album" / "again").symlink_to(tmp_path)
    (tmp_path / "broken.mp3").symlink_to(tmp_path / "gone.mp3")
    found = find_tracks([tmp_path])
    assert [track.id for track in found.tracks] == ["album-a"]
    assert [(path.name, why.split(";")[0]) for path, why in found.problems] == [("broken.mp3", "a link to nothing")]


def test_the_same_file_is_taken_once(tmp_path):
    touch(tmp_path, "m/a.mp3", "m/b.mp3")
    (tmp_path / "m" / "c.mp3").symlink_to(tmp_path / "m" / "a.mp3")
    found = find_tracks([tmp_path / "m", tmp_path / "m" / "b.mp3"])
    assert [t.id for t in found.tracks] == ["a", "b"]
    assert [(p.name, reason) for p, reason in found.problems] == [
        ("c.mp3", "the same file as that of a"), ("b.mp3", "the same file as that of b")
    ]  # fmt: skip


def test_equal_ids_are_told_apart_and_the_first_source_keeps_its_own(tmp_path):
    touch(tmp_path, "p/song.mp3", "p/song-2.mp3", "q/song.mp3", "q/SONG.flac", "q/s?ng.mp3", "q/s*ng.mp3")
    found = find_tracks([tmp_path / "p", tmp_path / "q"])
    ids = [t.id for t in found.tracks]
    assert ids[:2] == [t.id for t in find_tracks([tmp_path / "p"]).tracks] == ["song", "song-2"]
    assert len({i.casefold() for i in ids}) == 6
    assert ids == [t.id for t in find_tracks([tmp_path / "p", tmp_path / "q"]).tracks]


def test_names_are_made_safe():
    assert safe_id(["Ä/..", "it's [live]*?"]) == "Ä_..-it_s_live"
    assert safe_id(["…"]) == "song"
    assert len(safe_id(["x" * 500])) == 100
    assert sorted(["b2", "b10", "a", "B1", "10", "9"], key=natural_key) == ["9", "10", "a", "B1", "b2", "b10"]


def test_a_track_called_guitar_makes_no_stems_of_an_album(tmp_path):
    for name in ("A/One.wav", "A/Two.wav", "B/Guitar.wav", "B/Hello.wav", "B/World.wav"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    found = find_tracks([tmp_path])
    assert found.layouts[0][1] == "flat"
    assert len(found.tracks) == 5


def test_names_that_are_not_utf8_are_passed_over_and_odd_ones_are_not(tmp_path):
    for name in (b"new\nline.flac", b"bad\xff\xfe.flac", "Übung 1.flac".encode()):
        Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))).write_bytes(b"")
    found = find_tracks([tmp_path])
    assert [track.id for track in found.tracks] == ["new_line", "Übung_1"]
    assert found.problems == ((tmp_path / "bad\\xff\\xfe.flac", "its name is not UTF-8; rename it"),)
    str(found.problems[0][0]).encode()


MANY = """
import resource, sys
from pathlib import Path
from dataprep.audio.tracks import find_tracks
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = find_tracks([Path(sys.argv[1])])
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print([track.id for track in found.tracks], len(found.problems), grown / 1024)
"""


def test_songs_are_found_in_a_folder_of_very_many_files(tmp_path):
    """A tenth of a million other files: their names cost memory, their bytes are not read."""
    for part in range(100):
        folder = tmp_path / f"part{part}"
        folder.mkdir()
        for number in range(1000):
            os.mknod(folder / f"{number}.txt")
    touch(tmp_path, "part42/deep/a song.wav")
    done = subprocess.run([sys.executable, "-c", MANY, tmp_path], capture_output=True, text=True, check=True)
    ids, problems, grown_mib = done.stdout.rsplit(" ", 2)
    assert (ids, int(problems)) == ("['part42-deep-a_song']", 0)
    assert float(grown_mib) < 300
