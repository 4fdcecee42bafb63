"""Files that go on behind what their headers state, and what only looks like it."""

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dataprep.audio.decoders import AudioSource
from dataprep.audio.decoding import iff
from dataprep.audio.files import probe, read_audio
from dataprep.audio.reading_rules import rules_of
from dataprep.errors import AudioError, EmptyAudioError, TruncatedAudioError
from tests.dataprep.joined import APE, BOTH, ID3V1, ID3V2, OTHER, SIGNAL, STATED, CountedPath, read, written
from tests.dataprep.sounds import RATE_HZ, make, music, write_as


def chunk(name: bytes, data: bytes, order: str = "<") -> bytes:
    return name + struct.pack(f"{order}I", len(data)) + data + bytes(len(data) % 2)


LIST = chunk(b"LIST", b"INFOISFT" + bytes(12)) + chunk(b"id3 ", b"ID3" + bytes(17))


def wav(folder: Path, signal: np.ndarray = SIGNAL, subtype: str = "PCM_16") -> bytes:
    soundfile.write(folder / "whole.wav", signal.T, RATE_HZ, subtype=subtype)
    return (folder / "whole.wav").read_bytes()


def stating(data: bytes, count: int, name: bytes = b"data", order: str = "<") -> bytes:
    """The file with another length in its chunk of samples."""
    at = data.index(name) + 4
    return data[:at] + struct.pack(f"{order}I", count) + data[at + 4 :]


def flac(folder: Path, signal: np.ndarray = SIGNAL, subtype: str = "PCM_16") -> bytes:
    soundfile.write(folder / "whole.flac", signal.T, RATE_HZ, subtype=subtype)
    return (folder / "whole.flac").read_bytes()


def stating_samples(data: bytes, samples: int) -> bytes:
    """A flac file with another number of samples in its header."""
    return data[:22] + struct.pack(">I", samples) + data[26:]


