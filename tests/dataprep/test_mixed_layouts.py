"""Sources that hold more than one layout, and songs that are called after stems: one odd folder decides nothing."""

import pytest

from dataprep.audio.tracks import find_tracks
from dataprep.errors import DataError


def lay_out(folder, names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def found(folder):
    return {
        track.id: {
            role: sorted(str(source.path.relative_to(folder)) for source in sources)
            for role, sources in track.stems.items()
        }
        for track in find_tracks([folder]).tracks
    }


SONGS = [f"{song}/{stem}.wav" for song in ("Abba", "Cafe", "Dido") for stem in ("vocals", "drums", "bass")]


def test_songs_in_folders_of_stems_beside_song_folders_do_not_hide_these(tmp_path):
    lay_out(tmp_path, [*SONGS, "Live/vocals/Live 2019.wav", "Live/drums/Live 2019.wav"])
    songs = found(tmp_path)
    assert {"Abba", "Cafe", "Dido"} <= set(songs)
    assert songs["Abba"] == {"vocals": ["Abba/vocals.wav"], "instrumental": ["Abba/bass.wav", "Abba/drums.wav"]}


def test_pairs_beside_song_folders_do_not_hide_these(tmp_path):
    lay_out(tmp_path, [*SONGS, "mixtures/a.wav", "instruments/a.wav"])
    assert {"Abba", "Cafe", "Dido"} <= set(found(tmp_path))


def test_pairs_one_level_down_are_pairs(tmp_path):
    """The defect: instrumentals were taken as whole songs, and --layout pairs said that they lie in neither folder."""
    lay_out(
        tmp_path, [f"{db}/{side}/{song}.wav" for db in "AB" for side in ("mixtures", "instruments") for song in "xy"]
    )
    lay_out(tmp_path, ["C/mixtures/p.wav", "C/Instrumentals/q.wav", "C/Instrumentals/r.wav", "A/notes.wav", "B.wav"])
    assert found(tmp_path) == {
        f"{db}-{song}": {"mixture": [f"{db}/mixtures/{song}.wav"], "instrumental": [f"{db}/instruments/{song}.wav"]}
        for db in "AB" for song in "xy"
    }  # fmt: skip
    problems = {str(path.relative_to(tmp_path)): why for path, why in find_tracks([tmp_path]).problems}
    assert set(problems) == {"C", "A/notes.wav", "B.wav"}
    assert problems["C"].startswith("1 mixtures and 2 instrumentals cannot be paired; without a namesake: mixtures/p")


def test_pairs_at_the_top_are_those_of_the_source(tmp_path):
    lay_out(tmp_path, ["mixtures/a.wav", "instruments/a.wav", "old/mixtures/b.wav", "old/instruments/b.wav"])
    assert list(found(tmp_path)) == ["a"]


@pytest.mark.parametrize("odd", ["junk.stem.mp4", "Queen/x.stem.mp4"])
def test_one_file_of_musdb_among_other_music_is_asked_about(tmp_path, odd):
    lay_out(tmp_path, [odd, *(f"Queen/{i} song.mp3" for i in range(5))])
    with pytest.raises(DataError, match=r"only 1 of 6 files make songs in the layout musdb.*--layout flat"):
        find_tracks([tmp_path])


def test_songs_that_are_called_after_stems_are_songs(tmp_path):
    lay_out(tmp_path, [f"{song}/{stem}.wav" for song in ("Voices", "Drums", "Hello")
                       for stem in ("vocals", "instrumental")])  # fmt: skip
    songs = found(tmp_path)
    assert set(songs) == {"Voices", "Drums", "Hello"}
    assert songs["Voices"] == {"vocals": ["Voices/vocals.wav"], "instrumental": ["Voices/instrumental.wav"]}


def test_a_folder_of_songs_never_becomes_one_song(tmp_path):
    lay_out(tmp_path / "library", [
        *(f"songs/{name}" for name in SONGS), "songs/Only vocals/vocals.wav",
        "songs/karaoke/instruments/Song A.wav", "songs/karaoke/instruments/Song B.wav",
    ])  # fmt: skip
    songs = found(tmp_path / "library")
    assert {"songs-Abba", "songs-Cafe", "songs-Dido"} <= set(songs)
    for stems in songs.values():
        files = [path for paths in stems.values() for path in paths]
        assert len({path.rpartition("/")[0] for path in files}) == 1, "stems of one song come from one folder"


def test_a_folder_of_songs_of_which_one_is_called_with_mix_stays_one(tmp_path):
    lay_out(tmp_path, [f"songs/{song}/{stem}.wav" for song in ("Cafe", "With Mix", "Voices")
                       for stem in ("vocals", "instrumental", "Full Mix")])  # fmt: skip
    assert set(found(tmp_path)) == {"songs-Cafe", "songs-With_Mix", "songs-Voices"}


def test_results_of_a_separation_beside_some_songs_are_left_out_in_one_line(tmp_path):
    """The defect: one song that was separated made the whole collection be asked about."""
    songs = [
        "Album/01 - Eins.mp3",
        "Album/02 夜.flac",
        "Album/03.wav",
        "Album/04.wav",
        "Album/04.m4a",
        "x.mp3",
        "y.mp3",
    ]
    results = ["Album/01_-_Eins.vocals.wav", "Album/01_-_Eins.instrumental.wav", "Album/04-2.vocals.flac",
               "Album/04-2.instrumental.flac"]  # fmt: skip
    lay_out(tmp_path, [*songs, *results])
    tracks = find_tracks([tmp_path])
    assert tracks.layouts[0][1] == "flat"
    assert sorted(song["mixture"][0] for song in found(tmp_path).values()) == sorted(songs)
    ((where, why),) = tracks.problems
    assert where == tmp_path / "Album/01_-_Eins.instrumental.wav"
    assert why.startswith("written by a separation beside its song, and so 3 more; --layout stems")
    assert set(find_tracks([tmp_path], "stems").tracks[0].stems) == {"vocals", "instrumental"}


@pytest.mark.parametrize(
    "beside", [["a.vocals.wav"], ["q.vocals.wav", "q.instrumental.wav"], ["a.vocals.wav", "a.instrumental.flac"]],
    ids=["one side", "no song", "two formats"],
)  # fmt: skip
def test_stems_that_are_no_results_beside_their_song_are_asked_about(tmp_path, beside):
    lay_out(tmp_path, [*(f"{name}.mp3" for name in "abcdef"), *beside])
    with pytest.raises(DataError, match="are stems by their names"):
        find_tracks([tmp_path])
