"""What a folder holds: audio of any suffix, what is passed over in one count, and what cannot be read."""

import io
import os
from pathlib import Path

import pytest
import soundfile

from dataprep.audio import walk as walk_module
from dataprep.audio.tracks import find_tracks
from dataprep.audio.walk import walk
from dataprep.errors import DataError
from tests.dataprep.data import sound


def coded(kind: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, sound(2_000, 1).T, 8000, format=kind)
    return buffer.getvalue()


SOUNDS = ("WAV", "RF64", "AIFF", "FLAC", "OGG", "MP3", "CAF", "AU", "W64")
OTHER_HEADS = {
    "M4A": b"\0\0\0\x18ftypM4A \0\0", "Matroska": b"\x1aE\xdf\xa3\x01\0\0\0",
    "ASF": b"0&\xb2u\x8ef\xcf\x11\xa6\xd9", "WavPack": b"wvpk\0\0",
}  # fmt: skip


@pytest.mark.parametrize("kind", [*SOUNDS, *OTHER_HEADS])
@pytest.mark.parametrize("name", ["a song", "a song.part1", "a song.bin"])
def test_audio_is_found_by_its_first_bytes_where_the_suffix_says_nothing(tmp_path, kind, name):
    (tmp_path / name).write_bytes(OTHER_HEADS.get(kind) or coded(kind))
    assert walk(tmp_path).files == [tmp_path / name]


@pytest.mark.parametrize(
    "head", [b"", b"\xff", b"text", "\ufeffUTF-16".encode("utf-16"), b"PK\3\4", b"%PDF-1.7", b"\0" * 12]
)
def test_what_begins_otherwise_is_counted(tmp_path, head):
    (tmp_path / "file").write_bytes(head)
    (tmp_path / "file.bin").write_bytes(head)
    seen = walk(tmp_path)
    assert (seen.files, seen.passed_over) == ([], {"without a suffix": 1, ".bin": 1})


def test_other_files_are_counted_by_suffix_and_junk_is_not(tmp_path):
    for name in ("a.wav", "cover.JPG", "b/cover.jpg", "b/list.m3u", ".DS_Store", "._a.wav", "Thumbs.db", "Desktop.ini",
                 ".hidden.wav", "__MACOSX/a.wav", "@eaDir/a.wav", ".git/x.txt"):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"RIFF")
    seen = walk(tmp_path)
    assert [path.name for path in seen.files] == ["a.wav"]
    assert seen.passed_over == {".jpg": 2, ".m3u": 1}
    assert find_tracks([tmp_path]).passed_over == {".jpg": 2, ".m3u": 1}


@pytest.mark.parametrize("name", [".hidden.wav", "cover.jpg", "no suffix", "live.vocals.wav"])
def test_a_file_that_is_named_is_taken_whatever_it_is_called(tmp_path, name):
    (tmp_path / name).touch()
    (track,) = find_tracks([tmp_path / name]).tracks
    assert track.stems["mixture"][0].path == tmp_path / name


def test_a_folder_that_cannot_be_read_does_not_stop_the_others(tmp_path, monkeypatch):
    for name in ("good/a.wav", "closed/b.wav"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    look = os.scandir

    def scandir(path):
        if Path(path).name == "closed":  # who runs tests as root may read everything
            raise PermissionError(13, "Permission denied", str(path))
        return look(path)

    monkeypatch.setattr(walk_module.os, "scandir", scandir)
    found = find_tracks([tmp_path])
    assert [track.id for track in found.tracks] == ["good-a"]
    assert found.problems == (
        (tmp_path / "closed", "the folder cannot be read (Permission denied); check its permissions"),
    )


def test_a_source_that_cannot_be_used_does_not_stop_the_others(tmp_path):
    for name in ("good/a.wav", "bad/vocals/a.wav", "bad/other/x.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "void").mkdir()
    sources = [tmp_path / name for name in ("gone", "void", "bad", "good")]
    found = find_tracks(sources)
    assert [track.id for track in found.tracks] == ["a"]
    assert [path.name for path, _ in found.problems] == ["gone", "void", "bad"]
    assert [why.split(";")[0].split(" in it")[0] for _, why in found.problems][:2] == ["does not exist", "no audio"]


@pytest.mark.parametrize("name", ["pipe", "pipe.wav", "pipe.bin"])
def test_a_pipe_is_not_opened(tmp_path, name):
    os.mkfifo(tmp_path / name)
    (tmp_path / "a.wav").touch()
    seen = walk(tmp_path)
    assert seen.files == [tmp_path / "a.wav"]
    assert seen.problems == [(tmp_path / name, "a pipe or a device, and no file")]
    with pytest.raises(DataError, match="is a pipe or a device"):
        walk(tmp_path / name)


@pytest.mark.parametrize("suffix", [".part", ".crdownload", ".download", ".tmp", ".bak", ".!ut"])
def test_half_a_download_is_no_song(tmp_path, suffix):
    (tmp_path / f"b.wav{suffix}").write_bytes(coded("WAV"))
    seen = walk(tmp_path)
    assert (seen.files, seen.passed_over) == ([], {suffix: 1})


def test_links_to_nothing_and_in_a_circle_are_named(tmp_path):
    for name, to in (("song.mp3", "gone.mp3"), ("song", "gone"), ("a.wav", "b.wav"), ("b.wav", "a.wav")):
        (tmp_path / name).symlink_to(tmp_path / to)
    (tmp_path / "cover.jpg").symlink_to(tmp_path / "gone.jpg")
    seen = walk(tmp_path)
    assert {path.name: why.split(";")[0] for path, why in seen.problems} == {
        "song.mp3": "a link to nothing", "song": "a link to nothing",
        "a.wav": "a link in a circle", "b.wav": "a link in a circle",
    }  # fmt: skip
    assert (seen.files, seen.passed_over) == ([], {".jpg": 1})


def test_a_file_that_may_not_be_read_is_not_called_no_audio(tmp_path, monkeypatch):
    for name in ("song", "song.wav"):
        (tmp_path / name).touch()

    def closed(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(walk_module, "looks_like_audio", closed)
    seen = walk(tmp_path)
    assert seen.problems == [(tmp_path / "song", "cannot be read (Permission denied); check its permissions")]
    assert (seen.files, seen.passed_over) == ([tmp_path / "song.wav"], {})