@pytest.mark.parametrize("behind", [b"", LIST, LIST[:-1], ID3V1], ids=["nothing", "chunks", "a cut chunk", "tag"])
@pytest.mark.parametrize("stated", [0, STATED])
@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "FLOAT"])
def test_a_wav_is_read_to_its_end_whatever_length_it_states(tmp_path, subtype, stated, behind):
    whole = wav(tmp_path, subtype=subtype)
    expected = read_audio(AudioSource(tmp_path / "whole.wav"), RATE_HZ)
    frame_bytes = 2 * {"PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "FLOAT": 4}[subtype]
    path = written(tmp_path / "a.wav", stating(whole, stated * frame_bytes) + behind)
    found, notes = read(path)
    assert np.array_equal(found, expected)
    assert notes == [f"a.wav goes on behind the {stated / RATE_HZ:.2f} s that its header states; all is read"]
    info = probe(AudioSource(path))
    assert (info.samples, info.stated_samples) == (60_000, stated)


@pytest.mark.parametrize(
    "behind", [LIST, ID3V1, ID3V2, APE[20:], bytes(4096), b"\r\n", chunk(b"Xyz ", b"odd")],
    ids=["chunks", "id3v1", "id3v2", "ape", "zeros", "newline", "unknown"],
)  # fmt: skip
def test_what_follows_the_samples_of_a_wav_is_no_sound(tmp_path, behind):
    found, notes = read(written(tmp_path / "a.wav", wav(tmp_path) + behind))
    assert np.array_equal(found, read_audio(AudioSource(tmp_path / "whole.wav"), RATE_HZ))
    assert notes == []


INFO = chunk(b"LIST", b"INFOISFT" + struct.pack("<I", 114) + b"m" * 114)
ANNO = chunk(b"ANNO", b"made here, with care", ">")


NO_SOUND = {
    "a byte too few": INFO[:-1],
    "an unknown chunk": chunk(b"Xyz ", bytes(range(128, 168)))[:-1],
    "sixty too few": INFO[:-60],
    "one too many": INFO + b"\1",
    "bext": chunk(b"bext", bytes(range(256)) * 3)[:-1],
    "xmp": chunk(b"_PMX", bytes(9_000))[:-1],
    "a page": b"<html>No such file: \xc3\xbc</html>\r\n" * 9,
    "a log": b"log\t1.\n" * 5_000,
    "padded text": b"exported by a program" + bytes(4_000),
}


@pytest.mark.parametrize("behind", NO_SOUND.values(), ids=NO_SOUND)
def test_a_chunk_that_is_cut_and_text_are_no_sound(tmp_path, behind):
    found, notes = read(written(tmp_path / "a.wav", wav(tmp_path) + behind))
    assert np.array_equal(found, read_audio(AudioSource(tmp_path / "whole.wav"), RATE_HZ))
    assert notes == []
    assert rules_of(probe(AudioSource(tmp_path / "a.wav"))) == ()  # read as ever, so that its stamp stays


def test_the_cut_chunk_of_an_aiff_is_no_sound(tmp_path):
    whole = make(tmp_path, "aiff", SIGNAL).read_bytes()
    found, notes = read(written(tmp_path / "a.aiff", whole + ANNO[:-1]))
    assert np.array_equal(found, read_audio(AudioSource(tmp_path / "song.aiff"), RATE_HZ))
    assert notes == []


def test_zeros_in_the_place_of_chunks_are_not_walked_through(tmp_path):
    path = CountedPath(written(tmp_path / "a.wav", wav(tmp_path)[:36] + bytes(2**20)))
    assert iff.parts(path) == ()
    assert path.reads < 20


def test_an_odd_number_of_bytes_is_followed_by_one_more_or_not(tmp_path):
    whole = wav(tmp_path, SIGNAL[:1, :1001], "PCM_U8")
    for name, data in (("a.wav", whole + LIST), ("b.wav", whole[: 44 + 1001] + LIST)):
        found, notes = read(written(tmp_path / name, data))
        assert (found.shape, notes) == ((2, 1001), [])
    found, notes = read(written(tmp_path / "c.wav", whole + whole))
    assert (found.shape, len(notes)) == ((2, 2002), 1)


@pytest.mark.parametrize("kind", ["wav", "aiff", "flac", "ogg"])
def test_files_that_were_joined_are_read_one_after_the_other(tmp_path, kind):
    parts = [make(tmp_path, kind, signal).read_bytes() for signal in (SIGNAL, OTHER)]
    alone = [read_audio(AudioSource(written(tmp_path / f"{k}.{kind}", part)), RATE_HZ) for k, part in enumerate(parts)]
    found, notes = read(written(tmp_path / f"a.{kind}", b"".join(parts)))
    assert np.array_equal(found, np.concatenate(alone, axis=1))
    assert notes == [f"a.{kind} goes on behind the 1.36 s that its header states; all is read"]


@pytest.mark.parametrize(("kind", "order"), [("wav", "<"), ("aiff", ">")])
@pytest.mark.parametrize("length", [16, 17])
def test_chunks_between_files_that_were_joined_hide_none_of_them(tmp_path, kind, order, length):
    parts = [make(tmp_path, kind, signal).read_bytes() + chunk(name, b"m" * length, order)
             for signal, name in ((SIGNAL, b"LIST"), (OTHER, b"Xyz "))]  # fmt: skip
    alone = [read_audio(AudioSource(written(tmp_path / f"{k}.{kind}", part)), RATE_HZ) for k, part in enumerate(parts)]
    padding = length % 2  # which some writers forget
    for data in (parts[0] + parts[1], parts[0][: len(parts[0]) - padding] + parts[1]):
        found, notes = read(written(tmp_path / f"a.{kind}", data))
        assert np.array_equal(found, np.concatenate(alone, axis=1))
        assert notes == [f"a.{kind} goes on behind the 1.36 s that its header states; all is read"]


def test_joined_opus_is_read_whole(tmp_path):
    parts = [write_as(tmp_path / "x.opus", s, "libopus", "opus", "flt", 48_000).read_bytes() for s in (SIGNAL, OTHER)]
    alone = [read_audio(AudioSource(written(tmp_path / f"{k}.opus", part)), 48_000) for k, part in enumerate(parts)]
    found, notes = read(written(tmp_path / "a.opus", b"".join(parts)))
    assert found.shape == BOTH.shape
    assert np.allclose(found, np.concatenate(alone, axis=1), atol=1e-5)
    assert len(notes) == 1


def test_files_of_two_rates_are_not_one(tmp_path):
    first = wav(tmp_path)
    soundfile.write(tmp_path / "b.wav", SIGNAL.T, 48_000)
    with pytest.raises(AudioError, match="changes its sample rate or channels in the middle"):
        read(written(tmp_path / "a.wav", first + (tmp_path / "b.wav").read_bytes()))
    parts = [
        write_as(tmp_path / "x.mp3", SIGNAL, "libmp3lame", "mp3", "fltp", r).read_bytes() for r in (44_100, 48_000)
    ]
    with pytest.raises(AudioError, match="changes its sample rate or channels in the middle"):
        read(written(tmp_path / "a.mp3", b"".join(parts)))


def test_an_empty_wav_stays_empty_and_nobody_is_told_to_delete_it(tmp_path):
    whole = wav(tmp_path, np.zeros((2, 0), np.float32))
    for name, data in (("a.wav", whole), ("b.wav", whole + LIST)):
        with pytest.raises(EmptyAudioError) as refused:
            read(written(tmp_path / name, data))
        assert "remove" not in str(refused.value)


def test_an_aiff_is_read_to_its_end_whatever_length_it_states(tmp_path):
    whole = make(tmp_path, "aiff", SIGNAL).read_bytes()
    expected, notes = read(written(tmp_path / "a.aiff", whole + chunk(b"ANNO", b"made here", ">")))
    assert notes == []
    short = stating(whole, 8 + STATED * 4, b"SSND", ">")
    at = short.index(b"COMM") + 10
    short = short[:at] + struct.pack(">I", STATED) + short[at + 4 :]
    for name, data in (("b.aiff", short), ("c.aiff", short + chunk(b"ANNO", b"made here", ">"))):
        found, notes = read(written(tmp_path / name, data))
        assert np.array_equal(found, expected)
        assert notes == [f"{name} goes on behind the 0.45 s that its header states; all is read"]


def test_a_wav_of_more_than_4_gib_is_read_to_its_end(tmp_path):
    soundfile.write(tmp_path / "whole.wav", SIGNAL.T, RATE_HZ, format="RF64")
    whole = (tmp_path / "whole.wav").read_bytes()
    at = whole.index(b"ds64") + 16
    found, notes = read(written(tmp_path / "a.wav", whole[:at] + struct.pack("<Q", STATED * 4) + whole[at + 8 :]))
    assert np.array_equal(found, read_audio(AudioSource(tmp_path / "whole.wav"), RATE_HZ))
    assert len(notes) == 1


@pytest.mark.parametrize("before", [b"", ID3V2], ids=["", "id3v2"])
@pytest.mark.parametrize("behind", [b"", ID3V1, APE], ids=["nothing", "id3v1", "ape"])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
def test_a_flac_is_read_to_its_last_frame(tmp_path, subtype, behind, before):
    whole = flac(tmp_path, subtype=subtype)
    expected = read_audio(AudioSource(tmp_path / "whole.flac"), RATE_HZ)
    found, notes = read(written(tmp_path / "a.flac", before + stating_samples(whole, STATED) + behind))
    assert np.array_equal(found, expected)
    assert notes == ["a.flac goes on behind the 0.45 s that its header states; all is read"]
    found, notes = read(written(tmp_path / "b.flac", before + whole + behind))
    assert np.array_equal(found, expected)
    assert notes == []


@pytest.mark.parametrize("other", [SIGNAL, music(60_000, seed=2)], ids=["the same", "another of its length"])
def test_joined_flacs_of_equal_length_are_two(tmp_path, other):
    parts = [flac(tmp_path, signal) for signal in (SIGNAL, other)]
    assert read(written(tmp_path / "a.flac", b"".join(parts)))[0].shape == (2, 120_000)


@pytest.mark.parametrize("cut", [0.3, 0.7, 0.999])
def test_a_flac_that_is_cut_stays_refused(tmp_path, cut):
    whole = flac(tmp_path)
    for name, data in (("a.flac", whole), ("b.flac", whole + flac(tmp_path, OTHER))):
        with pytest.raises(TruncatedAudioError):
            read(written(tmp_path / name, data[: int(cut * len(data))]))


OTHERS = {
    "w64": ("pcm_s16le", "w64", "s16", b"data\xf3\xac\xd3\x11", 16, "<Q", STATED * 4 + 24),
    "caf": ("pcm_s16be", "caf", "s16", b"data", 4, ">q", STATED * 4 + 4),
    "au": ("pcm_s16be", "au", "s16", b".snd", 8, ">I", STATED * 4),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_w64_caf_or_au_file_is_read_to_its_end_and_refused_when_it_is_cut(tmp_path, kind):
    codec, container, sample_format, name, offset, code, stated = OTHERS[kind]
    whole = write_as(tmp_path / f"whole.{kind}", SIGNAL, codec, container, sample_format).read_bytes()
    expected, notes = read(tmp_path / f"whole.{kind}")
    assert np.abs(expected - SIGNAL).max() < 2**-14
    assert notes == []
    at = whole.index(name) + offset
    short = whole[:at] + struct.pack(code, stated) + whole[at + struct.calcsize(code) :]
    found, notes = read(written(tmp_path / f"a.{kind}", short))
    assert np.array_equal(found, expected)
    assert notes == [f"a.{kind} goes on behind the 0.45 s that its header states; all is read"]
    with pytest.raises(TruncatedAudioError):
        read(written(tmp_path / f"b.{kind}", whole[: len(whole) // 2]))


def test_an_mp4_whose_index_goes_on_behind_its_header_is_read_whole(tmp_path):
    whole = make(tmp_path, "m4a", SIGNAL).read_bytes()
    expected, notes = read(written(tmp_path / "a.m4a", whole))
    assert notes == []
    at = whole.index(b"mdhd") + 20
    found, notes = read(written(tmp_path / "b.m4a", whole[:at] + struct.pack(">I", STATED) + whole[at + 4 :]))
    assert expected.shape[1] <= found.shape[1] <= expected.shape[1] + 1024
    assert np.array_equal(found[:, : expected.shape[1]], expected)
    assert notes == ["b.m4a goes on behind the 0.45 s that its header states; all is read"]


def test_an_mp4_that_was_trimmed_by_its_edit_list_stays_so(tmp_path):
    whole = make(tmp_path, "m4a", SIGNAL).read_bytes()
    at = whole.index(b"elst") + 12
    found, notes = read(written(tmp_path / "a.m4a", whole[:at] + struct.pack(">I", 500) + whole[at + 4 :]))
    assert (found.shape[1], notes) == (22_050, [])


def test_joined_mp4s_are_read_one_after_the_other_each_as_it_is_alone(tmp_path):
    parts = [make(tmp_path, "m4a", signal).read_bytes() for signal in (SIGNAL, OTHER)]
    alone = [read_audio(AudioSource(written(tmp_path / "x.m4a", data)), RATE_HZ) for data in parts]
    found, notes = read(written(tmp_path / "a.m4a", b"".join(parts)))
    assert np.array_equal(found, np.concatenate(alone, axis=1))
    assert len(notes) == 1


@pytest.mark.parametrize(
    ("codec", "container", "sample_format"), [("flac", "matroska", "s16"), ("libopus", "webm", "flt")]
)
def test_joined_matroska_files_are_read_whole_and_cut_ones_refused(tmp_path, codec, container, sample_format):
    made = [write_as(tmp_path / f"{k}.mka", signal, codec, container, sample_format, 48_000)
            for k, signal in enumerate((SIGNAL, OTHER))]  # fmt: skip
    alone = [read(path)[0] for path in made]
    whole = made[0].read_bytes()
    found, notes = read(written(tmp_path / "a.mka", whole + made[1].read_bytes()))
    assert np.array_equal(found, np.concatenate(alone, axis=1))
    assert len(notes) == 1
    for share in (0.5, 0.99):
        with pytest.raises(TruncatedAudioError, match=r"b\.mka: truncated"):
            read(written(tmp_path / "b.mka", whole[: int(share * len(whole))]))
