"""Names of results: what is replaced, what is kept, what fits into a file system."""

import errno
import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.scoring import results
from jobs.scoring.results import FILE, SCRATCH, SongFile, choose_name, fitting, place, read_record, scratch
from jobs.scoring.songs import find_songs
from tests.jobs.separations import visible, write_song
from vr_core.errors import StorageError
from vr_core.small_files import DamagedFile

SONG = SongFile("/music/a/intro.wav", "a" * 64)
OTHER = SongFile("/music/b/intro.wav", "b" * 64)


def put(folder: Path, song: SongFile, content: str, name: str = "intro") -> list[str]:
    """Names of the results after placing them."""
    with scratch(folder) as made:
        files = {ending: made / f"x{ending}" for ending in (".instrumental.wav", ".vocals.wav")}
        for ending, path in files.items():
            path.write_text(content + ending)
        return [path.name for path in place(folder, song, name, files).files.values()]


def both(name: str) -> list[str]:
    return [f"{name}.instrumental.wav", f"{name}.vocals.wav"]


def test_the_same_song_replaces_its_results_and_another_does_not(tmp_path):
    assert put(tmp_path, SONG, "first") == both("intro")
    assert put(tmp_path, OTHER, "other") == both("intro-2")
    assert put(tmp_path, SONG, "second") == both("intro")
    assert put(tmp_path, OTHER, "other again") == both("intro-2")
    assert put(tmp_path, SongFile("/usb/c/intro.wav", "c" * 64), "third") == both("intro-3")
    assert (tmp_path / "intro.vocals.wav").read_text() == "second.vocals.wav"
    assert (tmp_path / "intro-2.vocals.wav").read_text() == "other again.vocals.wav"


def test_a_song_is_the_same_by_its_content_wherever_it_lies(tmp_path):
    put(tmp_path, SONG, "first")
    assert put(tmp_path, SongFile("/moved/intro.wav", SONG.sha256), "second") == both("intro")


def test_a_song_keeps_the_name_of_its_results_however_it_is_named(tmp_path):
    """The defect: by itself it was called `intro`, in its album `album-intro`, and had results twice."""
    assert put(tmp_path, SONG, "in its album", "album-intro") == both("album-intro")
    assert put(tmp_path, SONG, "by itself") == both("album-intro")
    assert (tmp_path / "album-intro.vocals.wav").read_text() == "by itself.vocals.wav"
    assert put(tmp_path, OTHER, "other") == both("intro")  # of the name that it has left free
    assert put(tmp_path, SONG, "in its album", "album-intro") == both("album-intro")
    (tmp_path / "album-intro.vocals.wav").write_text("edited by hand")
    assert put(tmp_path, SONG, "kept beside it") == both("intro-2")
    assert put(tmp_path, SONG, "in its album", "album-intro") == both("intro-2")


def test_a_song_keeps_the_name_of_whichever_stems_it_has_results_of(tmp_path):
    """Also of one with a dot in it, which ends the name of a picture too."""
    with scratch(tmp_path) as made:
        files = {ending: made / f"x{ending}" for ending in (".drums.wav", ".png")}
        for path in files.values():
            path.write_text("x")
        placed = place(tmp_path, SONG, "album-vol.1", files)
    assert placed.files[".drums.wav"].name == "album-vol.1.drums.wav"
    assert put(tmp_path, SONG, "by itself") == both("album-vol.1")


def test_a_copy_of_a_song_under_another_name_has_results_of_its_own(tmp_path):
    put(tmp_path, SONG, "first", "album-intro")
    assert put(tmp_path, SongFile("/music/copy.wav", SONG.sha256), "second", "copy") == both("copy")


def test_another_song_in_the_same_file_replaces_nothing(tmp_path):
    """Such as every `track01.wav` of a card that is used again."""
    put(tmp_path, SONG, "first")
    assert put(tmp_path, SongFile(SONG.path, "f" * 64), "second") == both("intro-2")
    assert (tmp_path / "intro.vocals.wav").read_text() == "first.vocals.wav"


def edited(folder: Path) -> None:
    (folder / "intro.vocals.wav").write_text("edited by hand")


def unknown(folder: Path) -> None:
    (folder / FILE).unlink()


