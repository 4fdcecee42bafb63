"""Mp3 files that are joined, end in the middle, or have tags or junk behind their last frame."""

import contextlib
import struct
from pathlib import Path

import numpy as np
import pytest

from dataprep.audio.decoders import AudioSource
from dataprep.audio.files import probe, read_audio
from dataprep.audio.reading_rules import rules_of
from dataprep.errors import AudioError, TruncatedAudioError
from tests.dataprep.joined import APE, ID3V1, ID3V2, OTHER, SIGNAL, read, written
from tests.dataprep.sounds import RATE_HZ, write_coded


def mp3(folder: Path, signal: np.ndarray, **options: str) -> bytes:
    return write_coded(folder / "x.mp3", [signal], "libmp3lame", "mp3", **options).read_bytes()


def test_joined_mp3s_are_read_one_after_the_other_each_as_it_is_alone(tmp_path):
    first, second = mp3(tmp_path, SIGNAL), mp3(tmp_path, OTHER)
    bare = second[second.index(b"\xff\xfb") :]
    alone = [read_audio(AudioSource(written(tmp_path / "x.mp3", data)), RATE_HZ) for data in (first, second)]
    assert [signal.shape[1] for signal in alone] == [60_000, 40_000]
    for k, between in enumerate([b"", ID3V1, APE[20:], ID3V1 + ID3V2, bytes(500)]):
        for data in (first + between + second, first + between + bare):
            found, notes = read(written(tmp_path / f"{k}.mp3", data))
            assert np.array_equal(found, np.concatenate(alone, axis=1)), between
            assert notes == [f"{k}.mp3 goes on behind the 1.36 s that its header states; all is read"]
    found, _ = read(written(tmp_path / "three.mp3", first + second + first))
    assert np.array_equal(found, np.concatenate([*alone, alone[0]], axis=1))


def test_joined_mp3s_without_xing_headers_are_read_whole(tmp_path):
    plain, stated = mp3(tmp_path, SIGNAL, write_xing="0"), mp3(tmp_path, OTHER)
    bare = plain[plain.index(b"\xff\xfb") :]
    least = {"a": 120_000, "b": 120_000, "c": 100_000, "d": 100_000}
    for name, data in {"a": plain + plain, "b": bare + bare, "c": plain + stated, "d": stated + plain}.items():
        found, _ = read(written(tmp_path / f"{name}.mp3", data))
        assert least[name] <= found.shape[1] < least[name] + 2 * 4 * 1152


def test_an_mp3_with_more_frames_than_its_xing_header_states_is_read_whole(tmp_path):
    data = bytearray(mp3(tmp_path, SIGNAL))
    expected, notes = read(written(tmp_path / "whole.mp3", data))
    assert notes == []
    at = data.index(b"Info") + 8
    data[at : at + 8] = struct.pack(">II", 20, 0)
    found, notes = read(written(tmp_path / "a.mp3", data))
    assert np.array_equal(found, expected)
    assert notes == ["a.mp3 goes on behind the 0.52 s that its header states; all is read"]


@pytest.mark.parametrize("behind", [ID3V1, APE[20:], APE[20:] + ID3V1], ids=["id3v1", "ape", "both"])
def test_tags_behind_an_mp3_change_nothing(tmp_path, behind):
    data = mp3(tmp_path, SIGNAL)
    expected, _ = read(written(tmp_path / "a.mp3", data))
    found, notes = read(written(tmp_path / "b.mp3", data + behind))
    assert np.array_equal(found, expected)
    assert notes == []
    assert probe(AudioSource(tmp_path / "b.mp3")).parts == ()


def test_a_few_bytes_of_junk_behind_an_mp3_are_no_damage(tmp_path):
    data = mp3(tmp_path, SIGNAL)
    expected, _ = read(written(tmp_path / "a.mp3", data))
    found, notes = read(written(tmp_path / "b.mp3", data + b"\r\nhello\r\n"))
    assert np.array_equal(found, expected)
    assert notes == []


JUNK = {"a page": b"<html>404</html>\r\n" * 400, "noise": np.random.default_rng(0).bytes(20_000), "zeros": bytes(9_000),
        "a picture": b"\xff\xd8\xff\xe0" + b"\xff" * 5_000}  # fmt: skip


@pytest.mark.parametrize("junk", JUNK)
def test_much_junk_behind_an_mp3_whose_stated_frames_are_all_there_is_no_damage(tmp_path, junk):
    first, second = mp3(tmp_path, SIGNAL), mp3(tmp_path, OTHER)
    alone = [read(written(tmp_path / "x.mp3", data))[0] for data in (first, second)]
    found, notes = read(written(tmp_path / "a.mp3", first + JUNK[junk]))
    assert np.array_equal(found, alone[0])
    assert notes == []
    assert rules_of(probe(AudioSource(tmp_path / "a.mp3"))) == ()
    found, _ = read(written(tmp_path / "b.mp3", first + second + JUNK[junk]))
    assert np.array_equal(found, np.concatenate(alone, axis=1))


@pytest.mark.parametrize("junk", JUNK)
def test_junk_that_is_in_the_place_of_sound_or_before_more_of_it_stays_refused(tmp_path, junk):
    whole = mp3(tmp_path, SIGNAL)
    bare = mp3(tmp_path, SIGNAL, write_xing="0")
    for data in (whole[: len(whole) // 2] + JUNK[junk], bare[: len(bare) // 2] + JUNK[junk],
                 whole + JUNK[junk] + mp3(tmp_path, OTHER)):  # fmt: skip
        with pytest.raises(TruncatedAudioError):
            read(written(tmp_path / "a.mp3", data))


@pytest.mark.parametrize("kept", range(40))
def test_an_mp3_that_ends_in_the_header_of_a_second_one_is_read_or_refused(tmp_path, kept):
    second = mp3(tmp_path, OTHER)
    second = second[second.index(b"\xff\xfb") :]
    with contextlib.suppress(AudioError):
        read(written(tmp_path / "a.mp3", mp3(tmp_path, SIGNAL, write_xing="0") + second[: 16 + kept]))


@pytest.mark.parametrize("share", [0.4, 0.9])
def test_joined_mp3s_that_are_cut_stay_refused(tmp_path, share):
    data = mp3(tmp_path, SIGNAL) + mp3(tmp_path, OTHER)
    with pytest.raises(TruncatedAudioError):
        read(written(tmp_path / "a.mp3", data[: int(share * len(data))]))