def damaged(folder: Path) -> None:
    (folder / FILE).write_bytes((folder / FILE).read_bytes().replace(b"intro", b"Intro", 1))


def no_json(folder: Path) -> None:
    (folder / FILE).write_bytes(b"\0\1\2")


def other_keys(folder: Path) -> None:
    (folder / FILE).write_text('{"version": 2}')


def linked(folder: Path) -> None:
    (folder / "intro.vocals.wav").rename(folder / "kept.wav")
    (folder / "intro.vocals.wav").symlink_to("kept.wav")


@pytest.mark.parametrize("change", [edited, unknown, damaged, no_json, other_keys, linked])
def test_what_is_not_known_to_be_of_the_song_is_never_replaced(tmp_path, change):
    put(tmp_path, SONG, "first")
    change(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in visible(tmp_path)}
    assert put(tmp_path, SONG, "second") == both("intro-2")
    assert before.items() <= {name: (tmp_path / name).read_bytes() for name in visible(tmp_path)}.items()
    assert put(tmp_path, SONG, "third") == both("intro-2")


@pytest.mark.parametrize("change", [damaged, no_json, other_keys])
def test_a_damaged_record_is_said_and_the_next_one_is_right(tmp_path, change):
    put(tmp_path, SONG, "first")
    change(tmp_path)
    with pytest.raises(DamagedFile, match=r"vr-separated\.json"):
        read_record(tmp_path)
    found = (tmp_path / FILE).read_bytes()
    put(tmp_path, SONG, "second")
    assert set(read_record(tmp_path).files) == set(both("intro-2"))
    assert (tmp_path / f"{FILE}.damaged").read_bytes() == found
    (tmp_path / FILE).write_bytes(b"damaged once more")
    put(tmp_path, SONG, "third")
    assert (tmp_path / f"{FILE}.damaged").read_bytes() == found
    assert (tmp_path / f"{FILE}.damaged-2").read_bytes() == b"damaged once more"


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EACCES])
def test_a_record_that_cannot_be_read_now_is_not_replaced(tmp_path, monkeypatch, code):
    put(tmp_path, SONG, "first")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def failing(path: Path) -> dict[str, object]:
        raise OSError(code, os.strerror(code), str(path))

    with monkeypatch.context() as patched:
        patched.setattr(results, "read_json", failing)
        with pytest.raises(StorageError, match=r"\.vr-separated\.json: cannot be read \("):
            put(tmp_path, SONG, "second")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert put(tmp_path, SONG, "third") == both("intro")


def test_the_record_forgets_results_that_are_gone(tmp_path):
    put(tmp_path, SONG, "first")
    put(tmp_path, OTHER, "other", "outro")
    (tmp_path / "intro.vocals.wav").unlink()
    put(tmp_path, OTHER, "other", "outro")
    assert set(read_record(tmp_path).files) == {"intro.instrumental.wav", *both("outro")}


def test_a_lone_file_of_the_same_name_keeps_the_whole_set_away(tmp_path):
    (tmp_path / "intro.vocals.wav").mkdir()
    assert put(tmp_path, SONG, "first") == both("intro-2")
    assert visible(tmp_path) == sorted([*both("intro-2"), "intro.vocals.wav"])


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1), st.integers(8, 60))
def test_a_name_is_cut_between_letters(name, most_bytes):
    cut = fitting(name, most_bytes)
    assert len(cut.encode()) <= most_bytes
    if len(name.encode()) <= most_bytes:
        assert cut == name
    elif cut != "song":
        assert name.startswith(cut)
        assert len(cut) < len(name)


def test_a_letter_keeps_its_marks_or_goes_with_them():
    hindi = "कि" * 20  # a letter and its vowel sign, three bytes each
    assert fitting(hindi, 63) == "कि" * 10
    assert fitting(hindi, 62) == "कि" * 10
    decomposed = unicodedata.normalize("NFD", "é" * 10)
    assert fitting(decomposed, 4) == decomposed[:2]


def test_long_titles_that_begin_alike_stay_two(tmp_path):
    long = "歌" * 90
    assert os.pathconf(tmp_path, "PC_NAME_MAX") == 255
    names = [put(tmp_path, SONG, "a", long + "一"), put(tmp_path, OTHER, "b", long + "二")]
    assert names[0] != names[1]
    assert put(tmp_path, OTHER, "c", long + "二") == names[1]
    assert names[1][0].split(".")[0] == names[0][0].split(".")[0] + "-2"
    assert len(visible(tmp_path)) == 4


def test_the_first_free_name_is_chosen():
    assert choose_name("a", lambda name: True) == "a"
    assert choose_name("a", lambda name: name not in {"a", "a-2"}) == "a-3"


def test_a_killed_process_leaves_nothing_for_long_and_one_at_work_is_left_alone(tmp_path):
    (tmp_path / f"{SCRATCH}dead").mkdir()
    (tmp_path / f"{SCRATCH}dead" / "vocals.wav").write_bytes(b"half")
    with scratch(tmp_path) as first:
        (first / "a").write_text("at work")
        with scratch(tmp_path) as second:
            assert {path.name for path in tmp_path.iterdir()} == {first.name, second.name}
        assert (first / "a").read_text() == "at work"
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_no_folder_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match=r"file: cannot be written to .*--out"), scratch(tmp_path / "file"):
        pass


def test_of_a_folder_results_are_passed_over_and_what_is_only_called_so_is_a_song(tmp_path):
    for name in ("a.wav", "a.instrumental.wav", "a.vocals.wav", "live.vocals.wav", "b.vocals.flac", "vocals.wav"):
        write_song(tmp_path / name, seconds=0.1)
    put(tmp_path, SONG, "first", "kept")
    (tmp_path / "kept.instrumental.wav").unlink()
    found = find_songs([tmp_path])
    assert [song.path.name for song in found.songs] == ["a.wav", "b.vocals.flac", "live.vocals.wav", "vocals.wav"]
    assert sorted(path.name for path in found.passed_over) == [
        "a.instrumental.wav", "a.vocals.wav", "kept.vocals.wav",
    ]  # fmt: skip
    assert not found.problems


def test_a_named_file_is_a_song_whatever_it_is_called_and_whatever_its_folder_is(tmp_path):
    for name in ("a.instrumental.wav", "a.vocals.wav", "noise", "noise.xyz", ".hidden.wav", "._a.wav"):
        write_song(tmp_path / "a.wav", seconds=0.1).tofile(tmp_path / name)
    named = [tmp_path / name for name in ("a.vocals.wav", "noise", "noise.xyz", ".hidden.wav", "._a.wav")]
    found = find_songs([tmp_path, *named])
    assert {song.path for song in found.songs} == {tmp_path / "a.wav", *named}
    assert [path.name for path in found.passed_over] == ["a.instrumental.wav"]
    assert find_songs([*named, tmp_path]).songs[: len(named)] == find_songs(named).songs


def test_a_source_that_cannot_be_used_is_a_problem_and_the_others_are_songs(tmp_path):
    write_song(tmp_path / "a.wav", seconds=0.1)
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "gone.wav").symlink_to("nowhere.wav")
    bad = [
        tmp_path / "missing.wav", tmp_path / "empty", tmp_path / "pipe.wav", tmp_path / "gone.wav",
        Path("x" * 5000 + ".wav"), Path(os.fsdecode(bytes(tmp_path) + b"/\xff.wav")), Path("a\0b.wav"),
    ]  # fmt: skip
    found = find_songs([*bad, tmp_path / "a.wav", tmp_path / "a.wav", tmp_path])
    assert [song.path.name for song in found.songs] == ["a.wav"]
    assert [path for path, _ in found.problems] == bad
    assert all(str(path)[:100] in why for path, why in found.problems if "\0" not in str(path))


def test_links_to_a_song_are_no_problem_and_no_second_song(tmp_path):
    write_song(tmp_path / "album" / "a.wav", seconds=0.1)
    (tmp_path / "album" / "b.wav").symlink_to("a.wav")
    (tmp_path / "c.wav").symlink_to("album/a.wav")
    found = find_songs([tmp_path / "c.wav", tmp_path / "album"])
    assert [song.path.name for song in found.songs] == ["c.wav"]
    assert found.problems == ()
